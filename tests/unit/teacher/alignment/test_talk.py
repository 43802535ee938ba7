"""Conversations across tokenizers: each turn as a response, the teacher's words between, and no value of those."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgopd.common import wire
from rgopd.common.between import Between
from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.protos import environment_pb2, rollout_pb2
from rgopd.teacher.alignment.aligner import student_view
from rgopd.teacher.alignment.talk import Talk, talk_of
from rgopd.teacher.items import OWN_ID, PAD_ID, Scoring
from tests.unit.teacher.alignment.kinds import MAKERS, side
from tests.unit.teacher.alignment.test_aligner import ALIGNERS, ANY, forward_UV, ids_of, tiny_engine

TEMPLATED = ["bpe", "qwen", "demo"]
"""Of which the chat template can go on after a turn."""
PAIRS = [(ours, theirs) for ours in MAKERS for theirs in TEMPLATED if ours != theirs]
ASKED = [{"role": "system", "content": "Use the tool."}, {"role": "user", "content": "What is 3 * 4?"}]
SAID, TOLD = ["f(3, 4)", "so 12 - 2", "\\boxed{46}"], ["12 + 34", "<|im_end|> 46; Größe"]


def conversation(ours: str, said: list[str], told: list[str], width: int = 4) -> tuple[np.ndarray, np.ndarray, Talk]:
    """Ids, support and the rest of a conversation of a student; between its turns stand ids of its own."""
    student, ids, own = side(ours), [], []
    for n, text in enumerate(said):
        turn = [i for i in ids_of(ours, text) if i not in student.special] + [student.end]
        gap = ids_of(ours, told[n])[:9] + [0] if n < len(told) else []
        ids += [*turn, *gap]
        own += [True] * len(turn) + [False] * len(gap)
    rng, own_T = np.random.default_rng(len(ids)), np.array(own)
    support = np.stack([rng.permutation(student.size)[:width] for _ in ids]).astype(np.int32)
    support[~own_T] = PAD_ID
    return np.array(ids, np.int32), support, Talk(own_T, tuple(told))


@pytest.mark.parametrize("ours", ["demo", "llama", "gemma", "unigram", "bpe"])
def test_the_teacher_reads_what_its_own_template_makes_of_the_conversation(ours: str) -> None:
    """And nothing else: its ids are those of the whole rendering, so its log-probs are of the very conversation."""
    aligner = ALIGNERS[ours, "qwen"]
    ids_T, support_TK, talk = conversation(ours, SAID, ["12 + 34", "46"])
    teacher = aligner.teacher
    item = aligner.item(
        "r", json.dumps(ASKED), ids_T, support_TK, Scoring("student", 4), tiny_engine(teacher.size).info, talk=talk
    )
    messages = list(ASKED)
    for n, text in enumerate(SAID):
        messages.append({"role": "assistant", "content": text})
        messages += [{"role": "user", "content": talk.told[n]}] if n < len(talk.told) else []
    whole = teacher.tokenizer.apply_chat_template(messages, tokenize=False).removesuffix("\n")
    assert item.input_ids.tolist() == teacher.tokenizer(whole, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("across", ["mapped", "ranked", "hybrid"])
@pytest.mark.parametrize(("ours", "theirs"), [("demo", "qwen"), ("llama", "bpe"), ("qwen", "demo"), ("gemma", "qwen")])
def test_scores_are_those_of_a_whole_forward_in_float64(ours: str, theirs: str, across: str) -> None:
    """By hand: log-probs of the teacher's tokens of every turn, after everything that stands before them."""
    aligner = ALIGNERS[ours, theirs]
    engine = tiny_engine(aligner.teacher.size)
    ids_T, support_TK, talk = conversation(ours, SAID, TOLD)
    scoring = Scoring("student", 4, 0.7)
    item = aligner.item("r", json.dumps(ASKED), ids_T, support_TK, scoring, engine.info, across, talk)
    score = student_view(item, engine.score([item])[0])
    logprobs_UV = forward_UV(engine, item)
    sampled_U = logprobs_UV[np.arange(len(item.response_ids_T)), item.response_ids_T]
    at, between = 0, Between(aligner.teacher.tokenizer)
    for n, turn in enumerate(talk.turns()):
        mine, theirs_U = aligner.align(ids_T[turn])
        assert item.response_ids_T[at : at + len(theirs_U)].tolist() == theirs_U.tolist()
        assert (mine.aligned_T >= 0).all()
        expected = sampled_U[at : at + len(theirs_U)].sum()
        assert score.sampled_logprobs_T[turn].sum() == pytest.approx(expected, abs=1e-3)
        assert (score.aligned_T[turn] >= 0).all()
        for t, u in mine.pairs_M2:
            if across == "mapped":
                mapped = [aligner.support_map_V[i] for i in support_TK[turn][t]]
                for k, target in enumerate(mapped):
                    assert (score.topk_ids_TK[turn][t, k] == PAD_ID) == (target == PAD_ID)
                    if target != PAD_ID:
                        assert score.topk_logprobs_TK[turn][t, k] == pytest.approx(
                            logprobs_UV[at + u, target], abs=1e-4
                        )
        at += len(theirs_U)
        if n < len(talk.told):
            gap = between.ids(int(theirs_U[-1]), talk.told[n]).tolist()
            assert item.response_ids_T[at : at + len(gap)].tolist() == gap
            at += len(gap)
    assert at == len(item.response_ids_T)
    off = ~talk.own_T
    assert not score.sampled_logprobs_T[off].any()
    assert (score.aligned_T[off] == -1).all()
    assert (score.topk_ids_TK[off] == PAD_ID).all()
    assert (score.tail_logprob_T[off] == 0).all()
    # Everywhere: what is on the support, and the tail, are all of a distribution.
    mass = np.exp(score.topk_logprobs_TK.astype(float)).sum(1) + np.exp(score.tail_logprob_T.astype(float))
    np.testing.assert_allclose(mass, 1, atol=1e-5)
    first = np.flatnonzero(np.diff(score.aligned_T, prepend=-1) * (score.aligned_T >= 0))
    if across == "ranked":
        np.testing.assert_array_equal(np.flatnonzero((score.topk_ids_TK == OWN_ID).all(1)), first)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(PAIRS),
    st.lists(st.tuples(ANY, ANY), min_size=1, max_size=4),
    st.lists(st.integers(0, 10**6), max_size=3),
)
def test_chunks_never_leave_their_turn(pair: tuple[str, str], spoken: list[tuple[str, str]], noise: list[int]) -> None:
    """Whatever was said, random text and ids of any bytes: a prefix has values, none of it the environment's."""
    aligner, (ours, _) = ALIGNERS[pair], pair
    said, told = [a for a, _ in spoken], [b for _, b in spoken][:-1]
    ids_T, _, talk = conversation(ours, said, told)
    last = list(talk.turns())[-1]
    ids_T[last][: len(noise)] = [n % side(ours).size for n in noise][: last.stop - last.start]
    alignment, ids_U = aligner.align_talk(ids_T, talk)
    own_T = alignment.aligned_T[talk.own_T]
    covered = int((own_T >= 0).sum())
    assert (own_T[:covered] >= 0).all()
    assert (own_T[covered:] == -1).all()
    assert (alignment.aligned_T[~talk.own_T] == -1).all()
    chunks = alignment.aligned_T[alignment.aligned_T >= 0]
    if len(chunks):
        assert len(ids_U) == len(alignment.chunk_U)
        assert set(chunks.tolist()) == set(range(chunks.max() + 1)) == set(alignment.chunk_U.tolist()) - {-1}
    turn_of = np.repeat(np.arange(len(said)), [turn.stop - turn.start for turn in talk.turns()])
    for chunk in set(chunks.tolist()):
        assert len(set(turn_of[own_T == chunk].tolist())) == 1
    assert talk.own_T[alignment.pairs_M2[:, 0]].all()


