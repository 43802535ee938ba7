"""The live page of runs: `rgopd watch`. It reads run folders and Redis, and writes to neither."""
