"""Prompts: files in, checkable questions out; and converters of published datasets.

In: JSONL, Parquet or a `datasets` folder; for `rgopd data` the rows of UltraInteract, GSM8K, MATH, MBPP, Eurus.
Out: `Prompt` messages with token ids, a kind and a check, in an order that seed and step decide.
Not imported: the rest of the trainer. References are judged by a callable that the command line brings.
"""
