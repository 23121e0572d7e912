"""Estimates with intervals from rows of sufficient statistics: pure numpy and scipy.

Every metric is a function of the sum of its items' rows, so one resampler serves all of them: draw
multinomial counts over the items, multiply with the rows, combine. Clusters are summed before they
are drawn. Two models are paired by drawing once for both (see `evals.significance`).

Definitions of the degenerate cases: no item is an error; one unit (item or cluster) has a value
but no bootstrap or t interval (NaN ends); a metric that is undefined (NaN) on the full sample has
NaN everywhere; undefined replicates are left out, and over 5 % of them make the ends NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

Array = NDArray[np.float64]
Combine = Callable[[Array], Array]

# Most entries of one block of resampling counts (float64: 64 MB).
_BLOCK = 2**23
_MAX_UNDEFINED = 0.05


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. Ends are NaN where the data allow none."""

    value: float
    low: float
    high: float
    n: int
    """Items, also where the interval is over clusters."""
    method: str
    """How the interval was made, its coverage, and the units it resamples."""
    units: int
    """Items or clusters that the interval is over; of documents, whose lengths vary, the effective
    number."""


@dataclass(frozen=True)
class Resampling:
    """How intervals are made; the seed makes them repeatable."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0


class Interval(NamedTuple):
    """Two ends."""

    low: float
    high: float


def check_rows(rows: Array) -> Array:
    """Return the rows (n, k) as float64.

    Raises:
        ValueError: No rows, or a value is NaN or infinite: such an item is missing, not a number.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] == 0:
        raise ValueError(f"statistics need at least one row of an (items, k) array: {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("statistics hold NaN or infinite values; count those items as missing")
    return rows


def cluster_sums(rows: Array, clusters: Sequence[str] | None) -> Array:
    """Sum the rows (n, k) inside each cluster to (C, k), clusters in sorted order."""
    rows = check_rows(rows)
    if clusters is None:
        return rows
    if len(clusters) != len(rows):
        raise ValueError(f"{len(clusters)} cluster labels for {len(rows)} rows")
    names, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, index, rows)
    return sums


def _count_blocks(n: int, draws: int, generator: np.random.Generator) -> Iterator[Array]:
    """Multinomial(n, 1/n) counts of `draws` resamples, in blocks (b, n)."""
    size = max(1, _BLOCK // n)
    for start in range(0, draws, size):
        b = min(size, draws - start)
        drawn = generator.integers(0, n, size=(b, n)) + n * np.arange(b)[:, None]
        yield np.bincount(drawn.ravel(), minlength=b * n).reshape(b, n).astype(np.float64)


def resample_sums(units: Array, resampling: Resampling) -> Array:
    """Sums of `resamples` seeded draws with replacement of the units (n, k): (R, k).

    Stacking two models' columns side by side pairs them: both see the same draws.
    """
    units = check_rows(units)
    generator = np.random.default_rng(resampling.seed)
    blocks = _count_blocks(len(units), resampling.resamples, generator)
    return np.concatenate([counts @ units for counts in blocks])


def bca_interval(value: float, replicates: Array, jackknife: Array, confidence: float) -> Interval:
    """Bias-corrected and accelerated interval (Efron 1987, JASA 82:171), expanded for few units.

    Its quantiles z are those of sqrt(n/(n-1)) t(n-1): resamples spread less than samples do, and
    their spread is itself estimated (Hesterberg 2015, Am. Stat. 69:371, section 3.3).

    Args:
        value: The metric on the full sample.
        replicates: The metric on R resamples.
        jackknife: The metric with each unit left out, (n,), n > 1; undefined values are ignored.
        confidence: Coverage.

    Returns:
        NaN ends if the value or over 5 % of the replicates are undefined.
    """
    defined = np.isfinite(replicates)
    if not math.isfinite(value) or defined.mean() < 1 - _MAX_UNDEFINED:
        return Interval(math.nan, math.nan)
    replicates = replicates[defined]
    n = len(jackknife)
    expanded = math.sqrt(n / (n - 1)) * t_quantile(confidence, n - 1)
    quantiles = np.array([-expanded, expanded])
    # Rounding makes equal sums differ in the last bits; ties count half on both sides.
    tolerance = 1e-12 * max(1.0, abs(value))
    below = np.mean(replicates < value - tolerance)
    below += np.mean(np.abs(replicates - value) <= tolerance) / 2
    if 0 < below < 1:
        bias = distributions.norm.ppf(below)
        shifted = bias + quantiles
        quantiles = bias + shifted / (1 - _acceleration(jackknife) * shifted)
    low, high = np.quantile(replicates, distributions.norm.cdf(quantiles))
    return Interval(float(low), float(high))


def _acceleration(jackknife: Array) -> float:
    """Skewness of the jackknife values over 6: sum d^3 / (6 (sum d^2)^(3/2))."""
    jackknife = jackknife[np.isfinite(jackknife)]
    if len(jackknife) == 0:
        return 0.0
    deviations = jackknife.mean() - jackknife
    spread = float(np.sum(deviations**2)) ** 1.5
    return float(np.sum(deviations**3)) / (6 * spread) if spread > 0 else 0.0


def bootstrap(
    rows: Array, combine: Combine, clusters: Sequence[str] | None, resampling: Resampling
) -> Estimate:
    """Estimate combine(sum of rows (n, k)) with a BCa interval over items or clusters."""
    units = cluster_sums(rows, clusters)
    total = units.sum(axis=0)
    value = float(combine(total))
    kind = f"BCa bootstrap, {resampling.resamples} resamples"
    method = describe(kind, clusters, len(units), resampling.confidence)
    if len(units) < 2:
        return Estimate(value, math.nan, math.nan, len(rows), method, len(units))
    replicates = combine(resample_sums(units, resampling))
    ends = bca_interval(value, replicates, combine(total - units), resampling.confidence)
    return Estimate(value, ends.low, ends.high, len(rows), method, len(units))


def describe(kind: str, clusters: Sequence[str] | None, units: int, confidence: float) -> str:
    """The method's name as it stands beside the number."""
    over = "" if clusters is None else f", {units} clusters"
    return f"{kind}{over}, {confidence:.4g}"


def wilson(hits: float, n: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927, JASA 22:209).

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"a proportion needs 0 <= hits <= n and n >= 1: {hits} of {n}")
    p, z = hits / n, normal_quantile(confidence)
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and n the end is exact; the formula leaves a rounding error there.
    low = 0.0 if hits == 0 else (centre - half) / scale
    return Interval(low, 1.0 if hits == n else (centre + half) / scale)


