"""The paper's tables: lm-evaluation-harness as a library, cells that resume, a second judge, and comparison.

In: models (a folder, a hub id, a run), suites by name, seeds; for `compare` the cells that were written.
Out: one cell a model and suite, tables with ranks and paired bootstrap, curves of runs.
Not imported: the command line. Above the services: it asks the verifier's engine in this process, and reads runs' rows.
"""
