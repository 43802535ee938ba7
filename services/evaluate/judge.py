"""The verifier as second judge: the same responses beside lm-eval's filters, and where the two disagree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rgopd.evaluate.suites import JudgeKind
from rgopd.verifier.engine import VerifierEngine
from rgopd.verifier.schemas import Item

Fields = dict[str, Any]
BATCH = 512


def _gsm(doc: Mapping[str, Any], target: Any) -> Fields:
    # GSM8K's answer ends in "#### 1,234"; GSM-Plus has it alone, and "None" where a question cannot be answered
    return {"reference": str(doc["answer"]).rpartition("####")[2].strip().replace(",", "")}


def _math(doc: Mapping[str, Any], target: Any) -> Fields:
    return {"reference": str(doc["answer"])}


def _choice(doc: Mapping[str, Any], target: Any) -> Fields:
    return {"reference": str(target).strip()}


def _code(doc: Mapping[str, Any], target: Any) -> Fields:
    setup = str(doc.get("test_setup_code") or "")
    return {"tests": [str(t) for t in doc["test_list"]], "setup": setup}


_COMPARED = {"at least": "at_least", "less than": "at_most"}


def _count(name: str, key: str) -> Callable[[Mapping[str, Any]], Fields | None]:
    """A counted instruction; IFEval's "less than n" is at most n - 1."""

    def build(given: Mapping[str, Any]) -> Fields | None:
        side = _COMPARED.get(str(given.get("relation") or "at least"))
        number = given.get(key)
        if side is None or number is None:
            return None
        return {"name": name, side: int(number) - (side == "at_most")}

    return build


def _bound(name: str, key: str, given: Mapping[str, Any], *sides: str) -> Fields:
    return {"name": name, **dict.fromkeys(sides, int(given[key]))}


def _at_least(name: str, key: str) -> Callable[[Mapping[str, Any]], Fields | None]:
    return lambda given: _bound(name, key, given, "at_least")


_IFEVAL: dict[str, Callable[[Mapping[str, Any]], Fields | None]] = {
    "keywords:existence": lambda g: {"name": "keywords", "texts": list(g["keywords"])},
    "keywords:forbidden_words": lambda g: {"name": "forbidden", "texts": list(g["forbidden_words"])},
    "length_constraints:number_words": _count("words", "num_words"),
    "length_constraints:number_sentences": _count("sentences", "num_sentences"),
    "detectable_content:number_placeholders": _at_least("placeholders", "num_placeholders"),
    "detectable_content:postscript": lambda g: {"name": "postscript", "text": str(g["postscript_marker"])},
    "detectable_format:number_highlighted_sections": _at_least("highlights", "num_highlights"),
    "detectable_format:number_bullet_lists": lambda g: _bound("bullets", "num_bullets", g, "at_least", "at_most"),
    "detectable_format:json_format": lambda g: {"name": "json"},
    "detectable_format:title": lambda g: {"name": "title"},
    "combination:two_responses": lambda g: {"name": "two_responses"},
    "startend:end_checker": lambda g: {"name": "ends_with", "text": str(g["end_phrase"])},
    "startend:quotation": lambda g: {"name": "quoted"},
    "change_case:english_capital": lambda g: {"name": "uppercase"},
    "change_case:english_lowercase": lambda g: {"name": "lowercase"},
    "punctuation:no_comma": lambda g: {"name": "no_commas"},
}  # fmt: skip


def _constraints(doc: Mapping[str, Any], target: Any) -> Fields | None:
    """None where an instruction has no counterpart among the verifier's constraints."""
    built = []
    for name, given in zip(doc["instruction_id_list"], doc["kwargs"], strict=True):
        made = _IFEVAL[name](given) if name in _IFEVAL else None
        if made is None:
            return None
        built.append(made)
    return {"constraints": built, "partial": True}


_READERS: dict[JudgeKind, tuple[str, Callable[[Mapping[str, Any], Any], Fields | None]]] = {
    "gsm": ("math", _gsm),
    "math": ("math", _math),
    "choice": ("choice", _choice),
    "code": ("code", _code),
    "constraints": ("constraints", _constraints),
}


class Judge:
    """Grades what lm-eval logged. Its verdicts are told beside lm-eval's and never change the score."""

    def __init__(self, engine: VerifierEngine) -> None:
        self.engine = engine

    def verdicts(self, kind: JudgeKind, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
        """One a sample: {status, reward, reason, extracted}; None where the verifier has no such grader."""
        if not kind:
            return [None] * len(samples)
        grader, reader = _READERS[kind]
        items: dict[int, Item] = {}
        for index, sample in enumerate(samples):
            fields = reader(sample["doc"], sample["target"])
            if fields is not None:
                items[index] = Item(str(index), grader, sample["response"], fields)
        found: list[dict[str, Any] | None] = [None] * len(samples)
        places = list(items)
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            for place, verdict in zip(part, self.engine.check([items[i] for i in part]), strict=True):
                found[place] = {"status": str(verdict.status), "reward": verdict.reward,
                                "reason": verdict.reason, "extracted": verdict.extracted}  # fmt: skip
        return found


def disagrees(points: float, weight: float, verdict: Mapping[str, Any] | None) -> bool:
    """Does the verifier's reward differ from lm-eval's share? An `error` is no opinion."""
    if verdict is None or verdict["reward"] is None or not weight:
        return False
    return bool(abs(float(verdict["reward"]) - points / weight) > 1e-9)
