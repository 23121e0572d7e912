"""Log-likelihoods of items that need several of them: all there, or the item counts as missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from align.errors import UserError
from evals.requests import Request
from evals.stats import Array

if TYPE_CHECKING:
    from evals.engine import Engine


class Scored(NamedTuple):
    """Log-likelihoods of the items that could be scored."""

    places: list[int]
    """Index of each scored item among all items."""
    scores: Array
    """(items, requests an item), in nats."""
    tokens: Array
    """Tokens that each of them sums over, of the same shape."""
    missing: dict[str, int]
    """Reason -> items that could not be scored."""


def score_items(engine: Engine, items: Sequence[Sequence[Request]], where: str) -> Scored:
    """Score the same number of requests for every item.

    Raises:
        UserError: No item could be scored.
    """
    flat = [request for requests in items for request in requests]
    unique = {request: place for place, request in enumerate(dict.fromkeys(flat))}
    found, owners = engine.loglikelihoods(list(unique)), [unique[request] for request in flat]
    scores = found.sums[owners].reshape(len(items), -1)
    tokens = found.tokens[owners].reshape(len(items), -1).astype(np.float64)
    finite = np.isfinite(scores).all(axis=1)
    places = [int(index) for index in np.flatnonzero(finite)]
    missing: Counter[str] = Counter()
    for index in sorted({*range(len(items))} - {*places}):
        missing[next(filter(None, map(engine.problem, items[index])), "not finite")] += 1
    if not places:
        raise UserError(f"no item could be scored ({dict(missing)})", where=where)
    return Scored(places, scores[places], tokens[places], dict(missing))
