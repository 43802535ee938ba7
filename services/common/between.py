"""What stands between two turns of a conversation, as token ids: the chat template's words around an observation.

The student's ids are never made again from text. What comes after them is the difference of two renderings of the
template, so a template must only ever append: one that rewrites what it rendered before (drops earlier reasoning, say)
is refused, as is a tokenizer that splits a text otherwise once more follows. No transformers here: the tokenizer is the
caller's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgopd.common.errors import ConfigError

_USER, _SAID, _TOLD = "rgopd-asked", "rgopd-said", "rgopd-told"
_QUOTED = f'{_TOLD}"{_TOLD}'
CUT = " [cut]"


@dataclass(frozen=True)
class _Around:
    """The template's text after the student's last word, in three parts: what ends its turn, and what surrounds the
    observation."""

    end: str
    before: str
    after: str
    quoted: bool
    """The observation is rendered as the inside of a JSON string."""


class Between:
    """Makes the ids between turns with one tokenizer.

    Args:
        tokenizer: the student's, with a chat template.
        role: of the observations, "user" or "tool".
        whose: whose tokenizer it is, in errors.

    Raises:
        ConfigError: the template cannot go on from what it rendered; says why.
    """

    def __init__(self, tokenizer: Any, role: str = "user", whose: str = "student") -> None:
        self.tokenizer = tokenizer
        self.role = role
        self.whose = whose
        if not tokenizer.chat_template:
            raise ConfigError(f"the {whose}'s tokenizer has no chat template, which the turns of an environment need")
        self._around = self._look()
        self._check()

    def ids(self, last_id: int, observation: str, max_observation_tokens: int = 0) -> NDArray[np.int32]:
        """int32: from the student's last token to its next turn.

        Args:
            last_id: how it ended its turn; the template's own ending is left out where that is it.
            observation: plain text, whatever it holds: special tokens in it are characters.
            max_observation_tokens: a longer one is cut, and says so; 0: not.
        """
        around = self._around
        text = self.shown(observation, max_observation_tokens)
        text = json.dumps(text, ensure_ascii=False)[1:-1] if around.quoted else text
        ended = self._marker(last_id)
        start = around.end.partition(ended)[2] if ended and ended in around.end else around.end
        return np.array(self._encode(f"{start}{around.before}", text, around.after), dtype=np.int32)

    def shown(self, text: str, most: int) -> str:
        """An observation as it is read: cut to `most` tokens, 0: whole."""
        if not most or len(text.encode("utf-8", "replace")) <= most:  # no token is less than a byte
            return text
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if len(ids) <= most:
            return text
        return str(self.tokenizer.decode(ids[:most], skip_special_tokens=False)).rstrip("\ufffd") + CUT

    def _encode(self, before: str, text: str, after: str) -> list[int]:
        """As one text where it holds no marker of the tokenizer; else cut inside each marker, so that none is read."""
        whole = self._tokens(before + text + after)
        if not any(marker in text for marker in self._markers) and self._same_markers(whole, before, after):
            return whole
        around = self._tokens(before), self._tokens(after)
        whole_text = self._tokens(text, split_special_tokens=True)  # all that a marker of one character leaves
        for inside in (self._pieces(broken(text, self._markers)), self._pieces(list(text)), whole_text):
            ids = [*around[0], *inside, *around[1]]
            if self._same_markers(ids, before, after):
                return ids
        raise ConfigError(f"the {self.whose}'s tokenizer reads special tokens out of the plain text {text[:80]!r}")

    def _same_markers(self, ids: Sequence[int], before: str, after: str) -> bool:
        wanted = [i for part in (before, after) for i in self._tokens(part) if i in self._special]
        return [i for i in ids if i in self._special] == wanted

    def _pieces(self, pieces: Sequence[str]) -> list[int]:
        return [i for piece in pieces for i in self._tokens(piece)]

    def _tokens(self, text: str, **how: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, **how)["input_ids"])

    def _marker(self, token_id: int) -> str:
        return self._special.get(int(token_id), "")

    @cached_property
    def _special(self) -> dict[int, str]:
        """Tokens that are cut out of a text before it is split: control tokens, and added ones but for white space."""
        added = {int(i): str(token) for i, token in self.tokenizer.added_tokens_decoder.items()}
        known = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        found = added | {int(i): str(token) for i, token in known}
        control = {int(i) for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        control.update(map(int, self.tokenizer.all_special_ids))
        return {i: token for i, token in found.items() if len(token.strip()) > (0 if i in control else 1)}

    @cached_property
    def _markers(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._special.values()), key=lambda t: (-len(t), t)))

    def _render(self, *messages: tuple[str, str], prompt: bool) -> str:
        said = [{"role": role, "content": content} for role, content in messages]
        return str(self.tokenizer.apply_chat_template(said, add_generation_prompt=prompt, tokenize=False))

    def _look(self) -> _Around:
        from jinja2.exceptions import TemplateError  # a template is a program, and there is no service that lacks it

        first, reply = ("user", _USER), ("assistant", _SAID)
        try:
            asked = self._render(first, prompt=True)
            said = self._render(first, reply, prompt=False)
            told = self._render(first, reply, (self.role, _QUOTED), prompt=True)
        except (TemplateError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise ConfigError(f"{self._refusal()}: {type(error).__name__}: {error}") from error
        if not said.startswith(asked) or said.count(_SAID) != 1:
            raise ConfigError(f"{self._refusal()}: the student's turn does not begin where its prompt ends")
        if not told.startswith(said):
            raise ConfigError(f"{self._refusal()}: it renders the student's turn otherwise once more is said")
        rest = told[len(said) :]
        escaped = json.dumps(_QUOTED)[1:-1]
        content = _QUOTED if rest.count(_QUOTED) == 1 else escaped
        if rest.count(content) != 1:
            raise ConfigError(f"{self._refusal()}: it does not show messages of role {self.role!r} as they are")
        before, _, after = rest.partition(content)
        end = said[said.index(_SAID) + len(_SAID) :]
        return _Around(end, before, after, content == escaped)

    def _check(self) -> None:
        """The ids are those of the whole text, so that a server of the trained student sees what it was trained on."""
        first, reply = ("user", _USER), ("assistant", _SAID)
        said = self._render(first, reply, prompt=False)
        begin, end = said[: said.index(_SAID) + len(_SAID)], self._around.end
        found = [(end.index(text), i) for i, text in self._special.items() if text in end]
        last = min(found)[1] if found else -1
        upto = end[: end.index(self._special[last]) + len(self._special[last])] if found else ""
        mine = [*self._tokens(begin), *self._tokens(upto), *self.ids(last, _TOLD).tolist()]
        if mine != self._tokens(self._render(first, reply, (self.role, _TOLD), prompt=True)):
            raise ConfigError(f"{self._refusal()}: its tokens change once more is said")

    def _refusal(self) -> str:
        return (
            f"the {self.whose}'s chat template is not prefix-stable, so an environment's observations "
            f"(role {self.role!r}) cannot be appended to its turns"
        )


def broken(text: str, markers: Sequence[str]) -> list[str]:
    """The text in pieces of which none holds a marker: cut inside each, as often as a piece still holds one. Markers of
    one character stay."""
    pattern = re.compile("|".join(re.escape(marker) for marker in markers if len(marker) > 1) or r"(?!)")
    done: list[str] = []
    left = [text]
    while left:
        piece = left.pop()
        found = pattern.search(piece)
        if found is None:
            done.append(piece)
            continue
        inside = found.start() + max(1, len(found.group()) // 2)
        left += [piece[inside:], piece[:inside]]
    return [piece for piece in done if piece]
