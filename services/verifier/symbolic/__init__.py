"""math-verify in processes that can be killed."""
