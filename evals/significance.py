"""Paired comparisons of two models on the same items: effect and interval first, p beside them.

0/1 outcomes: exact McNemar and Tango's score interval. Everything else: a permutation test that
swaps the two models' rows inside an item (for means this is the sign-flip test) with a t interval
of the difference. Clusters are swapped and drawn whole. Every comparison states the
smallest true difference it would have found with 80 % power, so that a null can be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats as distributions

from evals.jackknife import jackknife_error
from evals.power import detectable
from evals.proportions import tango
from evals.stats import (
    Array,
    Combine,
    Estimate,
    MeanError,
    Resampling,
    bootstrap,
    cluster_sums,
    mean_error,
    mean_estimate,
    normal_quantile,
    t_quantile,
)

# Up to this many units all 2^n swaps are enumerated, and the p-value is exact.
_ENUMERATE = 10
_BLOCK = 2**23


@dataclass(frozen=True)
class Difference:
    """After minus before on the same items."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided, of no difference."""
    test: str
    n: int
    mde: float
    """Smallest true difference found with 80 % power at this n and level."""
    units: int
    """Items or clusters that the interval is over."""
    gained: int | None = None
    lost: int | None = None
    """Items that turned right and wrong, of 0/1 outcomes: what Tango's test needs."""


class Pair(NamedTuple):
    """Rows (n, k) of two models on the same items in the same order, and the items' clusters."""

    before: Array
    after: Array
    clusters: Sequence[str] | None = None


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p of equal chances to gain and to lose (McNemar 1947); 1 without either."""
    if gained + lost == 0:
        return 1.0
    tail = distributions.binom.cdf(min(gained, lost), gained + lost, 0.5)
    return min(1.0, 2 * float(tail))


class Shift(NamedTuple):
    """Interval of a difference and its standard error."""

    low: float
    high: float
    error: float


def bonett_price(gained: int, lost: int, n: int, confidence: float = 0.95) -> Shift:
    """Interval of a paired difference of proportions, and its standard error.

    Laplace-adjusted Wald (Bonett and Price 2012, J. Educ. Behav. Stat. 37:479): with
    p = (gained + 1)/(n + 2) and q = (lost + 1)/(n + 2) it is
    p - q +- z sqrt((p + q - (p - q)^2)/(n + 2)). Its error is above 0 even where no item changed;
    its ends are too close one by one where changes are rare (docs/evals.md), so intervals are
    Tango's.
    """
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    error = math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    half = normal_quantile(confidence) * error
    return Shift(max(-1.0, p - q - half), min(1.0, p - q + half), error)


def compare_proportions(before: Array, after: Array, confidence: float = 0.95) -> Difference:
    """Compare two 0/1 vectors (n,) item by item."""
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    gained, lost = int(np.sum(after > before)), int(np.sum(after < before))
    low, high = tango(gained, lost, len(before), confidence)
    difference = float(after.mean() - before.mean())
    p = mcnemar(gained, lost)
    mde = detectable(bonett_price(gained, lost, len(before)).error, confidence)
    n = len(before)
    return Difference(difference, low, high, p, "exact McNemar", n, mde, n, gained, lost)


def compare_means(
    before: Array, after: Array, clusters: Sequence[str] | None, resampling: Resampling
) -> Difference:
    """Compare the means of two value vectors (n,) item by item."""
    changes = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    estimate = mean_estimate(changes, clusters, resampling.confidence)
    p = sign_flip(changes, clusters, resampling)
    mde = detectable(mean_error(changes, clusters).error, resampling.confidence)
    name = "sign-flip permutation" if clusters is None else "sign-flip permutation of clusters"
    ends = estimate.low, estimate.high
    return Difference(estimate.value, *ends, p, name, len(changes), mde, estimate.units)


def compare_functions(pair: Pair, combine: Combine, resampling: Resampling) -> Difference:
    """Compare combine(sum of rows) of two models: t interval, permutation p.

    For differences of F1, BLEU and perplexity t with the jackknife's standard error covers better
    than BCa, which is too narrow (docs/evals.md). Without any item all is NaN.
    """
    if not len(pair.before):
        nothing = math.nan
        return Difference(nothing, nothing, nothing, nothing, "permutation", 0, nothing, 0)
    difference, error, units = change_error(pair, combine)
    before = cluster_sums(pair.before, pair.clusters)
    after = cluster_sums(pair.after, pair.clusters)
    p = permutation(before, after, combine, resampling)
    half = t_quantile(resampling.confidence, units - 1) * error if units > 1 else math.nan
    low, high = difference - half, difference + half
    mde = detectable(error, resampling.confidence)
    return Difference(difference, low, high, p, "permutation", len(pair.before), mde, units)


def change_error(pair: Pair, combine: Combine) -> MeanError:
    """After minus before with the jackknife's standard error over units left out of both models.

    The error is NaN for a single unit, or where leaving one out makes the metric undefined.
    """
    rows, change = np.concatenate([pair.before, pair.after], axis=1), _change(combine)
    units = cluster_sums(rows, pair.clusters)
    total = units.sum(axis=0)
    error = jackknife_error(change(total - units)) if len(units) > 1 else math.nan
    return MeanError(float(change(total)), error, len(units))


def paired_bootstrap(pair: Pair, combine: Combine, resampling: Resampling) -> Estimate:
    """After minus before with a BCa interval; each draw serves both models (Koehn 2004, W04-3250).

    What sacrebleu and many papers report. `compare_functions` does not use it: its intervals of
    differences are too narrow below some hundred items.
    """
    rows = np.concatenate([pair.before, pair.after], axis=1)
    return bootstrap(rows, _change(combine), pair.clusters, resampling)


def _change(combine: Combine) -> Combine:
    """Metric of the second model minus that of the first, whose sums stand side by side."""

    def change(sums: Array) -> Array:
        before, after = np.split(sums, 2, axis=-1)
        return combine(after) - combine(before)

    return change


def sign_flip(values: Array, clusters: Sequence[str] | None, resampling: Resampling) -> float:
    """Two-sided p of a mean of zero: the signs of whole clusters are flipped."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    sums = cluster_sums(column, clusters)
    return permutation(np.zeros_like(sums), sums, lambda total: total[..., 0], resampling)


