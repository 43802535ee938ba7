"""The benchmarks of the paper, pinned: task names, few-shot counts, filters, metrics and chat templates in one place.

Checked on lm-eval 0.4.13. The paper names benchmarks, temperature 0.6, three seeds and two lengths; everything else
here is a choice, and docs/decisions/130 says which the printed digits support and which nothing decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rgopd.common.errors import ConfigError
from rgopd.common.settings import nearest
from rgopd.evaluate.scores import Mode

LM_EVAL = "0.4.13"
"""The version that the pins below were checked on; `[eval]` asks for exactly this one."""

JudgeKind = Literal["", "gsm", "math", "choice", "code", "constraints"]


@dataclass(frozen=True)
class Pin:
    """A benchmark as it is asked.

    Attributes:
        label: its column in the paper's tables.
        task: lm-eval's name of a task, group or tag.
        folder: below lm_eval/tasks, or after "rgopd:" below this one; empty: all of lm-eval's are looked through.
        metric, filter: which of lm-eval's numbers is the column's.
        num_fewshot: None: the task's own.
        chat: ask through the model's chat template.
        judge: how the verifier reads the same responses; empty: it has no such grader.
        overrides: laid over the task's YAML, for every task of a group.
    """

    label: str
    task: str
    folder: str = ""
    metric: str = ""
    filter: str = ""
    mode: Mode = "generate"
    num_fewshot: int | None = None
    chat: bool = True
    judge: JudgeKind = ""
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)


def _letters(text: str, target: str) -> dict[str, Any]:
    """A likelihood task asked by generation: reason, then 'the answer is (X)', as lm-eval's own MMLU-Pro asks."""
    ask = '\nThink step by step and then finish your answer with "the answer is (X)" where X is the right letter.'
    return _extracted({"doc_to_text": text + ask, "doc_to_target": target}, "A-J")


