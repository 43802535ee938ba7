"""The bytes of every token of a tokenizer, so that watchers need none."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from rgopd.common.run_files import Vocabulary

_BYTE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


def vocabulary_of(tokenizer: Any) -> Vocabulary:
    """Byte-level BPE writes bytes as printable characters, SentencePiece a space as U+2581 and lone bytes as <0x..>.

    Special tokens read as their own names. A tokenizer of another kind is asked to decode id by id.
    """
    size = len(tokenizer)
    names = tokenizer.convert_ids_to_tokens(list(range(size)))
    special = set(tokenizer.all_special_ids)
    added = {int(i): token.content for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    kind = _kind(tokenizer, names)
    return Vocabulary(
        [_bytes(tokenizer, i, added.get(i, names[i]), "plain" if i in added else kind) for i in range(size)],
        sorted(i for i in special if i is not None),
    )


def is_byte_name(name: str | None) -> bool:
    """Whether a token spells one byte, <0x..>."""
    return name is not None and _BYTE.match(name) is not None


def _kind(tokenizer: Any, names: list[str | None]) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = repr(backend.decoder) if backend is not None and backend.decoder is not None else ""
    if "ByteLevel" in decoder or any(name and name.startswith("Ġ") for name in names):
        return "bytes"
    if "Metaspace" in decoder or "▁" in decoder or any(name and name.startswith("▁") for name in names):
        return "pieces"
    return "decode"


def _bytes(tokenizer: Any, token_id: int, name: str | None, kind: str) -> bytes:
    if name is None:  # a hole in the vocabulary
        return b""
    if kind == "plain":
        return name.encode()
    if kind == "bytes" and all(character in _byte_names() for character in name):
        return bytes(_byte_names()[character] for character in name)
    if kind == "pieces":
        match = _BYTE.match(name)
        return bytes([int(match.group(1), 16)]) if match else name.replace("▁", " ").encode()
    return str(tokenizer.decode([token_id])).encode()


@lru_cache
def _byte_names() -> dict[str, int]:
    """GPT-2's printable name of every byte: printable Latin-1 stands for itself, the rest counts up from U+0100."""
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(256 + n): byte for n, byte in enumerate(others)}
