"""The teacher: exact log-probs of a large model at the student's ids, `POST /score_topk` or the stream `score`.

In: `ScoreRequest` (prompt, response and support ids) as JSON or protobuf; `ScoreJob` from the stream.
Out: `TeacherScore`: log-probs of the sampled and the supported tokens in nats, and the tail.
Not imported: another service. Layers: main > app, worker > batching > cache, codec > engines > items.
"""
