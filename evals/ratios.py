"""t intervals of functions of sums: scores that are ratios, over items or whole clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats as distributions

from evals.jackknife import jackknife_error
from evals.stats import (
    Array,
    Combine,
    Estimate,
    cluster_sums,
    describe,
    proportion_estimate,
    t_quantile,
)


def ratio_estimate(
    rows: Array, combine: Combine, clusters: Sequence[str] | None, confidence: float = 0.95
) -> Estimate:
    """combine(sum of rows (n, k)) +- t(C - 1) jackknife error over the C items or clusters.

    For the mean of rows [value, 1] this is Miller's clustered interval (2024, 2411.00640) up to
    terms of order 1/C. The ends are NaN for one unit, where leaving one out leaves the metric
    undefined, and where the units do not vary at all: no spread is no proof of certainty.
    """
    rows, clusters = taking_part(rows, clusters)
    if len(rows) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "no eligible item", 0)
    error, value, units = ratio_error(rows, combine, clusters)
    method = describe("t, jackknife", clusters, units, confidence)
    half = t_quantile(confidence, units - 1) * error if error > 0 else math.nan
    return Estimate(value, value - half, value + half, len(rows), method, units)


def taking_part(rows: Array, clusters: Sequence[str] | None) -> tuple[Array, Sequence[str] | None]:
    """Rows that are not 0 throughout, with their clusters: the others are not this number's."""
    places = np.flatnonzero(rows.any(axis=1))
    return rows[places], None if clusters is None else [clusters[int(place)] for place in places]


def ratio_p(rows: Array, combine: Combine, clusters: Sequence[str] | None) -> float:
    """Two-sided p of a value of 0 by the same t; NaN where there is no interval."""
    error, value, units = ratio_error(rows, combine, clusters)
    if not error > 0:
        return math.nan
    return float(2 * distributions.t.sf(abs(value) / error, units - 1))


def ratio_error(
    rows: Array, combine: Combine, clusters: Sequence[str] | None
) -> tuple[float, float, int]:
    """Jackknife error (NaN if undefined), value, and the number of units."""
    units = cluster_sums(rows, clusters)
    total = units.sum(axis=0)
    error = jackknife_error(combine(total - units)) if len(units) > 1 else math.nan
    return error, float(combine(total)), len(units)


def share_estimate(
    rows: Array, clusters: Sequence[str] | None, confidence: float = 0.95
) -> Estimate:
    """Share of hits among the eligible items, rows [hit, eligible] (n, 2): as a proportion's.

    n counts the eligible items; without any, the value is NaN.
    """
    rows, clusters = taking_part(rows, clusters)
    if len(rows) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "no eligible item", 0)
    return proportion_estimate(rows[:, 0], clusters, confidence)
