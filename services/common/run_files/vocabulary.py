"""rollouts/vocabulary.json.gz: the text of every token id, written once a run, so that no reader needs a tokenizer."""

from __future__ import annotations

import codecs
import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path

from rgopd.common import fleeting
from rgopd.common.run_files.kept_files import FOLDER

FILE = "vocabulary.json.gz"


class Vocabulary:
    """Texts of token ids. A token may hold a part of a character (byte-level and byte-fallback tokenizers)."""

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int] = ()) -> None:
        """`tokens[id]`: UTF-8 bytes; `special`: ids that are no text (end of turn, padding)."""
        self.tokens = tokens
        self.special = frozenset(special)

    @classmethod
    def read(cls, run: Path) -> Vocabulary:
        """Of a run's folder; without the file every id reads as its number."""
        path = run / FOLDER / FILE
        if not (packed := fleeting.seen(path.read_bytes, b"")):
            return cls([])
        data = json.loads(gzip.decompress(packed))
        tokens = [p.encode() if isinstance(p, str) else bytes.fromhex(p["hex"]) for p in data["pieces"]]
        return cls(tokens, data["special"])

    def write(self, run: Path) -> None:
        """Into a run's folder, whole or not at all."""
        path = run / FOLDER / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {"format": 1, "pieces": [_piece(token) for token in self.tokens], "special": sorted(self.special)}
        partial = path.with_suffix(".partial")
        partial.write_bytes(gzip.compress(json.dumps(data, ensure_ascii=False).encode(), 6, mtime=0))
        os.replace(partial, path)

    def label(self, token_id: int) -> str:
        """One id by itself: its text; `<e2 9c>` for bytes that are no whole character; `#id` where it is unknown."""
        if not 0 <= token_id < len(self.tokens):
            return f"#{token_id}"
        token = self.tokens[token_id]
        try:
            return token.decode()
        except UnicodeDecodeError:
            return f"<{token.hex(' ')}>"

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Texts that, joined, are the text of the ids. A character cut in two belongs to the token that ends it; bytes
        that never make a character read as U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        texts = []
        for number, token_id in enumerate(ids):
            known = 0 <= token_id < len(self.tokens)
            token = self.tokens[token_id] if known else f"#{token_id}".encode()
            texts.append(decoder.decode(token, final=number == len(ids) - 1))
        return texts


def _piece(token: bytes) -> str | dict[str, str]:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return {"hex": token.hex()}
