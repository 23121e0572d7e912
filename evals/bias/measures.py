"""Signed numbers and rates of a suite from stored rows: value, interval, counts, flags. No model.

Every group, category or occupation of a column has its row. Where nothing can be computed the value
is NaN and the flag says why; groups under 30 items are flagged, never left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evals.bias.fairness import Flags, small_flag
from evals.metrics import ratio
from evals.ratios import ratio_estimate, ratio_p, share_estimate, taking_part
from evals.significance import Pair, compare_functions, compare_proportions, sign_flip
from evals.stats import Array, Combine, Estimate, Resampling
from evals.task import TaskResult

UNDEFINED = "undefined: no eligible item"
ONE = "no interval: one cluster"
NO_INTERVAL = "no interval: clusters do not differ, or are too few"
ALL = "all"
"""Attribute of the row over all items."""


@dataclass(frozen=True)
class Measure:
    """A number that is 0 where a suite's two sides are treated alike, above it where a is ahead.

    Items whose row is 0 throughout take no part.
    """

    name: str
    stat: str
    group_a: str
    group_b: str
    unit: str
    by: tuple[str, ...] = ()
    """Columns that give one more row a value."""
    combine: Combine = ratio
    """From sums (..., k) to values."""
    counted: bool = True
    """Whether the sums' first two columns are shown as numerator and denominator."""


def above_half(sums: Array) -> Array:
    """Hits / eligible - 1/2 of sums [hits, eligible]."""
    above: Array = ratio(sums) - 0.5
    return above


@dataclass(frozen=True)
class ShareMeasure(Measure):
    """The share of hits above one half; rows [hit, eligible] of 0 and 1."""

    combine: Combine = above_half


@dataclass(frozen=True)
class Rate:
    """A share that is shown for every group of some columns; rows [hit, eligible]."""

    name: str
    stat: str
    by: tuple[str, ...]


def levels(
    result: TaskResult, measures: Sequence[Measure], resampling: Resampling
) -> list[dict[str, Any]]:
    """Rows of the ledger's `bias` without `stage` and `task`.

    Shares: Wilson over clusters, binomial or sign-flip p; other measures: t with C - 1 degrees of
    freedom.
    """
    rows = []
    for measure in measures:
        for attribute, inside in _parts(result, measure.by):
            used, clusters = _used(result, measure.stat, inside)
            row = _head(measure, attribute) | _level(measure, used, clusters, resampling)
            rows.append(row | {"unit": measure.unit})
    return rows


def changes(
    before: TaskResult, after: TaskResult, measures: Sequence[Measure], resampling: Resampling
) -> list[dict[str, Any]]:
    """Rows of the ledger's `bias_comparisons` without `task`, `before` and `after`.

    Paired on the items: exact McNemar for shares of independent items, permutation of the models'
    rows inside whole clusters otherwise.
    """
    rows = []
    for measure in measures:
        for attribute, inside in _parts(after, measure.by):
            pair = _pair(before, after, measure.stat, inside)
            rows.append(_head(measure, attribute) | _change(measure, pair, resampling))
    return rows


def group_rates(
    result: TaskResult, rates: Sequence[Rate], resampling: Resampling
) -> list[dict[str, Any]]:
    """Rows of the ledger's `groups` without `stage` and `task`; `n` is the group's size."""
    rows = []
    for rate in rates:
        for column in rate.by:
            names = result.columns[column]
            for group in sorted(set(names)):
                inside = np.array([name == group for name in names])
                used, clusters = _used(result, rate.stat, inside)
                row = {"attribute": column, "group": group, "metric": rate.name}
                estimate = share_estimate(used, clusters, resampling.confidence)
                # n is the group, the denominator its eligible items
                counted = {"n": int(inside.sum())} | _counts(used)
                ends = {key: _known(getattr(estimate, key)) for key in ("value", "low", "high")}
                flag = small_flag(estimate.n) if estimate.n else UNDEFINED
                rows.append(row | ends | counted | {"flag": flag})
    return rows


def _level(
    measure: Measure, rows: Array, clusters: Sequence[str] | None, resampling: Resampling
) -> dict[str, Any]:
    """Value, interval, p, counts and flag."""
    units = len(rows) if clusters is None else len(set(clusters))
    shown = _counts(rows) if measure.counted else {"numerator": None, "denominator": None}
    counted = {"n": len(rows), "clusters": units} | shown
    found, p = _estimate(measure, rows, clusters, resampling)
    row = {"value": found.value, "low": found.low, "high": found.high, "p": p}
    return row | counted | {"flag": _flag(found, len(rows), units)}


