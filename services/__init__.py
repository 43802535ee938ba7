"""The package `rgopd`: a link to this folder, whose paths the documents use (docs/decisions/006-one-name.md).

In: nothing; importing `rgopd` imports no service.
Out: `rgopd.cli`, the four services, `rgopd.simulate`, and what they share: `rgopd.common`, `rgopd.protos`,
`rgopd.configs`.
Not imported here: anything. The layers are in pyproject.toml, `make lint` holds them.
"""
