"""One tokenizer as the bytes of its ids, and text as its ids with nothing lost: exactly, or not at all."""

from __future__ import annotations

import json
import re
from itertools import groupby
from threading import Lock
from typing import Any

from tokenizers import Tokenizer

from rgopd.common.between import Between, broken
from rgopd.common.errors import ConfigError, InvalidInput
from rgopd.common.token_bytes import is_byte_name, vocabulary_of

PROBE = "xqz"
SENTENCE = "One (two), it's 34: a.b\n c"
_ENDS = re.compile(f"{PROBE}(.*)", re.DOTALL)


class Side:
    """A tokenizer's ids below `size` as bytes.

    Args:
        tokenizer: a fast one of transformers.
        size: ids of the model; those that the tokenizer lacks are no text.
        ends: more ids that end a response than the tokenizer names.

    Raises:
        ConfigError: no fast tokenizer: texts cannot be split without its special tokens being found in them; or one
            whose tokens mean other bytes beside others (WordPiece).
    """

    def __init__(self, tokenizer: Any, size: int, ends: tuple[int, ...] = ()) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigError(f"align: {tokenizer.name_or_path} has no fast tokenizer (tokenizer.json); convert it")
        self.tokenizer = tokenizer
        self.size = size
        vocabulary = vocabulary_of(tokenizer)
        self.tokens = [*vocabulary.tokens, *[b""] * (size - len(vocabulary.tokens))][:size]
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = set(vocabulary.special) | {int(i) for i, token in added.items() if token.special}
        self.special = {i: self.tokens[i] for i in sorted(special) if i < self.size}
        self._markers = sorted(
            (t.decode("utf-8", "replace") for t in self.special.values()), key=lambda t: (-len(t), t)
        )
        self._lock = Lock()
        self._between: dict[str, Between] = {}
        # Whatever the text says stays text: no special token is read out of it.
        self._cores = [_plain(backend), _plain(backend, normalise=False)]
        self._check_that_bytes_add_up()
        self.end = self._end_of_turn()
        known = (self.end, tokenizer.eos_token_id, *ends)
        self.ends = frozenset(i for i in known if i is not None and i < self.size)
        self.bytes_ids = self._single_bytes()
        self.dummy_space = self._has_dummy_space()
        self.texts = self._texts()
        """Token of each text: its own name, and a byte's spelling only where nothing else says it."""

    def prompt(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> list[int]:
        """The messages under this side's chat template, ready for the answer; without one, their bare text. Where the
        template knows no system turn, what that says stands before the first user's message.

        Raises:
            InvalidInput: the template refuses the messages.
        """
        from jinja2.exceptions import TemplateError

        template = self.tokenizer.chat_template
        try:
            with self._lock:
                if not template:
                    text = "\n".join(str(m["content"]) for m in messages)
                else:
                    shown = {"tools": tools} if tools else {}
                    text = str(
                        self.tokenizer.apply_chat_template(
                            messages, add_generation_prompt=True, tokenize=False, **shown
                        )
                    )
                return list(self.tokenizer(text, add_special_tokens=not template)["input_ids"])
        except (TemplateError, KeyError, TypeError) as error:
            if (folded := without_system(messages)) is not None:
                return self.prompt(folded, tools)
            raise InvalidInput(f"the teacher's chat template cannot render the prompt's messages: {error}") from error

    def between(self, role: str, last_id: int, told: str) -> list[int]:
        """What stands between a turn that ended with `last_id` and the next, around what was told by `role`.

        Raises:
            InvalidInput: the template cannot go on after a turn.
        """
        with self._lock:
            try:
                if role not in self._between:
                    self._between[role] = Between(self.tokenizer, role, "teacher")
                return [int(i) for i in self._between[role].ids(last_id, told)]
            except ConfigError as error:
                raise InvalidInput(str(error)) from error

    def encode(self, data: bytes) -> tuple[list[int], list[int]] | int:
        """Ids whose bytes are exactly `data`, and how many bytes of it each stands for; bytes that are no UTF-8 are
        spelt byte by byte. A dummy space that the tokenizer puts before a text stands for none.

        Where that cannot be had (a tokenizer that rewrites its input, or has no token for a byte): how many bytes at
        the start may still go.
        """
        ids: list[int] = []
        lengths: list[int] = []
        done = 0
        for lone, characters in groupby(data.decode("utf-8", "surrogateescape"), lambda c: "\udc80" <= c <= "\udcff"):
            piece = "".join(characters)
            part = self._spell(piece) if lone else self._encode_text(piece, first=not ids)
            if isinstance(part, int):
                return done + part
            ids += part[0]
            lengths += part[1]
            done += sum(part[1])
        return ids, lengths

    def _spell(self, piece: str) -> tuple[list[int], list[int]] | int:
        raw = piece.encode("utf-8", "surrogateescape")
        known = [self.bytes_ids.get(byte) for byte in raw]
        missing = known.index(None) if None in known else len(known)
        if missing < len(known):
            return missing
        return [i for i in known if i is not None], [1] * len(known)

    def _encode_text(self, text: str, *, first: bool) -> tuple[list[int], list[int]] | int:
        """A dummy space may stand at the start alone: behind spelt bytes it would be one more byte."""
        data, best = text.encode(), 0
        for core in self._cores:
            ids = core.encode(text, add_special_tokens=False).ids
            if not self.special.keys().isdisjoint(ids) and len(pieces := broken(text, self._markers)) > 1:
                return self._joined(pieces, first)
            if any(i >= self.size or i in self.special for i in ids):
                continue
            lengths = [len(self.tokens[i]) for i in ids]
            made = b"".join(self.tokens[i] for i in ids)
            if made == data:
                return ids, lengths
            if made == b" " + data and lengths[0]:
                if first:
                    return ids, [lengths[0] - 1, *lengths[1:]]
                return (ids[1:], lengths[1:]) if lengths[0] == 1 else self._spell(text)
            best = max(best, _same(made, data))
        return best

    def _joined(self, pieces: list[str], first: bool) -> tuple[list[int], list[int]] | int:
        """A text cut inside the names of special tokens: some models (Unigram) know those as words."""
        ids: list[int] = []
        lengths: list[int] = []
        for piece in pieces:
            part = self._encode_text(piece, first=first and not ids)
            if isinstance(part, int):
                return sum(lengths) + part
            ids += part[0]
            lengths += part[1]
        return ids, lengths

    def _single_bytes(self) -> dict[int, int]:
        """Token of each single byte: ASCII by its text, other bytes by byte-level or byte-fallback tokens."""
        found: dict[int, int] = {}
        for token_id, token in enumerate(self.tokens):
            if len(token) == 1 and token_id not in self.special:
                found.setdefault(token[0], token_id)
        return found

    def _texts(self) -> dict[bytes, int]:
        ids = [i for i, token in enumerate(self.tokens) if token and i not in self.special]
        names = self.tokenizer.convert_ids_to_tokens(ids)
        found: dict[bytes, int] = {}
        for _, token_id in sorted(zip((is_byte_name(name) for name in names), ids, strict=True)):
            found.setdefault(self.tokens[token_id], token_id)
        return found

    def _has_dummy_space(self) -> bool:
        """A space that encoding puts before a text, and decoding takes away."""
        ids = self._cores[0].encode(PROBE, add_special_tokens=False).ids
        made = b"".join(self.tokens[i] for i in ids if i < self.size)
        return made == b" " + PROBE.encode() and not self._cores[0].decode(ids).startswith(" ")

    def _check_that_bytes_add_up(self) -> None:
        ids = [i for i in self._cores[0].encode(SENTENCE, add_special_tokens=False).ids if i < self.size]
        text = self._cores[0].decode(ids, skip_special_tokens=False).encode()
        made = b"".join(self.tokens[i] for i in ids)
        if made not in (text, b" " + text):
            raise ConfigError(
                f"align: the tokens of {self.tokenizer.name_or_path or 'a tokenizer'} do not add up to its text "
                f"({made[:40]!r} against {text[:40]!r}), as those of WordPiece: they cannot be compared by bytes; "
                "choose a model with a byte-level or SentencePiece tokenizer"
            )

    def _end_of_turn(self) -> int | None:
        """The special token that the chat template writes after an answer; without a template, EOS."""
        tokenizer = self.tokenizer
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}]
            rest = _ENDS.search(str(tokenizer.apply_chat_template(messages, tokenize=False)))
            ids = tokenizer(rest.group(1), add_special_tokens=False)["input_ids"] if rest else []
            for token_id in ids:
                if token_id in self.special:
                    return int(token_id)
        return None if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)


