"""Scoring a student whose tokenizer is not the teacher's (`align`; docs/objectives.md, "Different tokenizers").

In: the prompt's chat messages, the response and support at the student's ids. Out: an ordinary `ScoreItem` at the
teacher's ids for any engine, and the way back from its `Score` to the student's positions.
Not imported: engines, the queue, the doors. torch is not needed here; transformers only for its tokenizers.
"""

from rgopd.teacher.alignment.aligner import Aligner
from rgopd.teacher.alignment.choose import make_aligner

__all__ = ["Aligner", "make_aligner"]