def _estimate(
    measure: Measure, rows: Array, clusters: Sequence[str] | None, resampling: Resampling
) -> tuple[Estimate, float]:
    """The number with its interval, and the p of 0."""
    if len(rows) == 0:
        return ratio_estimate(rows, measure.combine, None), math.nan
    if not isinstance(measure, ShareMeasure):
        found = ratio_estimate(rows, measure.combine, clusters, resampling.confidence)
        return found, ratio_p(rows, measure.combine, clusters)
    share = share_estimate(rows, clusters, resampling.confidence)
    value, low, high = share.value - 0.5, share.low - 0.5, share.high - 0.5
    found = replace(share, value=value, low=low, high=high)
    return found, _share_p(rows, clusters, resampling)


def _share_p(rows: Array, clusters: Sequence[str] | None, resampling: Resampling) -> float:
    """Two-sided p of a share of one half: exact binomial, or signs of whole clusters flipped."""
    from scipy.stats import binomtest

    if clusters is None:
        return float(binomtest(int(rows[:, 0].sum()), len(rows)).pvalue)
    return sign_flip(rows[:, 0] - rows[:, 1] / 2, clusters, resampling)


def _change(measure: Measure, pair: Pair, resampling: Resampling) -> dict[str, Any]:
    """Difference, interval, p and counts."""
    n = len(pair.before)
    units = n if pair.clusters is None else len(set(pair.clusters))
    tail = {"n": n, "clusters": units}
    if n == 0:
        return dict.fromkeys(("difference", "low", "high", "p", "mde"), math.nan) | tail
    if isinstance(measure, ShareMeasure) and _independent(pair):
        found = compare_proportions(pair.before[:, 0], pair.after[:, 0], resampling.confidence)
    else:
        found = compare_functions(pair, measure.combine, resampling)
    keys = ("difference", "low", "high", "p", "mde")
    return {key: getattr(found, key) for key in keys} | tail


def _independent(pair: Pair) -> bool:
    """Whether every item stands alone and is eligible for both models."""
    return pair.clusters is None and bool((pair.before[:, 1] * pair.after[:, 1] > 0).all())


def _head(measure: Measure, attribute: str) -> dict[str, Any]:
    """What is compared."""
    groups = {"group_a": measure.group_a, "group_b": measure.group_b}
    return {"measure": measure.name, "attribute": attribute, **groups, "control": False}


def _parts(result: TaskResult, columns: Sequence[str]) -> Iterator[tuple[str, Flags]]:
    """All items, then those of each value of each column, in alphabetical order."""
    yield ALL, np.ones(len(result.ids), dtype=bool)
    for column in columns:
        names = result.columns[column]
        for name in sorted(set(names)):
            yield name, np.array([other == name for other in names])


def _used(result: TaskResult, stat: str, inside: Flags) -> tuple[Array, Sequence[str] | None]:
    """Rows and clusters of the items that take part."""
    names = result.clusters
    clusters = None if names is None else [names[i] for i in np.flatnonzero(inside)]
    return taking_part(result.stats[stat][inside], clusters)


def _pair(before: TaskResult, after: TaskResult, stat: str, inside: Flags) -> Pair:
    """Rows of both models on the items that take part for one of them."""
    width = before.stats[stat].shape[1]
    stats = {stat: np.concatenate([before.stats[stat], after.stats[stat]], axis=1)}
    rows, clusters = _used(replace(after, stats=stats), stat, inside)
    return Pair(rows[:, :width], rows[:, width:], clusters)


def _counts(rows: Array) -> dict[str, float]:
    """Numerator and denominator; whole ones as integers."""
    sums = rows[:, :2].sum(axis=0).tolist()
    whole = [int(value) if value == int(value) else value for value in sums]
    return {"numerator": whole[0], "denominator": whole[1]}


def _flag(found: Estimate, n: int, units: int) -> str:
    """Why a number is missing, has no interval or is weak."""
    if math.isnan(found.value):
        return UNDEFINED
    reason = ONE if units == 1 else NO_INTERVAL
    weak = reason if math.isnan(found.low) else ""
    return ", ".join(flag for flag in (small_flag(n), weak) if flag)


def _known(value: float) -> float | None:
    """NaN as None, as in the group tables of classification."""
    return None if math.isnan(value) else value
