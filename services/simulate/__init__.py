"""How long a step takes on a cluster of any size, before there is one: `rgopd simulate`."""
