"""Tasks of the demo's kind, as lm-eval reads them: YAML and its metric."""
