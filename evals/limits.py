"""One-sided p-values of a limit from a stored number: each is the other side of its interval.

Where the stored row tells the test behind its interval, that test is made at the limit: Wilson's
score test of a proportion, Tango's of a paired difference, t of the logarithm for perplexities.
Every other interval is read as one of t: its middle, its half width, its units - 1 degrees of
freedom. So p <= (1 - confidence)/2 exactly where the interval's end clears the limit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import stats as distributions

from evals.evidence import Evidence
from evals.proportions import tango_statistic
from evals.stats import t_quantile


class Statistic(NamedTuple):
    """How far a number lies above a limit, in standard errors; NaN without an interval."""

    value: float
    freedom: float = math.inf
    """Degrees of freedom of t; infinite: normal."""


def p_not_above(evidence: Evidence, limit: float, confidence: float) -> float:
    """P of a true value of `limit` or less; small where the data show that it is above."""
    statistic, freedom = _statistic(evidence, limit, confidence)
    return float(distributions.t.sf(statistic, freedom))


def p_not_below(evidence: Evidence, limit: float, confidence: float) -> float:
    """P of a true value of `limit` or more; small where the data show that it is below."""
    statistic, freedom = _statistic(evidence, limit, confidence)
    return float(distributions.t.cdf(statistic, freedom))


def _statistic(evidence: Evidence, limit: float, confidence: float) -> Statistic:
    """The stored test's statistic at a limit."""
    row, n = evidence.row, evidence.n
    method = str(row.get("method") or row.get("test") or "")
    if n and method.startswith("Wilson, "):
        return _score(evidence.value, n, limit)
    if n and row.get("gained") is not None and row.get("lost") is not None:
        if abs(limit) >= 1:
            return Statistic(-math.copysign(math.inf, limit))
        return Statistic(tango_statistic(int(row["gained"]), int(row["lost"]), n, limit))
    units = int(row.get("units") or row.get("clusters") or n or 0)
    if method.startswith("t of the logarithm"):
        if limit <= 0:
            return Statistic(math.inf)
        ends = math.log(evidence.low), math.log(evidence.high)
        return _by_t(*ends, math.log(limit), units, confidence)
    return _by_t(evidence.low, evidence.high, limit, units, confidence)


def _score(share: float, n: int, limit: float) -> Statistic:
    """Score statistic of a proportion: (p - p0) / sqrt(p0 (1 - p0) / n)."""
    variance = limit * (1 - limit) / n
    if not variance > 0:  # no other outcome is possible under such a limit
        return Statistic(-math.inf if limit >= 1 else math.inf)
    return Statistic((share - limit) / math.sqrt(variance))


def _by_t(low: float, high: float, limit: float, units: int, confidence: float) -> Statistic:
    """T (middle - limit) / half width, at whose ends the p is that of the interval."""
    half = (high - low) / 2
    if units < 2 or not half > 0:
        return Statistic(math.nan)
    freedom = units - 1
    return Statistic(t_quantile(confidence, freedom) * ((low + high) / 2 - limit) / half, freedom)
