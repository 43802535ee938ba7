"""Small real tokenizers of every kind, trained on a few lines of text."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rgopd.teacher.alignment.side import Side
from rgopd.trainer.demo.tokenizer import build_tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog; 12 + 34 = 46, so \\boxed{46}.",
    "def f(a, b):\n    return a * b - 2\n\nprint(f(3, 4))  # 10",
    "Größe, naïve, façade, œuvre; 日本語のテキスト と かな; Привет, мир! 👩‍🔬 ✓ 🇩🇪",
    "  two  spaces,\ttabs\r\nand lines\n\n\n<think> a thought </think>",
] * 3
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _fast(core: Tokenizer, eos: str, user: str, template: str, **more: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=eos,
        additional_special_tokens=[user],
        chat_template=template,
        clean_up_tokenization_spaces=False,
        **more,
    )


def byte_level(size: int, qwen: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE: GPT-2's pieces, or Qwen2's with its NFC."""
    core = Tokenizer(models.BPE())
    if qwen:
        core.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN), "isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    else:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in ("<|im_end|>", "<|im_start|>")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    core.add_tokens(["<think>", "</think>"])
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return _fast(core, "<|im_end|>", "<|im_start|>", template)


def pieces(kind: str, byte_fallback: bool = True) -> PreTrainedTokenizerFast:
    """SentencePiece's way: spaces as U+2581, a dummy space before the text, lone bytes as <0x..>."""
    special = [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>", "[INST]")]
    lone = [f"<0x{n:02X}>" for n in range(256)] if byte_fallback else []
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=220, show_progress=False))
    if kind == "unigram":
        learner = Tokenizer(models.Unigram())
        learner.pre_tokenizer = pre_tokenizers.Metaspace()
        learner.train_from_iterator(
            TEXTS, trainers.UnigramTrainer(vocab_size=200, show_progress=False, unk_token="<unk>")
        )
        learned = [t for t in learner.get_vocab() if t != "<unk>"]
        scores = [(t.content, 0.0) for t in special] + [(t, -20.0) for t in lone]
        core = Tokenizer(models.Unigram([*scores, *((t, -float(len(t) < 2) - 5) for t in learned)], 0, byte_fallback))
    else:
        state = json.loads(learner.to_str())["model"]
        names = [t.content for t in special] + lone + [t for t in state["vocab"] if t not in lone]
        merges = [tuple(m) for m in state["merges"]]
        core = Tokenizer(
            models.BPE(
                {t: i for i, t in enumerate(names)},
                merges,
                unk_token="<unk>",
                byte_fallback=byte_fallback,
                fuse_unk=True,
            )
        )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens(special)
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [INST]"
        "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
    )
    return _fast(core, "</s>", "[INST]", template, bos_token="<s>", unk_token="<unk>")


def without_dummy(*forms: normalizers.Normalizer) -> PreTrainedTokenizerFast:
    """Gemma's way: spaces as U+2581 and nothing before the text; or with Unicode forms before that."""
    tokenizer = pieces("bpe")
    core = tokenizer.backend_tokenizer
    core.normalizer = normalizers.Sequence([*forms, normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _fast(core, "</s>", "[INST]", tokenizer.chat_template, bos_token="<s>", unk_token="<unk>")


def space_first() -> PreTrainedTokenizerFast:
    """Byte-level with a space put before the text, which decoding keeps."""
    tokenizer = byte_level(420, False)
    core = tokenizer.backend_tokenizer
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return _fast(core, "<|im_end|>", "<|im_start|>", tokenizer.chat_template)


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT's way: lower case, ## where a word goes on, spaces nowhere."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    special = ["[UNK]", "[END]", "[U]"]
    core.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    return _fast(core, "[END]", "[U]", "{% for m in messages %}[U]{{ m.content }}{% endfor %}", unk_token="[UNK]")


MAKERS = {
    "demo": build_tokenizer,
    "bpe": lambda: byte_level(420, False),
    "qwen": lambda: byte_level(560, True),
    "llama": lambda: pieces("bpe"),
    "unigram": lambda: pieces("unigram"),
    "plain": lambda: pieces("bpe", byte_fallback=False),
    "gemma": lambda: without_dummy(normalizers.NFKC(), normalizers.Strip()),
    "prefix": space_first,
}


@cache
def side(kind: str) -> Side:
    """A tokenizer as the aligner sees it, its model padded by ten rows."""
    tokenizer = MAKERS[kind]()
    return Side(tokenizer, len(tokenizer) + 10)
