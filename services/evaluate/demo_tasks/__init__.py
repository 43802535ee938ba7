"""Tasks of the demo's kind, as lm-eval reads them: a YAML file each, and `utils.py` for the metric of programs.

In: rows of the demo's problems (`--data`), and a model's responses.
Out: a task's prompts; a response's 1 or 0, by filters, or by its asserts in the sandbox that stands in for code_eval.
Not imported: any service; lm-eval itself loads these files by their path.
"""
