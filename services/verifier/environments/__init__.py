"""What answers a conversation's turns. Enters: an `Episode`, all of it that was said so far. Leaves: an `Observation`.
`python` plays it again in the sandbox, `server` asks over HTTP, `feedback` judges it by the task's own check; `service`
chooses among them for both doors. No state is kept here between two turns, so whoever lives answers the next one.
Not imported by: the engine and the graders. Environment code never runs in this process."""
