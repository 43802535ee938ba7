"""The verifier: responses with what they are checked against enter, over HTTP or the stream `verify`; verdicts leave:
passed, failed, or error, which is never a reward.
From the street inwards: `app` and `worker` (the two doors), `engine` (lanes, cache), `graders` (one file a kind),
`code` and `symbolic` (how programs and mathematics are judged), `sandbox` (where hostile code runs).
No arrow back up; nothing here imports another service, torch or transformers."""
