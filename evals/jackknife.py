"""Errors from leaving one unit out, and the interval of perplexities that rests on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evals.stats import Array, Combine, Estimate, cluster_sums, describe, t_quantile


def jackknife_error(jackknife: Array) -> float:
    """Standard error from the values (n,) with each unit left out (Tukey 1958; Efron 1982).

    sqrt((n-1)/n sum (v_i - mean)^2), for a mean exactly sd/sqrt(n). NaN if one is undefined.
    """
    n = len(jackknife)
    if n < 2 or not np.isfinite(jackknife).all():
        return math.nan
    return math.sqrt((n - 1) / n * float(np.sum((jackknife - jackknife.mean()) ** 2)))


def positive_estimate(
    rows: Array, combine: Combine, clusters: Sequence[str] | None, confidence: float = 0.95
) -> Estimate:
    """Estimate combine(sum of rows (n, k)) of a positive metric without an upper bound.

    Perplexity: a smooth function of a ratio whose denominators, the documents' lengths, vary
    much. There a bootstrap is too narrow; the t interval of its logarithm with the jackknife's
    standard error covers (docs/evals.md), and its ends are positive. Few long documents tell
    most, so t has `effective_units` - 1 degrees of freedom.

    Args:
        rows: (n, k); the second column holds the items' lengths.
        combine: The metric of a sum of rows.
        clusters: Of each row.
        confidence: Coverage.
    """
    units = cluster_sums(rows, clusters)
    total = units.sum(axis=0)
    value = float(combine(total))
    count = effective_units(units[:, 1]) if len(units) > 1 else 1
    method = describe("t of the logarithm, jackknife", clusters, len(units), confidence)
    error = jackknife_error(np.log(combine(total - units))) if len(units) > 1 else math.nan
    if not (math.isfinite(error) and math.isfinite(value)):
        return Estimate(value, math.nan, math.nan, len(rows), method, len(units))
    factor = math.exp(t_quantile(confidence, count - 1) * error)
    return Estimate(value, value / factor, value * factor, len(rows), method, count)


def effective_units(lengths: Array) -> int:
    """Number of equally long units that weigh as these (n,) do, at least 2: (sum l)^2 / sum l^2.

    Kish 1965, Survey Sampling, 8.2; as degrees of freedom Carter, Schnepel and Steigerwald 2017,
    Rev. Econ. Stat. 99:698.
    """
    return max(2, round(float(lengths.sum() ** 2 / (lengths**2).sum())))