def t_quantile(confidence: float, freedom: int) -> float:
    """The t of a two-sided interval with `freedom` degrees of freedom."""
    return float(distributions.t.ppf((1 + confidence) / 2, freedom))


def normal_quantile(confidence: float) -> float:
    """The z of a two-sided interval: 1.96 at 0.95."""
    return float(distributions.norm.ppf((1 + confidence) / 2))


class MeanError(NamedTuple):
    """A mean or difference, its clustered standard error, and the number of clusters."""

    mean: float
    error: float
    units: int


def mean_error(values: Array, clusters: Sequence[str] | None) -> MeanError:
    """Mean of values (n,) with the clustered standard error of Miller 2024 (2411.00640).

    SE = sqrt(C/(C-1) sum_c (sum_{i in c} (x_i - mean))^2) / n; without clusters it is sd/sqrt(n).
    The error is NaN for a single cluster.
    """
    values = np.asarray(values, dtype=np.float64)
    units = cluster_sums(np.stack([values, np.ones_like(values)], axis=1), clusters)
    mean = float(values.mean())
    if len(units) < 2:
        return MeanError(mean, math.nan, len(units))
    residuals = units[:, 0] - mean * units[:, 1]
    correction = len(units) / (len(units) - 1)
    error = math.sqrt(correction * float(np.sum(residuals**2))) / len(values)
    return MeanError(mean, error, len(units))


def without_interval(rows: Array, combine: Combine) -> Estimate:
    """A metric of rows (n, k) whose bias is larger than its error: an interval would mislead."""
    value, n = float(combine(rows.sum(axis=0))), len(rows)
    return Estimate(value, math.nan, math.nan, n, "no interval: biased for few items", n)


def mean_estimate(
    values: Array, clusters: Sequence[str] | None = None, confidence: float = 0.95
) -> Estimate:
    """Mean of values (n,) with a t interval, C - 1 degrees of freedom over clusters."""
    mean, error, units = mean_error(values, clusters)
    method = describe("t", clusters, units, confidence)
    if math.isnan(error):
        return Estimate(mean, math.nan, math.nan, len(values), method, units)
    half = t_quantile(confidence, units - 1) * error
    return Estimate(mean, mean - half, mean + half, len(values), method, units)


def proportion_estimate(
    hits: Array, clusters: Sequence[str] | None = None, confidence: float = 0.95
) -> Estimate:
    """Share of hits (n,), each 0 or 1 (or 1/2 for a tie).

    Wilson's interval, over clusters Korn and Graubard's; p +- t SE is too narrow near 0 and 1.
    """
    hits = np.asarray(hits, dtype=np.float64)
    if clusters is None:
        ends = wilson(float(hits.sum()), len(hits), confidence)
        method = describe("Wilson", None, 0, confidence)
        return Estimate(float(hits.mean()), *ends, len(hits), method, len(hits))
    share = mean_error(hits, clusters)
    method = describe("Korn-Graubard", clusters, share.units, confidence)
    ends = korn_graubard(share, len(hits), confidence)
    return Estimate(share.mean, *ends, len(hits), method, share.units)


def korn_graubard(share: MeanError, n: int, confidence: float = 0.95) -> Interval:
    """Interval of a share of `n` clustered items (Korn and Graubard 1998, Surv. Methodol. 24:193).

    Clopper-Pearson's with the effective number of items, at most n:
    p (1 - p) / SE^2 (t(n - 1) / t(C - 1))^2. Where clusters do not vary at all it is C.
    """
    if share.error > 0:
        wider = t_quantile(confidence, share.units - 1) / t_quantile(confidence, n - 1)
        effective = min(n, share.mean * (1 - share.mean) / (wider * share.error) ** 2)
    else:
        effective = share.units
    hits, tail = share.mean * effective, (1 - confidence) / 2
    low = distributions.beta.ppf(tail, hits, effective - hits + 1) if hits > 0 else 0.0
    misses = effective - hits
    high = distributions.beta.ppf(1 - tail, hits + 1, misses) if misses > 0 else 1.0
    return Interval(float(low), float(high))