def _extracted(fields: dict[str, Any], characters: str) -> dict[str, Any]:
    regex = {"function": "regex", "regex_pattern": rf"answer is:? \(?([{characters}])\)?", "group_select": -1}
    return {
        "output_type": "generate_until",
        "doc_to_choice": None,
        "generation_kwargs": {"until": ["Question:"], "do_sample": False},
        "filter_list": [{"name": "get-answer", "filter": [regex, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **fields,
    }


_SCIQ = "[distractor1, distractor2, distractor3, correct_answer]|sort"  # in the file the right one is always last
_SCIQ_TEXT = (
    "{{support.lstrip()}}\nQuestion: {{question}}\n"
    "{% for option in OPTIONS %}{{'ABCD'[loop.index0]}}. {{option}}\n{% endfor %}"
).replace("OPTIONS", _SCIQ)
_MMLU_TEXT = (
    "Question: {{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}"
)
_MUSR = (
    'Think step by step and then finish your answer with "the answer is (N)" where N is the number of the right '
    "choice.\n\n"
)
_MATH: dict[str, Any] = {
    "doc_to_text": "{{problem}}\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "generation_kwargs": {"until": [], "do_sample": False},
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("math_verify", "exact_match")
    ],
}

GSM8K = Pin("GSM8K", "gsm8k", "gsm8k", "exact_match", "flexible-extract", num_fewshot=5, judge="gsm")
GSM_PLUS = Pin("GSM+", "gsm_plus", "gsm_plus", "exact_match", "flexible-extract", num_fewshot=5, judge="gsm")
MATH = Pin(
    "MATH", "hendrycks_math", "hendrycks_math", "math_verify", "none", num_fewshot=0, judge="math", overrides=_MATH
)
MMLU_PRO = Pin("MPMath", "mmlu_pro_math", "mmlu_pro", "exact_match", "custom-extract", num_fewshot=5, judge="choice")
MBPP = Pin("MBPP", "mbpp_instruct", "mbpp", "pass_at_1", "extract_code", num_fewshot=3, judge="code")
IFEVAL = Pin("IFEval", "ifeval", "ifeval", "inst_level_strict_acc", "none", num_fewshot=0, judge="constraints")

SCIQ_GEN = Pin(
    "SciQ", "sciq", "sciq", "exact_match", "get-answer", num_fewshot=0, judge="choice",
    overrides=_letters(_SCIQ_TEXT, "{{'ABCD'[(" + _SCIQ + ").index(correct_answer)]}}"),
)  # fmt: skip
MMLU_STEM_GEN = Pin(
    "MSTEM", "mmlu_stem", "mmlu/default", "exact_match", "get-answer", num_fewshot=0, judge="choice",
    overrides=_letters(_MMLU_TEXT, "{{'ABCD'[answer]}}"),
)  # fmt: skip
MUSR_GEN = Pin(
    "MuSR", "leaderboard_musr", "leaderboard/musr", "exact_match", "get-answer", num_fewshot=0,
    overrides=_extracted({"description": _MUSR, "doc_to_target": "{{answer_index + 1}}"}, "1-9"),
)  # fmt: skip
BBH_GEN = Pin("BBH", "bbh_cot_fewshot", "bbh/cot_fewshot", "exact_match", "get-answer", num_fewshot=3)

SCIQ = Pin("SciQ", "sciq", "sciq", "acc", "none", "likelihood", num_fewshot=0, chat=False)
MMLU_STEM = Pin("MSTEM", "mmlu_stem", "mmlu/default", "acc", "none", "likelihood", num_fewshot=0, chat=False)
MUSR = Pin("MuSR", "leaderboard_musr", "leaderboard/musr", "acc_norm", "none", "likelihood", num_fewshot=0, chat=False)
BBH = Pin("BBH", "leaderboard_bbh", "leaderboard/bbh_mc", "acc_norm", "none", "likelihood", num_fewshot=3, chat=False)


def _demo(label: str, task: str, *, code: bool) -> Pin:
    scored = ("pass_at_1", "program") if code else ("exact_match", "boxed")
    return Pin(label, task, DEMO_TASKS, *scored, num_fewshot=0, judge="code" if code else "math")


DEMO_TASKS = "rgopd:demo_tasks"
DEMO = (
    _demo("A math", "demo_math_a", code=False),
    _demo("A code", "demo_code_a", code=True),
    _demo("B math", "demo_math_b", code=False),
    _demo("B code", "demo_code_b", code=True),
)
"""The demo's held-out problems by domain: in A the teacher is right, in B it is wrong (decision 010)."""


@dataclass(frozen=True)
class Suite:
    """What `--suite` names: benchmarks, lengths, temperature (None: the tasks' own), seeds, documents a task."""

    pins: tuple[Pin, ...]
    lengths: tuple[int | None, ...] = (None,)
    temperature: float | None = None
    seeds: int = 1
    limit: int | None = None


TABLE_1 = (GSM8K, GSM_PLUS, MATH, MMLU_PRO, MBPP, IFEVAL)
TABLE_3 = (SCIQ_GEN, MMLU_STEM_GEN, MUSR_GEN, BBH_GEN)
LIKELIHOOD = (SCIQ, MMLU_STEM, MUSR, BBH)

SUITES = {
    "paper": Suite(TABLE_1, (1024, 8096), 0.6, 3),
    "paper-generative": Suite(TABLE_1 + TABLE_3, (1024, 8096), 0.6, 3),
    "paper-likelihood": Suite(LIKELIHOOD),
    "demo": Suite(DEMO, (64,), 0.6, 3),
    "quick": Suite((GSM8K, MBPP, IFEVAL, SCIQ), (512,), 0.0, 1, 50),
}

_ALL = (*LIKELIHOOD, *TABLE_3, *TABLE_1, *DEMO)
PINS = {pin.task: pin for pin in (*TABLE_3, *LIKELIHOOD, *TABLE_1, *DEMO)}
"""By lm-eval's name; asked as lm-eval asks it, so by likelihood where Table 3 asks in both ways."""

DOCUMENTS = {"GSM8K": 1319, "GSM+": 10_552, "MATH": 5000, "MPMath": 1351, "MBPP": 500, "IFEval": 541, "SciQ": 1000,
             "MSTEM": 3153, "MuSR": 756, "BBH": 6511}  # fmt: skip
"""Rows of the public test sets, for estimates before anything is loaded."""


def named(suite: str, known: Mapping[str, Any] | None = None) -> Suite:
    """A suite by its name, or one of comma-separated task names; a pinned one is asked as it is pinned.

    Args:
        known: every name of lm-eval's, to tell a typing error from a task; None: do not check.

    Raises:
        ConfigError: a name that is neither; the text has the nearest one.
    """
    if suite in SUITES:
        return SUITES[suite]
    by_label = {pin.label.lower(): pin for pin in _ALL}
    pins = []
    for name in filter(None, (word.strip() for word in suite.split(","))):
        pin = PINS.get(name) or by_label.get(name.lower())
        if pin is None and known is not None and name not in known:
            raise ConfigError(f"--suite: no suite and no task of lm-eval is called {name!r}{_near(name, known)}")
        pins.append(pin or Pin(name, name, chat=False))
    if not pins:
        raise ConfigError(f"--suite is empty; use {', '.join(SUITES)}, or names of lm-eval's tasks")
    return Suite(tuple(pins))


def _near(name: str, known: Mapping[str, Any]) -> str:
    hint = nearest(name, [*SUITES, *known])
    return (
        hint if "did you mean" in hint else f"; suites are {', '.join(SUITES)}, tasks are listed by `lm-eval ls tasks`"
    )
