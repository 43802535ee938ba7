"""Everything about code items that is not the sandbox.
Enters: a response and a `CodeSpec` (`spec`). Leaves: a verdict with an outcome a test.
`extract` finds the program, `asserts`, `calls` and `stdio` are the ways of testing, `plans` takes asserts apart,
`compare` compares, `outcome` puts ends of processes into words.
May import `sandbox` and `tools`, never `graders` or `engine`; runs no program itself."""
