"""Exchanges of words, for counterfactual augmentation of preference pairs.

Every pair is trained on twice, the second time with each word of a group in the place of its
counterpart (Lu 2020, 1807.11714; Zhao 2018, 1804.06876), so that no label depends on the group.
Words are exchanged whole, both ways at once, in the case they are written in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from align.config import SourceConfig, SwapConfig
from align.data import world_words
from align.data.readers import Row, describe
from align.data.sources import DataContext, load_rows
from align.errors import UserError

TEXTS = ("prompt", "chosen", "rejected")
"""Fields of a pair in which words are exchanged."""
WHERE = "reward.augment"


class Augmented(NamedTuple):
    """Pairs, each followed by its counterpart, and how many have none."""

    rows: list[Row]
    unchanged: int


def load_swaps(config: SwapConfig, context: DataContext) -> dict[str, str]:
    """The exchanges a configuration names: word -> counterpart, both ways, in lower case.

    Raises:
        UserError: The file cannot be read, a word is empty or no text, or it has two counterparts.
    """
    if config.world is not None:
        return both_ways(_world_names())
    if config.words is not None:
        return both_ways(config.words)
    rows, _ = load_rows(SourceConfig(path=config.path), "table", context)
    for number, row in enumerate(rows, 1):
        for column in ("a", "b"):
            if not isinstance(row.get(column), str):
                raise UserError(
                    f"row {number}: column {column!r} holds {describe(row.get(column))}",
                    where=f"{WHERE}.path {config.path}",
                    allowed="a word in each of the columns a and b",
                )
    return both_ways([(row["a"], row["b"]) for row in rows])


def both_ways(pairs: Iterable[Sequence[str]]) -> dict[str, str]:
    """Word -> counterpart, both ways, in lower case.

    Raises:
        UserError: A word is empty, its own counterpart, or has two counterparts.
    """
    found: dict[str, str] = {}
    for a, b in pairs:
        low = a.strip().lower(), b.strip().lower()
        if not all(low) or low[0] == low[1]:
            raise UserError(f"{a!r} and {b!r} cannot be exchanged", where=WHERE)
        for word, other in (low, low[::-1]):
            if found.setdefault(word, other) != other:
                raise UserError(
                    f"{word!r} has two counterparts, {found[word]!r} and {other!r}",
                    where=WHERE,
                    allowed="each word in one exchange",
                )
    return found


def swap_text(text: str, swaps: Mapping[str, str]) -> str:
    """The text with every word that has a counterpart replaced by it, in the same case."""
    longest = sorted(swaps, key=len, reverse=True)
    words = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)
    return words.sub(lambda match: _like(match[0], swaps[match[0].lower()]), text)


def augment(rows: Iterable[Row], swaps: Mapping[str, str]) -> Augmented:
    """Each pair, followed by itself with the words exchanged where that changes anything.

    Args:
        rows: Pairs with prompt, chosen, rejected; further columns are copied as they are.
        swaps: Word -> counterpart in lower case.
    """
    done: list[Row] = []
    unchanged = 0
    for row in rows:
        other = row | {field: _swap(row[field], swaps) for field in TEXTS}
        unchanged += other == row
        done += [row] if other == row else [row, other]
    return Augmented(done, unchanged)


def _swap(value: Any, swaps: Mapping[str, str]) -> Any:
    """A text, or the contents of messages, with the words exchanged."""
    if isinstance(value, str):
        return swap_text(value, swaps)
    return [message | {"content": swap_text(message["content"], swaps)} for message in value]


def _like(model: str, word: str) -> str:
    """`word` in the case of `model`: all capitals, one at the start, or as it stands."""
    if len(model) > 1 and model.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


def _world_names() -> list[tuple[str, str]]:
    """A man's and a woman's name of one origin, each name once."""
    names = world_words.NAMES
    return [
        pair
        for origin in world_words.ORIGINS
        for pair in zip(names["man", origin], names["woman", origin], strict=True)
    ]
