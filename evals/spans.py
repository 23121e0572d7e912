"""Words of a text that are left out one at a time, and the items that are worth the look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evals.stats import Array

CASES, WORDS = 6, 5
"""Items shown, and spans of each side."""


def largest_of_each(
    rows: Sequence[Mapping[str, Any]], differences: Array, most: int = CASES
) -> list[int]:
    """Places of the largest differences (n,) of each attribute, largest first, controls apart."""
    found: dict[str, int] = {}
    for index in np.argsort(-np.abs(differences), kind="stable").tolist():
        if not rows[index]["control"]:
            found.setdefault(rows[index]["attribute"], index)
    return list(found.values())[:most]


def largest_drops(drops: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The spans with the largest drops, whatever their sign; those without one left out."""
    return sorted((d for d in drops if np.isfinite(d["drop"])), key=lambda d: -abs(d["drop"]))[
        :WORDS
    ]


def split_spans(text: str, term: str) -> list[str]:
    """Words of `text`, the first occurrence of `term` (compared without case) kept in one."""
    start = text.lower().find(term.lower())
    if start < 0:
        return text.split()
    end = start + len(term)
    # Punctuation behind a term belongs to its span, as it does for single words.
    while end < len(text) and not text[end].isspace():
        end += 1
    return [*text[:start].split(), text[start:end], *text[end:].split()]
