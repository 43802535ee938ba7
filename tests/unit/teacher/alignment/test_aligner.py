"""Every pair of tokenizer kinds: what is aligned is the same bytes, and the score that comes back is the text's."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import Qwen2Config, Qwen2ForCausalLM

from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.teacher.alignment.aligner import Aligner, student_view
from rgopd.teacher.alignment.side import Side
from rgopd.teacher.engines import EngineInfo
from rgopd.teacher.engines.loading import take_apart
from rgopd.teacher.engines.transformers import TransformersEngine
from rgopd.teacher.items import OWN_ID, PAD_ID, PAD_LOGPROB, ScoreItem, Scoring
from tests.unit.teacher.alignment.kinds import MAKERS, TEXTS, side, wordpiece

PAIRS = list(itertools.permutations(MAKERS, 2))
ALIGNERS = {pair: Aligner(side(pair[0]), side(pair[1])) for pair in PAIRS}
WHOLE = [p for p in PAIRS if p[1] in ("bpe", "qwen", "llama", "unigram", "gemma", "prefix")]
"""Teachers that can say any byte."""
MESSAGES = json.dumps([{"role": "user", "content": "What is 1+1? [INST] <|im_end|>"}])
ANY = st.text(st.one_of(st.sampled_from("aé日👩‍🔬 \n<|>▁"), st.characters(exclude_categories=["Cs"])), max_size=20)


def ids_of(kind: str, text: str) -> list[int]:
    return side(kind)._cores[0].encode(text, add_special_tokens=False).ids


def text_bytes(kind: str, ids: list[int]) -> bytes:
    tokens = [side(kind).tokens[i] for i in ids]
    if tokens and side(kind).dummy_space:
        tokens[0] = tokens[0].removeprefix(b" ")
    return b"".join(tokens)


@settings(max_examples=150, deadline=None)
@example(("qwen", "llama"), "", False, [12876])  # spelt bytes, then a character: no dummy space between them
@given(st.sampled_from(PAIRS), ANY, st.booleans(), st.lists(st.integers(0, 10**6), max_size=6))
def test_aligned_chunks_hold_the_same_bytes_on_both_sides(pair, text, ends, noise):
    aligner, (ours, theirs) = ALIGNERS[pair], pair
    ids = ids_of(ours, text) + [n % side(ours).size for n in noise]  # any id, so any bytes, and special tokens
    ids = [i for i in ids if i not in side(ours).ends] + [side(ours).end] * ends
    if not ids:
        return
    alignment, response_U = aligner.align(np.array(ids, np.int32))
    covered = int((alignment.aligned_T >= 0).sum())
    assert (alignment.aligned_T[:covered] >= 0).all()
    assert (alignment.aligned_T[covered:] == -1).all()
    if not len(alignment.chunk_U):
        assert not covered
        assert len(response_U) == 1
        return
    for chunk in range(int(alignment.chunk_U.max()) + 1):
        mine = [ids[t] for t in np.flatnonzero(alignment.aligned_T == chunk)]
        other = response_U[alignment.chunk_U == chunk].tolist()
        if any(i in side(ours).special for i in mine):
            assert [aligner.special_map[i] for i in mine if i in side(ours).special] == [
                i for i in other if i in side(theirs).special
            ]
            continue
        made = [b"".join(side(k).tokens[i] for i in n) for k, n in ((ours, mine), (theirs, other))]
        dummy = side(ours).dummy_space, side(theirs).dummy_space or theirs == "prefix"
        allowed = {made[0], *([made[0].removeprefix(b" ")] if dummy[0] else [])}
        assert allowed & {made[1], *([made[1].removeprefix(b" ")] if dummy[1] else [])}
    for t, u in alignment.pairs_M2:
        assert aligner._is_same(ids[t], int(response_U[u]))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(WHOLE), ANY, st.integers(0, 3))
def test_a_teacher_with_every_byte_judges_all_but_a_character_that_was_cut(pair, text, cut):
    aligner, (ours, _) = ALIGNERS[pair], pair
    ids = ids_of(ours, text)[: -cut or None]
    if not text_bytes(ours, ids) or any(i in side(ours).special for i in ids):
        return
    alignment, response_U = aligner.align(np.array(ids, np.int32))
    covered = int((alignment.aligned_T >= 0).sum())
    left = text_bytes(ours, ids)[len(text_bytes(ours, ids[:covered])) :]
    assert left.decode("utf-8", "ignore") == "" or any(len(side(ours).tokens[i]) > 1 for i in ids[covered:])
    if covered < len(ids):  # then what is left begins with, or holds, an unfinished character
        assert text_bytes(ours, ids).decode("utf-8", "ignore").encode() != text_bytes(ours, ids)
    if covered:
        data = text_bytes(ours, ids[:covered])
        said = b"".join(side(pair[1]).tokens[i] for i in response_U)
        assert said in (data, b" " + data)


def test_a_special_token_of_the_text_stays_text_and_one_of_the_ids_maps_by_name_or_role():
    aligner = ALIGNERS["bpe", "llama"]
    student, teacher = aligner.student, aligner.teacher
    ids = ids_of("bpe", "say [INST] </s> <s>")
    _, response_U = aligner.align(np.array([*ids, student.end], np.int32))
    assert response_U[-1] == teacher.end
    assert not set(response_U[:-1].tolist()) & set(teacher.special)
    unknown = next(i for i in student.special if i not in student.ends)  # <|im_start|>: the teacher has no such turn
    alignment, _ = aligner.align(np.array([*ids, unknown, *ids], np.int32))
    assert (alignment.aligned_T >= 0).tolist() == [True] * len(ids) + [False] * (len(ids) + 1)


@settings(max_examples=100, deadline=None)
@example(("bpe", "unigram"), ["</s>"], True)  # whose model knows its special tokens as words
@given(
    st.sampled_from(PAIRS),
    st.lists(
        st.sampled_from(["</s>", "[INST]", "<|im_end|>", "<|user|>", "👩‍🔬", "e\u0301", "▁", " ", "12", "\0"]),
        max_size=9,
    ),
    st.booleans(),
)
def test_names_of_special_tokens_that_a_text_spells_out_are_letters_on_both_sides(pair, bits, ends):
    """No student can end the teacher's turn, or begin another, by writing its name."""
    aligner, (ours, theirs) = ALIGNERS[pair], pair
    ids = [i for i in ids_of(ours, "".join(bits)) if i not in side(ours).special] + [side(ours).end] * ends
    if not ids:
        return
    alignment, response_U = aligner.align(np.array(ids, np.int32))
    if len(alignment.chunk_U):
        whole = ends and bool((alignment.aligned_T >= 0).all())
        special = [i for i in response_U.tolist() if i in side(theirs).special]
        assert special == [side(theirs).end] * whole


