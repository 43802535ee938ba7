"""A character tokenizer as a Hugging Face folder: 95 printable ASCII characters, newline, and six markers.

It is built as a byte-level BPE without merges, Qwen2's own kind of tokenizer, for a reason: beside a Qwen2
model `AutoTokenizer` of transformers 5 rebuilds whatever it finds as a `Qwen2Tokenizer`, from the vocabulary
alone. A word-level character tokenizer then lost every space and newline, without an error.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, UNK, BOS, EOS, USER, ASSISTANT = "<|pad|>", "<|unk|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}{{ eos_token }}"
    "{% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BYTE_LEVEL_NAMES = {"\n": "Ċ", " ": "Ġ"}
"""Byte-level BPE writes every byte as a printable character; printable ASCII stands for itself."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; pad has id 0. A character outside the alphabet is dropped."""
    characters = [BYTE_LEVEL_NAMES.get(c, c) for c in ("\n", *map(chr, range(32, 127)))]
    tokens = [PAD, UNK, BOS, EOS, USER, ASSISTANT, *characters]
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save so that both transformers 4 and 5 load it (5 writes a class name that 4 does not know)."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2) + "\n")
