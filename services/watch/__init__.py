"""The live page of runs, `rgopd watch`: how a run stands, its curves, its rollouts token by token, its faults.

In: run folders (through `rgopd.common.run_files`) and, where it answers, the run's Redis; requests of browsers.
Out: JSON, server-sent events and the page's own files (`page/`); a run exported as one HTML file. Nothing is written to
a run, so it may be finished, mounted from elsewhere, or in the middle of a step.
Imports no other service, no torch and no transformers.
"""