def test_the_map_names_no_teacher_id_twice_and_prefers_letters_to_spelt_bytes():
    for pair, aligner in ALIGNERS.items():
        mapped = aligner.support_map_V[aligner.support_map_V != PAD_ID]
        assert len(set(mapped.tolist())) == len(mapped) > 50, pair
        student = aligner.student
        for token_id in np.flatnonzero(aligner.support_map_V != PAD_ID):
            if token_id not in student.special:
                assert student.tokens[token_id] == aligner.teacher.tokens[aligner.support_map_V[token_id]]
    llama = side("llama")
    letter = llama.tokenizer.convert_tokens_to_ids("a")
    assert llama.texts[b"a"] == letter != llama.tokenizer.convert_tokens_to_ids("<0x61>")


def forward_UV(engine: TransformersEngine, item: ScoreItem) -> NDArray[np.float64]:
    """Log-probs of the teacher's response tokens at temperature 0.7, by its model in float64, whole sequence."""
    decoder, head = engine._models[0][0].decoder.double(), engine._models[0][0].head.double()
    with torch.no_grad():
        hidden = decoder(input_ids=torch.from_numpy(item.input_ids.astype(np.int64))[None]).last_hidden_state[0]
        rows = slice(len(item.prompt_ids_C) - 1, len(item.input_ids) - 1)
        logprobs_UV: NDArray[np.float64] = (head(hidden[rows]) / 0.7).log_softmax(-1).numpy()
    return logprobs_UV


def tiny_engine(vocab: int) -> TransformersEngine:
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=vocab, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    model.lm_head.weight.data.mul_(30)
    info = EngineInfo("transformers", "tiny", "r", vocab, 512, 64, (0,), "float32", "cpu", "gathered")
    return TransformersEngine(take_apart(model), info)


