"""The process: put together in `compose`, run by `Trainer` in `trainer`, rank 0's part in `lead`.

In: a `TrainConfig`, torchrun's environment, Redis.
Out: policies (`publish`), checkpoints, the student, an exit code; `estimate` and `export` serve the command line.
The top of the trainer: it may import every folder beside it, none of them imports it.
"""
