"""rgopd from Python: the clients against real services, a run with a reward of one's own, and what a notebook shows."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import rgopd
from rgopd.cli.processes import Child
from rgopd.common.errors import ConfigError, InvalidInput, Unavailable

CHECKPOINTS = files("rgopd.trainer.demo") / "checkpoints"
STUDENT, TEACHER = str(CHECKPOINTS / "student"), str(CHECKPOINTS / "teacher")


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A teacher and a verifier."""
    folder = tmp_path_factory.mktemp("services")
    wanted = {"teacher": [f"model={TEACHER}", "dtype=float32"], "verifier": ["workers=1", "math_workers=1"]}
    children = []
    for name, settings in wanted.items():
        sets = [word for setting in settings for word in ("--set", setting)]
        children.append(Child(name, [sys.executable, "-m", "rgopd.cli.main", name, *sets], folder))
        children[-1].start()
    yield {child.name: child.wait_ready(600) for child in children}
    for child in children:
        child.stop()


def test_importing_it_is_cheap() -> None:
    code = (
        "import sys, rgopd; heavy = {'torch', 'transformers', 'pydantic', 'httpx', 'numpy', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy; rgopd.VerifyClient; assert 'torch' not in sys.modules; assert 'distill' in dir(rgopd)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_verdicts(urls: dict[str, str]) -> None:
    with rgopd.VerifyClient(urls["verifier"]) as verifier:
        right, wrong, unknown = verifier.verify(
            [
                {"id": "a", "kind": "math", "response": "\\boxed{0.5}", "reference": "\\frac{1}{2}"},
                {"kind": "code", "response": "def f(x):\n    return x", "tests": ["assert f(1) == 2"]},
                {"kind": "math", "response": "4", "reference": "\\frac{1"},
            ]
        )
        assert (right.id, right.status, right.reward, bool(right)) == ("a", "passed", 1.0, True)
        assert (wrong.id, wrong.status, wrong.reward, bool(wrong)) == ("1", "failed", 0.0, False)
        assert wrong.tests[0].status == "failed"
        assert (unknown.status, unknown.reward) == ("error", None)
        with pytest.raises(InvalidInput, match="did you mean 'math'"):
            verifier.verify_one("maths", "4", reference="4")

    async def many() -> list[rgopd.Verdict]:
        async with rgopd.VerifyClient(urls["verifier"]) as verifier:
            asked = (verifier.averify_one("math", f"\\boxed{{{n}}}", reference="3") for n in range(6))
            return list(await asyncio.gather(*asked))

    assert [bool(verdict) for verdict in asyncio.run(many())] == [n == 3 for n in range(6)]
    with pytest.raises(Unavailable, match="did not answer within"):
        rgopd.VerifyClient("http://127.0.0.1:9", timeout_s=0.3).verify_one("math", "4", reference="4")


def test_scores(urls: dict[str, str]) -> None:
    rollout = rgopd.Rollout([3, 14, 15], [9, 2], [[9, 8, 7], [2, 1, 0]])
    with rgopd.ScoreClient(urls["teacher"]) as teacher:
        [score] = teacher.score([rollout])
        assert score.topk_ids_TK is not None
        assert score.topk_logprobs_TK is not None
        assert score.tail_logprob_T is not None
        assert score.topk_ids_TK.tolist() == [[9, 8, 7], [2, 1, 0]]
        assert np.allclose(score.sampled_logprobs_T, score.topk_logprobs_TK[:, 0])
        mass = np.exp(score.topk_logprobs_TK).sum(-1) + np.exp(score.tail_logprob_T)
        assert np.allclose(mass, 1, atol=1e-5)
        [own] = teacher.score([rollout], k=4, support="teacher")
        assert own.topk_ids_TK is not None
        assert own.topk_ids_TK.shape == (2, 4)
        [alone] = asyncio.run(teacher.ascore([rollout], support="none"))
        assert alone.topk_logprobs_TK is None
        assert np.allclose(alone.sampled_logprobs_T, score.sampled_logprobs_T, atol=1e-5)
        with pytest.raises(InvalidInput, match="support student needs support_ids"):
            teacher.score([rgopd.Rollout([1], [2])])
        with pytest.raises(InvalidInput, match="use student, teacher or none"):
            teacher.score([rollout], support="mine")


def shorter(response: str, limit: int) -> float:
    """A reward of one's own: json is taken along, `limit` is a column."""
    return float(len(json.dumps(response)) < limit)


def test_a_run_with_a_reward_function(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+1=", "limit": 12 if n % 2 else 6} for n in range(16)]
    sampling = {"prompts_per_step": 4, "n": 4, "max_new_tokens": 8}
    run = rgopd.distill(
        STUDENT, TEACHER, rows, reward=shorter, steps=2, sampling=sampling, optim__lr=1e-3, distillation=8,
        output_dir=tmp_path / "run", verifier={"workers": 1}, up={"watch": False}, gate="off",
    )  # fmt: skip
    assert run.status in ("starting", "running")
    seen = [row["step"] for row in run.metrics() if row["event"] == "step"]
    assert seen == [0, 1]
    assert run.wait(600).status == "finished"
    assert (run.student / "model.safetensors").exists()
    [first, _] = [row for row in run.metrics(follow=False) if row["event"] == "step"]
    assert first["verdicts"]["error"] == 0
    assert first["verdicts"]["passed"] + first["verdicts"]["failed"] == 16
    shown = run._repr_html_()
    assert "finished, 2 steps, loss" in shown
    assert "data:image/png;base64," in shown
    assert "finished" in repr(run)
    assert run.report().exists()


def test_what_cannot_work_is_told_before_anything_starts(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1=", "kind": "math", "reference": "2"}]

    def using(helper: object) -> object:
        return lambda response: helper

    for given, message in (
        ({"stepz": 3}, "unknown setting 'stepz'.*train.steps"),
        ({"dtype": "bf16"}, "unknown setting 'dtype'.*train.dtype"),
        ({"objective": "rlda"}, "did you mean 'rlad'"),
        ({"reward": lambda response: 1.0}, "made with def"),
        ({"reward": print}, "source"),
        ({"verifier": 3}, "a section takes a mapping"),
        ({"optim": {"lr": object()}}, "cannot be a setting"),
    ):
        with pytest.raises(ConfigError, match=message):
            rgopd.distill(STUDENT, TEACHER, rows, output_dir=tmp_path / "run", **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="row 0 lacks the column 'limit', which the reward function asks for"):
        rgopd.distill(STUDENT, TEACHER, rows, reward=shorter, output_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "logs").exists()


def test_a_run_that_fails_and_one_that_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="row 0: unknown kind 'maths'; did you mean 'math'"):
        rgopd.distill(
            STUDENT, TEACHER, [{"prompt": "1+1=", "kind": "maths", "reference": "2"}], output_dir=tmp_path / "a"
        )
    assert not (tmp_path / "a" / "run.yaml").exists(), "nothing was started"
    rows = [{"prompt": f"{n}+1=", "kind": "math", "reference": str(n + 1)} for n in range(8)]
    sampling = {"prompts_per_step": 2, "n": 2, "max_new_tokens": 8}
    long = rgopd.distill(
        STUDENT, TEACHER, rows, steps=1000, sampling=sampling, distillation=8, output_dir=tmp_path / "b", samplers=1
    )
    next(row for row in long.metrics() if row["event"] == "step")
    long.stop()
    assert (long.status, long.running) == ("stopped", False)