def test_after_a_turn_that_the_teacher_cannot_follow_nothing_has_a_value() -> None:
    aligner = ALIGNERS["qwen", "demo"]  # of 102 characters
    ids_T, _, talk = conversation("qwen", ["f(3, 4)", "日本", "46"], ["12", "34"])
    alignment, ids_U = aligner.align_talk(ids_T, talk)
    first, second, third = talk.turns()
    assert (alignment.aligned_T[first] >= 0).all()
    assert (alignment.aligned_T[second.start :] == -1).all()
    assert third.stop == len(ids_T)
    assert alignment.chunk_U[-1] == -1, "the second turn brought nothing"
    nothing, dummy = aligner.align_talk(*conversation("qwen", ["日", "46"], ["12"])[::2])
    assert len(dummy) == 1
    assert not len(nothing.chunk_U)
    assert len(ids_U) == len(alignment.chunk_U)


def test_a_template_that_cannot_go_on_is_refused_by_name() -> None:
    aligner = ALIGNERS["bpe", "qwen"]
    template = aligner.teacher.tokenizer.chat_template
    ids_T, _, talk = conversation("bpe", ["a", "b"], ["c"])
    aligner.teacher.tokenizer.chat_template = "{% for m in messages[-2:] %}{{ m.content }}{% endfor %}"
    aligner.teacher._between.clear()
    try:
        with pytest.raises(InvalidInput, match="the teacher's chat template is not prefix-stable"):
            aligner.align_talk(ids_T, talk)
        with pytest.raises(ConfigError, match="the teacher's chat template"):
            Between(aligner.teacher.tokenizer, "user", "teacher")
    finally:
        aligner.teacher.tokenizer.chat_template = template


