"""The paper's run, the demo's, and overlays for them, as package data: an installed `rgopd` finds its own.

In: nothing but YAML files; docs/runs.md has the list.
Out: files for `--config`, laid over each other from left to right.
Not imported: anything; there is no code here.
"""
