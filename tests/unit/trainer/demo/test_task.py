from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgopd.trainer.demo import make_checkpoints, rollout, simulate, task
from rgopd.trainer.demo.tokenizer import build_tokenizer
from rgopd.trainer.gating.gate import PresetName, decide_gate, gate_preset

CHECKPOINTS = Path(simulate.CHECKPOINTS)
ALL = [p for split in ("train", "eval") for pool in task.problems(split).values() for p in pool]


def code_answer(prompt: str, args: list[int]) -> int:
    """The code kind's answer from the words alone, written apart from the generator."""
    x, y = prompt[2], prompt[4]
    words = prompt.split(": ")[1]
    value = dict(zip((x, y), args, strict=True))
    k = int(re.findall(r"\d", words)[0])
    if words == f"take {k}{x} from {y}":
        return value[y] - k * value[x]
    if words == f"{k} times the sum":
        return k * sum(args)
    if words == f"{k}{x} over {y}, floored":
        return (k * value[x]) // value[y]
    assert words == f"gap of {x} and {k}{y}"
    return max(value[x], k * value[y]) - min(value[x], k * value[y])


def test_generator_is_deterministic_and_json() -> None:
    first = task.generate(3, 130, "train")
    assert first == task.generate(3, 130, "train")
    assert first != task.generate(4, 130, "train")
    assert [json.loads(json.dumps(row)) for row in first] == first
    assert set(Counter(row["domain"] for row in first).values()) == {10}


def test_train_and_eval_share_no_prompt() -> None:
    train, held_out = ({p.prompt for pool in task.problems(s).values() for p in pool} for s in ("train", "eval"))
    assert not train & held_out
    assert len(train) + len(held_out) == len(ALL)
    rows = task.generate(0, 500, "eval")
    assert len({row["prompt"] for row in rows}) == 500
    assert {row["prompt"] for row in rows} <= held_out


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="split must be"):
        task.problems("test")
    with pytest.raises(ValueError, match="n must be"):
        task.generate(0, -1, "train")


def test_every_reference_is_right() -> None:
    for problem in ALL:
        if problem.kind == "math":
            truth = eval(problem.prompt.replace("^", "**"))  # digits and operators of our own making
            assert int(problem.answer["reference"]) == truth, problem
        else:
            for case in problem.answer["tests"]:
                assert case["expected"] == code_answer(problem.prompt, case["args"]), problem


def test_right_solutions_pass_and_slips_fail() -> None:
    for problem in ALL:
        row = {"kind": problem.kind, **problem.answer}
        assert rollout.is_right(row, problem.right), problem
        hasty = problem.domain == "A/hasty"  # its slip is to answer outright: the right number, without the steps
        assert rollout.is_right(row, problem.slip) == hasty, problem
        assert len(problem.prompt) <= 28
        assert len(problem.right) <= 47


@pytest.mark.parametrize("response", ["", "def f(x", "\\boxed{}", "def f(x, y):\n    return x(y)", "f" * 500])
def test_nonsense_is_wrong_not_an_exception(response: str) -> None:
    for row in task.generate(0, 13, "eval"):
        assert not rollout.is_right(row, response)


TOKENIZER = build_tokenizer()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n"), max_size=60))
def test_tokenizer_round_trip(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


def test_chat_template() -> None:
    messages = [{"role": "user", "content": "1+2"}, {"role": "assistant", "content": "3"}]
    text = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert text == "<|bos|><|user|>1+2<|assistant|>3<|end|>"
    ids = rollout.encode_prompt(TOKENIZER, "1+2")
    assert TOKENIZER.convert_ids_to_tokens(ids) == ["<|bos|>", "<|user|>", "1", "+", "2", "<|assistant|>"]


def test_sampling_with_cache_equals_plain_forward() -> None:
    """Left padding and the cache must not change the distribution: greedy ids equal a plain greedy loop's."""
    model = make_checkpoints.new_model(make_checkpoints.RECIPES["student"], TOKENIZER).eval()
    prompts = [rollout.encode_prompt(TOKENIZER, text) for text in ("1+2", "f(a,b): 2 times the sum", "9")]
    batched = rollout.sample(model, prompts, TOKENIZER.eos_token_id, max_new_tokens=6, temperature=0.0)
    for prompt, response in zip(prompts, batched, strict=True):
        ids = list(prompt)
        for token in response:
            assert model(torch.tensor([ids])).logits[0, -1].argmax().item() == token
            ids.append(token)


@pytest.fixture(scope="module", params=["teacher", "student"])
def checkpoint(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    folder = CHECKPOINTS / request.param
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return request.param, model, AutoTokenizer.from_pretrained(folder)


def test_checkpoints_are_small() -> None:
    size = sum(f.stat().st_size for role in ("teacher", "student") for f in (CHECKPOINTS / role).rglob("*"))
    assert size <= 6_000_000


def test_checkpoint_accuracy_is_as_documented(checkpoint: tuple[str, Any, Any]) -> None:
    """The two failure modes in miniature: the teacher is right in A and wrong in B, the student the reverse."""
    role, model, tokenizer = checkpoint
    scores = rollout.accuracy(model, tokenizer, task.generate(0, 65, "eval"))
    expected = {"teacher": {"A": (0.9, 1.0), "B": (0.0, 0.4)}, "student": {"A": (0.25, 0.65), "B": (0.7, 1.0)}}
    for part, (low, high) in expected[role].items():
        assert low <= scores[part] <= high, (part, scores)


def test_saved_tokenizer_equals_the_built_one(checkpoint: tuple[str, Any, Any]) -> None:
    _, model, tokenizer = checkpoint
    text = "def f(a, b):\n    return  2*a  + b\n\\boxed{-3}"
    assert tokenizer.encode(text) == TOKENIZER.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.chat_template == TOKENIZER.chat_template
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("preset", ["paper", "released", "off"])
def test_simulator_gates_as_the_trainer_does(preset: PresetName) -> None:
    """The one-file loop and the distributed system must not drift apart in what they keep."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([1, 7, 4, 7, 3, 6, 2, 5])
    mask_BT = (torch.arange(7)[None] < lengths[:, None]).float()
    teacher_BT, student_BT = -torch.rand(2, 8, 7, generator=generator)
    advantage_B = torch.tensor([0.0, 0.0, 1.2, -1.2, 0.5, -0.5, 1.0, -1.0])
    kept_BT = simulate.gate(preset, advantage_B, teacher_BT, student_BT, mask_BT)
    flat = mask_BT.bool()
    rollout_N = torch.arange(8).repeat_interleave(lengths)
    decision = decide_gate(gate_preset(preset), advantage_B, advantage_B, teacher_BT[flat], student_BT[flat], rollout_N)
    assert kept_BT[flat].bool().tolist() == decision.keep_N.tolist()
    assert not kept_BT[~flat].any()
    assert preset == "off" or 0 < kept_BT.sum() < mask_BT.sum()


def test_simulator_kl_is_zero_for_equal_models_and_exact_over_the_whole_vocabulary() -> None:
    student, teacher = torch.randn(
        2, 3, 5, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).log_softmax(-1)
    exact = (student.exp() * (student - teacher)).sum(-1)
    torch.testing.assert_close(simulate.topk_reverse_kl(student, teacher, 10), exact)
    assert (simulate.topk_reverse_kl(student, teacher, 3) <= exact + 1e-12).all()
    assert simulate.topk_reverse_kl(student, student, 4).abs().max() < 1e-12
