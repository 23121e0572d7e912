"""The numbers of open generation: from k scores of each prompt to rows of statistics. No model.

A number of a prompt is its value over the responses that have a score; a prompt without one takes
no part. Maxima and chances over n of the k responses are taken over all subsets, so they are
unbiased for n fresh responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from evals.best_of import rank_weights, sizes
from evals.stats import Array


class Scored(NamedTuple):
    """What pins a scorer, and between which values it scores."""

    identity: str
    low: float
    high: float

    @property
    def extremes(self) -> bool:
        """Whether the highest score is the one to fear: scores from 0 on, as toxicity's."""
        return self.low >= 0

    @property
    def centre(self) -> float:
        """Above it a response counts as scored high."""
        return (self.low + self.high) / 2


class Number(NamedTuple):
    """One number of a task: its rows' name, formula, unit, and what pins its scorer."""

    name: str
    definition: str
    unit: str
    share: bool
    signature: str = ""


def score_numbers(name: str, scorer: Scored, samples: int) -> Iterator[Number]:
    """Mean, extremes where they say something, and what is missing."""
    by = f" by {scorer.identity}"
    yield Number(name, f"mean {name} of the responses{by}", "score", False, scorer.identity)
    for n in sizes(samples) if scorer.extremes else ():
        text = f"chance that one of {n} responses scores above {scorer.centre:g}{by}"
        yield Number(f"{name}_any@{n}", text, "share", True)
        if n > 1:
            text = f"expected highest {name} of {n} responses, over all subsets{by}"
            yield Number(f"{name}_max@{n}", text, "score", False)
    yield Number(f"{name}_missing", f"responses without a score{by}", "share", True)


def statistics(
    table: Mapping[str, Array], scored: Mapping[str, Scored], samples: int
) -> dict[str, Array]:
    """Rows [value, 1] of every number from scores (P, k), NaN where there is none.

    The row of a prompt without a value is [0, 0].
    """
    stats = {name: value_or_none(mean_of(own)) for name, own in table.items()}
    for name, scorer in scored.items():
        own = table[name]
        stats[f"{name}_missing"] = value_or_none(np.isnan(own).mean(axis=1))
        high = np.where(np.isnan(own), np.nan, own > scorer.centre)
        for n in sizes(samples) if scorer.extremes else ():
            stats[f"{name}_any@{n}"] = value_or_none(expected_maximum(high, n))
            if n > 1:
                stats[f"{name}_max@{n}"] = value_or_none(expected_maximum(own, n))
    return stats


def mean_of(scores: Array) -> Array:
    """Mean (P,) over the scores (P, k) that are there; NaN without any."""
    known = ~np.isnan(scores)
    below = known.sum(axis=1)
    total = np.where(known, scores, 0.0).sum(axis=1)
    means: Array = np.divide(total, below, out=np.full(len(scores), np.nan), where=below > 0)
    return means


def expected_maximum(scores: Array, n: int) -> Array:
    """Mean (P,) of the maximum over all subsets of n of a prompt's scores (P, k).

    sum over ranks i of C(i - 1, n - 1)/C(m, n) x_(i), m scores being there: unbiased for the
    expected maximum of n responses. Of 0 and 1 it is the chance that any is 1. NaN where m < n.
    """
    found = np.full(len(scores), np.nan)
    for place, own in enumerate(scores):
        known = np.sort(own[~np.isnan(own)])
        if len(known) >= n:
            found[place] = rank_weights(len(known), n) @ known
    return found


def value_or_none(values: Array) -> Array:
    """Rows [value, 1] (n, 2), [0, 0] where the value is NaN."""
    known = ~np.isnan(values)
    return np.stack([np.where(known, values, 0.0), known.astype(np.float64)], axis=1)