def _plain(backend: Tokenizer, *, normalise: bool = True) -> Tokenizer:
    """A copy that finds no special tokens in text, cuts nothing and pads nothing."""
    copy = Tokenizer.from_str(backend.to_str())
    copy.encode_special_tokens = True
    copy.no_truncation()
    copy.no_padding()
    if not normalise:
        state = json.loads(backend.to_str())
        state["normalizer"] = _without_forms(state.get("normalizer"))
        other = Tokenizer.from_str(json.dumps(state))
        copy.normalizer = other.normalizer
    return copy


def _without_forms(normaliser: dict[str, Any] | None) -> dict[str, Any] | None:
    """Without what rewrites text that the tokens can say; others also write the spaces, and have to stay."""
    if normaliser is None or normaliser["type"] in ("NFC", "NFKC", "NFD", "NFKD", "Strip"):
        return None
    if normaliser["type"] != "Sequence":
        return normaliser
    kept = [part for part in map(_without_forms, normaliser["normalizers"]) if part is not None]
    return {"type": "Sequence", "normalizers": kept} if kept else None


def without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """A conversation whose system turn is said at the start of the first user's; None where it has none of either."""
    if len(messages) < 2 or messages[0].get("role") != "system" or messages[1].get("role") != "user":
        return None
    both = [str(m.get("content", "")) for m in messages[:2]]
    return [{**messages[1], "content": "\n\n".join(both)}, *messages[2:]]


def _same(one: bytes, other: bytes) -> int:
    """Bytes at the start that are the same."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
