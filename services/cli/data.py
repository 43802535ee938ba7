"""`rgopd data`: a published dataset's rows -> checkable prompts, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.console import Console

from rgopd.common.errors import ConfigError
from rgopd.trainer.prompts.datasets import Options, get_converter
from rgopd.trainer.prompts.datasets.base import Judge, Tally
from rgopd.trainer.prompts.datasets.exclude import read_excluded
from rgopd.trainer.prompts.datasets.source import open_rows
from rgopd.trainer.prompts.datasets.write import clean, write, write_report

if TYPE_CHECKING:
    from rgopd.verifier.graders.base import Tools
    from rgopd.verifier.sandbox.pool import SandboxPool


def run_data(
    layout: str,
    source: str,
    output: Path,
    *,
    split: str = "train",
    subset: str = "",
    revision: str = "",
    limit: int = 0,
    heldout: int = 0,
    heldout_output: Path | None = None,
    seed: int = 0,
    check: bool = True,
    code_examples: bool = False,
    functions: bool = False,
    max_tests: int = 32,
    exclude: Sequence[str] = (),
) -> int:
    """The command; returns an exit code."""
    aside = heldout_output or output.with_name(f"{output.stem}-heldout{output.suffix}")
    tally = Tally()
    excluded = read_excluded(exclude) if exclude else None
    with symbolic_judge() if check else literal_judge() as judge:
        converter = get_converter(layout, Options(judge, code_examples, functions, max_tests))
        rows = converter.convert(open_rows(source, split=split, subset=subset, revision=revision), tally)
        rows = clean(rows, tally, judge if check else None, excluded)
        written, held = write(rows, tally, output, limit=limit, heldout=heldout, heldout_output=aside, seed=seed)
    about = {"dataset": source, "layout": layout, "split": split, "revision": revision, "seed": seed, "checked": check}
    write_report(output, tally, **about, excluded=list(exclude))
    _say(tally, written, held, output, aside)
    return 0


@contextmanager
def literal_judge() -> Iterator[Judge]:
    """Answers are equal when they are written alike."""
    yield lambda answer, reference: "".join(answer.split()) == "".join(reference.split())


@contextmanager
def symbolic_judge() -> Iterator[Judge]:
    """The verifier's own judgement, so that "equal" means "would earn the reward".

    Raises:
        ConfigError: math-verify is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("math_verify") is None:
        raise ConfigError("comparing answers needs math-verify: pip install 'rgopd[verifier]', or pass --no-check")
    from rgopd.verifier.graders.math import MathGrader, MathSpec
    from rgopd.verifier.verdict import Status

    with _math_tools() as tools:
        grader = MathGrader()

        def judge(answer: str, reference: str) -> bool:
            verdict = grader.grade(f"\\boxed{{{answer}}}", MathSpec(reference=reference), tools)
            return verdict.status is Status.passed  # `error` too: it would be one in every rollout

        if not judge("0.5", "\\frac{1}{2}"):
            raise ConfigError("the verifier does not find 0.5 equal to 1/2: run `rgopd doctor`, or pass --no-check")
        yield judge


@contextmanager
def _math_tools() -> Iterator[Tools]:
    """What the math grader uses: symbolic workers, no sandbox."""
    from rgopd.verifier.config import VerifierConfig
    from rgopd.verifier.graders.base import Tools
    from rgopd.verifier.symbolic.pool import SymbolicPool

    limits, pool = VerifierConfig(), SymbolicPool(1)
    try:
        nothing = cast("SandboxPool", None)
        yield Tools(nothing, pool, limits.default_limits(), limits.maximum_limits())
    finally:
        pool.close()


def _say(tally: Tally, written: int, held: int, output: Path, aside: Path) -> None:
    console = Console()
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(tally.taken.items()) if n)
    also = f", {held} held out in {aside}" if held else ""
    say = f"{tally.read} rows read; {written} prompts written to {output}{also} ({kinds})"
    console.print(say, highlight=False, markup=False, soft_wrap=True)
    for title, counts in (("left out", tally.left_out), ("note", tally.notes)):
        for reason, count in counts.most_common():
            console.print(f"{title}: {count:>7}  {reason}", highlight=False, markup=False, soft_wrap=True)
