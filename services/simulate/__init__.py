"""How long a step takes on a cluster of any size, before there is one: `rgopd simulate`.

In: a workload (lengths, group size), a cluster's size, costs measured or assumed.
Out: the time and the idle share of every service, event by event; no model is loaded.
Not imported: torch, any service; what it reckons with is in `costs` and `presets`.
"""
