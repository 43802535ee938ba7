"""The paper's tables: lm-evaluation-harness as a library, cells that resume, a second judge, and comparison."""