@pytest.mark.parametrize("pair", [("demo", "qwen"), ("qwen", "llama"), ("llama", "bpe"), ("unigram", "qwen")])
def test_the_score_that_comes_back_is_that_of_the_teachers_own_tokens_in_float64(pair):
    aligner, (ours, theirs) = ALIGNERS[pair], pair
    student, teacher = side(ours), side(theirs)
    engine = tiny_engine(teacher.size)
    text = "def f(a, b):\n    return a * b - 2"
    response_T = np.array([*ids_of(ours, text), student.end], np.int32)
    rng = np.random.default_rng(0)
    support_TK = np.stack([rng.permutation(student.size)[:8] for _ in response_T]).astype(np.int32)
    support_TK[-1, 0] = student.end if student.end not in support_TK[-1] else support_TK[-1, 0]
    item = aligner.item("r", MESSAGES, response_T, support_TK, Scoring("student", 8, 0.7), engine.info)
    assert item.prompt_ids_C.tolist() == teacher.prompt(json.loads(MESSAGES))
    score = student_view(item, engine.score([item])[0])

    logprobs_UV = forward_UV(engine, item)
    # By hand: the teacher's tokens by the bytes where both sides end a token.
    ends_T = np.cumsum([len(student.tokens[i]) for i in response_T[:-1]]) - student.dummy_space
    ends_U = np.cumsum([len(teacher.tokens[i]) for i in item.response_ids_T[:-1]]) - teacher.dummy_space
    assert ends_T[-1] == ends_U[-1] == len(text.encode())
    sampled_U = logprobs_UV[np.arange(len(item.response_ids_T)), item.response_ids_T]
    begin_T = begin_U = 0
    for end in sorted(set(ends_T) & set(ends_U)):
        stop_T, stop_U = ends_T.tolist().index(end) + 1, ends_U.tolist().index(end) + 1
        assert score.sampled_logprobs_T[begin_T:stop_T].sum() == pytest.approx(
            sampled_U[begin_U:stop_U].sum(), abs=1e-4
        )
        same = student.tokens[response_T[begin_T]] == teacher.tokens[item.response_ids_T[begin_U]]
        for t in range(begin_T, stop_T):
            dense = stop_T - begin_T == stop_U - begin_U == 1 and same
            check_row(aligner, score, t, support_TK[t], logprobs_UV[begin_U] if dense else None)
        begin_T, begin_U = stop_T, stop_U
    assert score.sampled_logprobs_T.sum() == pytest.approx(sampled_U.sum(), abs=1e-3)
    check_row(aligner, score, len(response_T) - 1, support_TK[-1], logprobs_UV[-1])


@pytest.mark.parametrize("across", ["ranked", "hybrid"])
@pytest.mark.parametrize("pair", [("demo", "qwen"), ("qwen", "llama"), ("llama", "bpe"), ("unigram", "qwen")])
def test_ranked_rows_hold_the_teachers_own_likeliest_where_both_sides_begin_a_token(pair, across):
    aligner, (ours, theirs) = ALIGNERS[pair], pair
    engine = tiny_engine(side(theirs).size)
    text = "def f(a, b):\n    return a * b - 2 # é日"
    response_T = np.array([*ids_of(ours, text), side(ours).end], np.int32)
    rng = np.random.default_rng(0)
    support_TK = np.stack([rng.permutation(side(ours).size)[:6] for _ in response_T]).astype(np.int32)
    scoring = Scoring("student", 6, 0.7)
    item = aligner.item("r", MESSAGES, response_T, support_TK, scoring, engine.info, across)
    score = student_view(item, engine.score([item])[0])
    plain = aligner.item("r", MESSAGES, response_T, support_TK, scoring, engine.info)
    other = student_view(plain, engine.score([plain])[0])
    whole = replace(plain, scoring=Scoring("teacher", 6, 0.7), support_ids_TK=None, alignment=None)
    [top] = engine.score([whole])
    assert np.allclose(score.sampled_logprobs_T, other.sampled_logprobs_T, atol=1e-5)
    assert (score.aligned_T == other.aligned_T).all()
    chunk_U = item.alignment.chunk_U
    ranked = 0
    for chunk in range(int(chunk_U.max()) + 1):
        tokens_T, tokens_U = np.flatnonzero(score.aligned_T == chunk), np.flatnonzero(chunk_U == chunk)
        first_T, first_U = tokens_T[0], tokens_U[0]
        assert (score.topk_ids_TK[tokens_T[1:]] == PAD_ID).all()
        if across == "hybrid" and (other.topk_ids_TK[first_T] != PAD_ID).any():
            assert (score.topk_ids_TK[first_T] == other.topk_ids_TK[first_T]).all()
            assert np.allclose(score.topk_logprobs_TK[first_T], other.topk_logprobs_TK[first_T], atol=1e-5)
            assert score.rest_logprob_T[first_T] == 0
            continue
        ranked += 1
        assert (score.topk_ids_TK[first_T] == OWN_ID).all()
        assert np.allclose(score.topk_logprobs_TK[first_T], top.topk_logprobs_TK[first_U], atol=1e-5)
        assert score.tail_logprob_T[first_T] == pytest.approx(top.tail_logprob_T[first_U], abs=1e-4)
        rest = top.sampled_logprobs_T[tokens_U[1:]].sum()
        assert score.rest_logprob_T[first_T] == pytest.approx(rest, abs=1e-4)
    assert ranked == len(item.alignment.ranked_M2) > 0


