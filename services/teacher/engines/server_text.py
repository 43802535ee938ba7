"""Token ids as text for a server that takes no ids, and its tokens beside ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rgopd.common.token_bytes import vocabulary_of
from rgopd.teacher.engines.server_answers import Token

PROBE = "What is 12 + 30? It is 42."
_ID = re.compile(r"token_id:(\d+)")


class ServerText:
    """The teacher's tokenizer, as far as it is known here.

    `leads`: the server puts its BOS before every text, so that ours must not be written out.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, max_context: int) -> None:
        self._tokenizer = tokenizer
        self._bytes = vocabulary_of(tokenizer).tokens
        self.vocab_size = vocab_size
        self.max_context = max_context
        """Of the model's own config; 0: it does not say."""
        self.leads = False

    @classmethod
    def of(cls, model: str) -> ServerText:
        """By folder or hub id.

        Raises:
            ConfigError: there is no tokenizer.
        """
        from transformers import AutoConfig

        from rgopd.teacher.tokenizers import load_tokenizer, model_vocabulary

        tokenizer = load_tokenizer(model, "model")
        try:
            text: Any = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
            context = int(getattr(text, "max_position_embeddings", 0) or 0)
        except (OSError, ValueError):  # a folder with a tokenizer alone
            context = 0
        return cls(tokenizer, model_vocabulary(model, len(tokenizer)), context)

    def probe(self) -> list[int]:
        """A few ids that the tokenizer itself would write."""
        ids = [int(i) for i in self._tokenizer(PROBE, add_special_tokens=False)["input_ids"]]
        bos = self._tokenizer.bos_token_id
        return ids if bos is None else [int(bos), *ids]

    def text(self, ids: Sequence[int]) -> str:
        """What to send so that the server's tokens are these ids."""
        skip = self.leads and len(ids) > 0 and ids[0] == self._tokenizer.bos_token_id
        text: str = self._tokenizer.decode(
            list(ids)[skip:], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def difference(self, tokens: Sequence[Token], ids: Sequence[int]) -> str:
        """Where the server's tokens are not these ids, in words; empty: nowhere, or the server names none.

        It may have one more, which it generated. Pieces of a character have no text of their own, and pass.
        """
        if not any(token is not None for token in tokens):
            return ""
        for n, (token, token_id) in enumerate(zip(tokens, ids, strict=False)):
            if not self._same(token, token_id):
                return f"token {n} is {token!r} there and {self._own(token_id)!r} ({token_id}) here"
        if not len(ids) <= len(tokens) <= len(ids) + 1:
            return f"{len(tokens)} tokens for our {len(ids)}"
        return ""

    def _own(self, token_id: int) -> str:
        """A token's text; U+FFFD for bytes that are part of a character."""
        return self._bytes[token_id].decode(errors="replace") if token_id < len(self._bytes) else ""

    def _same(self, token: Token, token_id: int) -> bool:
        if token is None:
            return True
        if isinstance(token, int):
            return token == token_id
        if (found := _ID.fullmatch(token)) is not None:
            return int(found[1]) == token_id
        ours, name = self._own(token_id), self._tokenizer.convert_ids_to_tokens(token_id)
        broken = "\ufffd" in ours or "\ufffd" in token or token.startswith("bytes:")
        # A SentencePiece-like decoder drops the space before a word that stands alone; special tokens may have no text.
        return broken or token in (ours, name, " " + ours, "") or " " + token == ours
