"""The demo's task, its two tiny models, and `simulate.py`: the whole algorithm in one file and one process.

In: a seed.
Out: problems with checks, the committed checkpoints (`make_checkpoints`), a printed run of `simulate`.
Not imported by the services: the demo is a user of the package like any other. `rgopd demo` runs the real ones.
"""