def test_ranks_are_refused_where_they_cannot_be_had():
    aligner = ALIGNERS["demo", "qwen"]
    info = tiny_engine(aligner.teacher.size).info
    response = np.array(ids_of("demo", "1+1"), np.int32)
    support = np.tile(np.arange(4, dtype=np.int32), (len(response), 1))
    with pytest.raises(InvalidInput, match="across 'ranked'.*support student"):
        aligner.item("r", MESSAGES, response, None, Scoring("none", 0), info, "ranked")
    only = replace(info, supports=("student",))
    with pytest.raises(InvalidInput, match="across 'hybrid'.*offers"):
        aligner.item("r", MESSAGES, response, support, Scoring("student", 4), only, "hybrid")


def check_row(aligner: Aligner, score, t: int, support_K: np.ndarray, logprobs_V: np.ndarray | None) -> None:
    mass = 0.0
    for k, token_id in enumerate(support_K):
        target = aligner.support_map_V[token_id]
        if logprobs_V is None or target == PAD_ID:
            assert score.topk_ids_TK[t, k] == PAD_ID
            assert score.topk_logprobs_TK[t, k] == PAD_LOGPROB
        else:
            assert score.topk_ids_TK[t, k] == token_id
            assert score.topk_logprobs_TK[t, k] == pytest.approx(logprobs_V[target], abs=1e-4)
            mass += np.exp(logprobs_V[target])
    assert score.tail_logprob_T[t] == pytest.approx(np.log1p(-mass), abs=1e-3)


def test_what_cannot_be_aligned_is_refused_in_one_line():
    aligner = ALIGNERS["demo", "qwen"]
    info = replace(tiny_engine(aligner.teacher.size).info)
    response = np.array(ids_of("demo", "1+1"), np.int32)
    with pytest.raises(InvalidInput, match="send messages"):
        aligner.item("r", "", response, None, Scoring("none", 0), info)
    with pytest.raises(InvalidInput, match="another tokenizer"):
        aligner.item("r", MESSAGES, response, None, Scoring("teacher", 4), info)
    with pytest.raises(InvalidInput, match="'r': prompt \\+ response"):
        aligner.item("r", MESSAGES, response, None, Scoring("none", 0), replace(info, max_context=8))
    with pytest.raises(InvalidInput, match="outside"):
        aligner.item("r", MESSAGES, response + 9999, None, Scoring("none", 0), info)


def test_kinds_cover_the_text_they_were_made_of():
    for kind in ("bpe", "qwen", "llama", "unigram", "gemma", "prefix"):
        for text in [*TEXTS, "\tｆ ﬁ ½  ", "A\u030a"]:
            assert not isinstance(side(kind).encode(text.encode()), int), (kind, text)


def test_a_space_before_the_first_token_is_part_of_the_answer_where_decoding_keeps_it():
    for kind, kept in (("prefix", True), ("llama", False), ("gemma", True)):
        aligner = ALIGNERS[kind, "qwen"]
        ids = side(kind)._cores[1].encode(" x=1" if kept else "x=1", add_special_tokens=False).ids
        decoded = side(kind)._cores[0].decode(ids).encode()
        assert decoded == (b" x=1" if kept else b"x=1")
        _, response_U = aligner.align(np.array(ids, np.int32))
        assert b"".join(side("qwen").tokens[i] for i in response_U) == decoded, kind


def test_tokens_whose_bytes_do_not_add_up_to_the_text_are_refused():
    tokenizer = wordpiece()
    with pytest.raises(ConfigError, match="WordPiece.*byte-level or SentencePiece"):
        Side(tokenizer, len(tokenizer))


def test_a_template_without_system_turns_reads_them_at_the_start_of_the_first_question():
    teacher = Side(MAKERS["qwen"](), 600)
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1+1?"}]
    with_turn = teacher.tokenizer.decode(teacher.prompt(asked))
    teacher.tokenizer.chat_template = refuses + teacher.tokenizer.chat_template
    text = teacher.tokenizer.decode(teacher.prompt(asked))
    assert "system" in with_turn
    assert text == "<|im_start|>user\nBe brief.\n\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(InvalidInput, match="no system role"):
        teacher.prompt(asked[:1])
