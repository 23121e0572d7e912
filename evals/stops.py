"""Strings that end a response, found in its text: tokens do not end where strings do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from align.data.encoding import decode_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from align.generation import Response

# Tokens looked at beyond a stop string's bytes: a character begun before it has at most 3 of them,
# and some tokenizers drop a space at the beginning of what they decode.
_MARGIN = 4


class Answer(NamedTuple):
    """What a model said."""

    text: str
    """Up to the first stop string, without special tokens."""
    ids: list[int]
    """All tokens, with those of the stop string or EOS."""
    finished: bool
    """Whether it ended by itself."""


class Stops:
    """Stop strings of one tokenizer.

    Args:
        tokenizer: What makes text of the tokens.
        strings: Any of them ends a response; none: only EOS does.

    Raises:
        ValueError: A stop string is empty.
        TypeError: One string instead of a sequence of them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strings: Sequence[str]) -> None:
        if isinstance(strings, str):
            raise TypeError(f"stop strings are a sequence, not {strings!r}; write ({strings!r},)")
        if "" in strings:
            raise ValueError(f"stop strings {list(strings)} have an empty one, which ends nothing")
        self._tokenizer, self._strings = tokenizer, tuple(strings)
        self._special = frozenset(tokenizer.all_special_ids)
        # Every token that is not special stands for one byte or more.
        self._reach = _MARGIN + max((len(stop.encode()) for stop in strings), default=0)

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether the text of a response that had no stop string before its last token has one."""
        last = [token for token in ids if token not in self._special][-self._reach :]
        return self._in(last) and self._in(ids)

    def answer(self, response: Response) -> Answer:
        """The response as text, cut before the first stop string."""
        text = decode_response(self._tokenizer, response.ids)
        found = [place for stop in self._strings if (place := text.find(stop)) >= 0]
        finished = response.finished or bool(found)
        return Answer(text[: min(found, default=len(text))], response.ids, finished)

    def _in(self, ids: Sequence[int]) -> bool:
        text = decode_response(self._tokenizer, ids)
        return any(stop in text for stop in self._strings)