def permutation(before: Array, after: Array, combine: Combine, resampling: Resampling) -> float:
    """Two-sided p of no difference, by swapping the models inside each unit.

    p = (1 + #{|swapped| >= |observed|}) / (1 + R); with up to 10 units all 2^n swaps are counted
    and p is exact. Undefined swaps count as extreme. NaN if the difference is undefined.

    Args:
        before: Rows (units, k) of the first model.
        after: Rows (units, k) of the second.
        combine: Metric of the sum.
        resampling: Number of swaps and seed.
    """
    changes, start, end = after - before, before.sum(axis=0), after.sum(axis=0)
    observed = abs(float(combine(end)) - float(combine(start)))
    if math.isnan(observed):
        return math.nan
    n, extreme, draws = len(changes), 0, 0
    generator = np.random.default_rng((resampling.seed, 1))
    exact = n <= _ENUMERATE
    total = 2**n if exact else resampling.resamples
    for first in range(0, total, size := max(1, _BLOCK // n)):
        b = min(size, total - first)
        if exact:
            swaps = (np.arange(first, first + b)[:, None] >> np.arange(n)) & 1
        else:
            swaps = generator.integers(0, 2, size=(b, n), dtype=np.int8)
        moved = swaps.astype(np.float64) @ changes
        swapped = np.abs(combine(end - moved) - combine(start + moved))
        # Equal differences must count, whatever the order of their sums.
        extreme += int(np.sum(~(swapped < observed - 1e-12 * max(1.0, observed))))
        draws += b
    return extreme / draws if exact else (1 + extreme) / (1 + draws)