def test_a_rollout_says_what_stands_in_its_gaps() -> None:
    rollout = rollout_pb2.Rollout(header=wire.header("run", "r0"), response_ids=wire.to_tensor(np.zeros(5, np.int32)))
    assert talk_of(rollout) is None
    rollout.own.CopyFrom(wire.to_tensor(np.array([1, 0, 0, 1, 1], np.int32)))
    with pytest.raises(InvalidInput, match="0 observations do not fit"):
        talk_of(rollout)
    rollout.told.append("seen")
    rollout.environment.CopyFrom(environment_pb2.Environment(role="tool", tools_json="[]"))
    talk = talk_of(rollout)
    assert talk is not None
    assert (list(talk.turns()), talk.told, talk.role) == ([slice(0, 1), slice(3, 5)], ("seen",), "tool")
    rollout.own.CopyFrom(wire.to_tensor(np.array([1, 0, 0, 1, 0], np.int32)))
    with pytest.raises(InvalidInput, match="do not fit"):
        talk_of(rollout)


def test_the_teacher_is_shown_the_tools() -> None:
    aligner = ALIGNERS["bpe", "qwen"]
    tokenizer = aligner.teacher.tokenizer
    template, tokenizer.chat_template = tokenizer.chat_template, "{{ tools[0].name }}" + tokenizer.chat_template
    ids_T, _, talk = conversation("bpe", ["a"], [])
    talk = Talk(talk.own_T, (), "tool", '[{"name": "calculate"}]')
    info = tiny_engine(aligner.teacher.size).info
    try:
        item = aligner.item("r", json.dumps(ASKED[1:]), ids_T, None, Scoring("none", 0), info, talk=talk)
    finally:
        tokenizer.chat_template = template
    assert tokenizer.decode(item.prompt_ids_C).startswith("calculate<|im_start|>user\n")
    bad = Talk(talk.own_T, (), "tool", "{}")
    with pytest.raises(InvalidInput, match="tools_json must be a list"):
        aligner.item("r", json.dumps(ASKED), ids_T, None, Scoring("none", 0), info, talk=bad)
