"""Final answers out of worked solutions, and whether such an answer can serve as a reference."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rgopd.trainer.prompts.datasets.base import Judge, LeftOut

MAX_ANSWER_CHARS = 200
_COMMENTARY = re.compile(r"//|\n\s*\n|\b(because|therefore|however|incorrect\w*|assum\w+|wrong\w*)\b", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


def last_boxed(solution: str) -> str | None:
    r"""The contents of the last `\boxed{...}` whose braces balance; None where there is none."""
    for found in reversed(list(_BOX.finditer(solution))):
        depth, escaped = 1, False
        for index in range(found.end(), len(solution)):
            char = solution[index]
            depth += (char == "{") - (char == "}") if not escaped else 0
            escaped = char == "\\" and not escaped
            if depth == 0:
                return solution[found.end() : index].strip()
    return None


def usable(answer: str) -> str:
    """The answer itself.

    Raises:
        LeftOut: empty, too long to be an answer, or with a model's commentary in it.
    """
    if not answer.strip():
        raise LeftOut("empty answer")
    if len(answer) > MAX_ANSWER_CHARS:
        raise LeftOut(f"answer longer than {MAX_ANSWER_CHARS} characters: a derivation, not an answer")
    if _COMMENTARY.search(answer):
        raise LeftOut("commentary inside the answer")
    return answer.strip()


def agreed(answers: Sequence[str], judge: Judge) -> str:
    """The answer that all solutions of a problem agree on, in its most frequent (then shortest) spelling.

    Raises:
        LeftOut: two of them are not equal to the judge, in one direction or the other.
    """
    counts = Counter(answers)
    first, *others = sorted(counts, key=lambda a: (-counts[a], len(a), a))
    for other in others:
        if not (judge(other, first) and judge(first, other)):
            raise LeftOut("the dataset's own solutions of this problem disagree")
    return first
