"""Everything about code items that is not the sandbox: extraction, test plans, comparison."""
