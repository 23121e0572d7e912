"""Hold rows out, find evaluation texts that were trained on, and remove repeated rows.

All by content, so the results do not depend on the order of the rows. Near-duplicates are not
looked for: `datasketch` does that.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from align.data.readers import Row
from align.errors import UserError


class Split(NamedTuple):
    """The two sides of a holdout, each in the order of the rows."""

    train: list[Row]
    held: list[Row]


class Overlap(NamedTuple):
    """Evaluation texts that share a passage with the training texts.

    Attributes:
        rows: How many evaluation texts do.
        share: That number over all evaluation texts.
        examples: Up to five shared passages, normalised, in the order of the evaluation texts.
        n: Words of a passage.
        indices: Positions of those evaluation texts.
    """

    rows: int
    share: float
    examples: list[str]
    n: int
    indices: list[int]


class Deduplicated(NamedTuple):
    """Rows without repeats (the first of equals stays) and the number of rows left out."""

    rows: list[Row]
    dropped: int


def split_holdout(rows: Sequence[Row], fraction: float, seed: int) -> Split:
    """Hold out the rows whose key, hashed with the seed, falls into the given share.

    Rows with equal keys (see `content_key`) stay on one side. A row keeps its side when others are
    added, unless a side would be empty: then the nearest key moves.

    Args:
        rows: Rows of any kind.
        fraction: Share to hold out, between 0 and 1; it is met in expectation over the keys.
        seed: Another seed, another split.

    Raises:
        UserError: Fewer than two distinct keys, so that one side would be empty.
    """
    keys = [content_key(row) for row in rows]
    place = {key: _unit_hash(seed, key) for key in keys}
    if len(place) < 2:
        raise UserError(
            f"{len(rows)} rows with {len(place)} distinct prompts or texts cannot be split",
            allowed="at least 2 distinct prompts or texts",
            remedy="name `eval_data`, or more rows",
        )
    lowest, highest = min(place.values()), max(place.values())
    held = {key for key, at in place.items() if at == lowest or (at < fraction and at != highest)}
    return Split(
        [row for row, key in zip(rows, keys, strict=True) if key not in held],
        [row for row, key in zip(rows, keys, strict=True) if key in held],
    )


def content_key(row: Row) -> str:
    """What must not stand on both sides of a split: the prompt, else the text, else the whole row.

    A prompt counts by its words: as a string or as messages, whatever its capitals and spaces. Of a
    dialogue the prompt is all before its last answer.
    """
    value: Any = row.get("prompt", row.get("text", row.get("source")))
    if value is None and isinstance(row.get("messages"), list):
        value = row["messages"][:-1]
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        value = "\n".join(str(turn.get("content", "")) for turn in value)
    return normalise(value) if isinstance(value, str) else _canonical(row).decode()


def normalise(text: str) -> str:
    """Text without differences of case, spacing and Unicode composition (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def deduplicate(rows: Iterable[Row]) -> Deduplicated:
    """Leave out rows whose whole content, normalised, has occurred before."""
    seen: set[bytes] = set()
    kept: list[Row] = []
    total = 0
    for row in rows:
        total += 1
        digest = hashlib.sha256(_canonical(_normalised(row))).digest()
        if digest not in seen:
            seen.add(digest)
            kept.append(row)
    return Deduplicated(kept, total - len(kept))


def find_overlap(train_texts: Iterable[str], eval_texts: Sequence[str], n: int = 8) -> Overlap:
    """Find evaluation texts that share a run of `n` words with any training text.

    A text of fewer than `n` words counts when it equals a whole training text. Words are runs of
    letters and digits, without case. Only passages of the evaluation texts are held in memory; the
    training texts are streamed (13-grams in GPT-3, 2005.14165, appendix C; 8 is stricter).

    Raises:
        ValueError: `n` is not positive.
    """
    if n < 1:
        raise ValueError(f"n must be positive, not {n}")
    wanted: set[tuple[str, ...]] = set()
    passages = [list(_passages(text, n)) for text in eval_texts]
    for each in passages:
        wanted.update(each)
    seen: set[tuple[str, ...]] = set()
    for text in train_texts:
        seen.update(wanted.intersection(_passages(text, n)))
    first = [next((gram for gram in each if gram in seen), None) for each in passages]
    indices = [index for index, gram in enumerate(first) if gram is not None]
    examples = list(dict.fromkeys(" ".join(gram) for gram in first if gram is not None))
    share = len(indices) / len(passages) if passages else 0.0
    return Overlap(len(indices), share, examples[:5], n, indices)


def _passages(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """The runs of `n` words of a text; the text as a whole where it is shorter, unless empty."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    if len(words) < n:
        return iter([tuple(words)] if words else [])
    return zip(*(words[start:] for start in range(n)), strict=False)


_WORD = re.compile(r"\w+")


def _unit_hash(seed: int, key: str) -> float:
    """A hash of seed and key, uniform on [0, 1)."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _canonical(value: Any) -> bytes:
    """JSON with sorted keys."""
    return json.dumps(value, sort_keys=True, default=str).encode()


def _normalised(value: Any) -> Any:
    """A value with all its text normalised."""
    if isinstance(value, str):
        return normalise(value)
    if isinstance(value, dict):
        return {key: _normalised(item) for key, item in value.items()}
    return [_normalised(item) for item in value] if isinstance(value, list) else value
