"""Groups compared: signed differences of rates with intervals, and gaps with a permutation p.

The gap between the largest and the smallest group is positive even for identical groups. So pairs
of groups are compared by signed differences - of selection rates (demographic parity), of true and
false positive rates (equalised odds) - and fairlearn's differences and ratios, which are gaps,
stand beside the p of groups assigned at random. Whether a difference is unfair is for people to
say.

Departure from fairlearn: a group without an eligible item has no rate and is left out of that gap,
where fairlearn counts a rate of 0; and items of unknown membership are no group of a gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.bias.fairness import Classified, Share, is_known, known, rates, small_flag
from evals.bias.permuted import permuted_counts
from evals.metrics import ratio
from evals.multiplicity import benjamini_hochberg
from evals.proportions import newcombe
from evals.ratios import ratio_estimate, ratio_p, share_estimate
from evals.stats import Array, Interval, Resampling

ODDS = ("true_positive_rate", "false_positive_rate")
"""Rates whose worse gap is the equalised odds difference."""
Named = Mapping[str, Sequence[str]]


class Gap(NamedTuple):
    """Largest minus smallest rate of some groups, their ratio smallest / largest, and intervals."""

    difference: float
    ratio: float
    between: Interval
    """Of the difference."""
    times: Interval
    """Of the ratio."""


def group_differences(data: Classified, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Signed difference, first group minus second, of every rate for every pair of groups.

    Independent items: Newcombe's hybrid score interval (1998, Stat. Med. 17:873) and Fisher's exact
    p. Clusters: t over clusters with the jackknife's error, which holds where a cluster has items
    of both groups. q is Benjamini-Hochberg's over all rows.

    Returns:
        Rows {attribute, metric, group_a, group_b, value, low, high, p, n_a, n_b, flag, q}, n being
        eligible items; a pair with no eligible item in a group is left out.
    """
    rows = []
    for attribute, names in data.attributes():
        for metric, share in rates(data).items():
            counted = _counted(share, names)
            for a, b in combinations(counted, 2):
                row: dict[str, Any] = {"attribute": attribute, "metric": metric}
                row |= {"group_a": a, "group_b": b}
                row |= _difference(counted[a], counted[b], data.clusters, confidence)
                n = [int(counted[group][:, 1].sum()) for group in (a, b)]
                flag = interval_flag(row["low"], min(n))
                rows.append(row | {"n_a": n[0], "n_b": n[1], "flag": flag})
    return with_q(rows)


def group_gaps(data: Classified, resampling: Resampling | None = None) -> list[dict[str, Any]]:
    """Gaps of every rate over the known groups: fairlearn's differences and ratios.

    `selection_rate` is the demographic parity difference and ratio, `true_positive_rate` equal
    opportunity's, `equalized_odds` the worse of those of true and false positives.

    The interval holds all differences of pairs at once: theirs at confidence 1 - (1 - c) / pairs,
    and of those ends the largest that a pair shows and that a pair allows. The ratio's comes so
    from the rates' own. Both are wider than they need to be. p: see `evals.bias.permuted`; q over
    all rows.

    Returns:
        Rows {attribute, metric, value, low, high, ratio, ratio_low, ratio_high, p, groups, n, flag,
        q}.
    """
    resampling = resampling or Resampling()
    rows = []
    for attribute, names in data.attributes():
        for metric, shares in _gap_metrics(rates(data)).items():
            row = _gap_row(shares, names, data.clusters, resampling)
            if row:
                rows.append({"attribute": attribute, "metric": metric} | row)
    return with_q(rows)


def largest_gap(sums: Array) -> Array:
    """Largest minus smallest rate of sums (..., G, 2) [hits, eligible]; NaN below two groups."""
    found = ratio(sums)
    defined = np.isfinite(found)
    high = np.where(defined, found, -math.inf).max(axis=-1)
    low = np.where(defined, found, math.inf).min(axis=-1)
    return np.where(defined.sum(axis=-1) > 1, high - low, math.nan)


def rate_difference(sums: Array) -> Array:
    """First rate minus second of sums (..., 4) [hits, eligible, hits, eligible]."""
    difference: Array = ratio(sums) - ratio(sums, 2, 3)
    return difference


def interval_flag(low: float | None, n: int) -> str:
    """Flags of a comparison whose smaller side has `n` items."""
    lost = "" if low is not None else "no interval: too few clusters, or they do not differ"
    return ", ".join(flag for flag in (small_flag(n), lost) if flag)


def with_q(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `q`, Benjamini and Hochberg's over those that have a p."""
    tested = [row for row in rows if row["p"] is not None]
    adjusted = benjamini_hochberg([row["p"] for row in tested])
    found = {id(row): q for row, q in zip(tested, adjusted, strict=True)}
    return [row | {"q": found.get(id(row))} for row in rows]


def _counted(share: Share, names: NDArray[np.str_]) -> dict[str, Array]:
    """Rows [hit, 1] of each group that has an eligible item, by name."""
    found = {group: share.rows(names == group) for group in sorted(set(names.tolist()))}
    return {group: rows for group, rows in found.items() if rows[:, 1].any()}


def _difference(
    a: Array, b: Array, clusters: Sequence[str] | None, confidence: float
) -> dict[str, Any]:
    """Value, interval and p of one pair, from rows [hit, eligible] of both."""
    if clusters is not None:
        rows = np.concatenate([a, b], axis=1)
        found = ratio_estimate(rows, rate_difference, clusters, confidence)
        p = ratio_p(rows, rate_difference, clusters)
        return {"value": found.value, "low": known(found.low), "high": known(found.high)} | {
            "p": known(p)
        }
    from scipy.stats import fisher_exact

    (hits_a, n_a), (hits_b, n_b) = _whole(a), _whole(b)
    ends = newcombe((hits_a, n_a), (hits_b, n_b), confidence)
    table = [[hits_a, n_a - hits_a], [hits_b, n_b - hits_b]]
    value = hits_a / n_a - hits_b / n_b
    return {"value": value, "low": ends.low, "high": ends.high} | {
        "p": float(fisher_exact(table).pvalue)
    }


def _whole(rows: Array) -> tuple[int, int]:
    """Hits and eligible items."""
    hits, n = rows.sum(axis=0)
    return int(hits), int(n)


def _gap_metrics(shares: Mapping[str, Share]) -> dict[str, list[Share]]:
    """Name of a gap -> the rates of which it is the worst."""
    found = {metric: [share] for metric, share in shares.items()}
    if ODDS[0] in shares:
        found["equalized_odds"] = [shares[metric] for metric in ODDS]
    return found


def _gap_row(
    shares: list[Share],
    names: NDArray[np.str_],
    clusters: Sequence[str] | None,
    resampling: Resampling,
) -> dict[str, Any] | None:
    """The worst gap of some rates; None where one of them has fewer than two groups."""
    used = np.array([is_known(name) for name in names.tolist()])
    shares = [Share(share.eligible & used, share.hit) for share in shares]
    counted = [_counted(share, names) for share in shares]
    if min(map(len, counted)) < 2:
        return None
    tests = sum(math.comb(len(groups), 2) for groups in counted)
    limits = sum(map(len, counted))
    gaps = [_gap(groups, clusters, resampling, tests, limits) for groups in counted]
    value = max(gap.difference for gap in gaps)
    between, times = zip(*((gap.between, gap.times) for gap in gaps), strict=True)
    eligible = np.any([share.eligible for share in shares], axis=0)
    codes = np.unique(names[eligible], return_inverse=True)[1]
    inside = [Share(share.eligible[eligible], share.hit[eligible]) for share in shares]
    units = None if clusters is None else np.asarray(clusters)[eligible]
    drawn = np.max(
        [largest_gap(sums) for sums in permuted_counts(inside, codes, units, resampling)], axis=0
    )
    # Equal gaps must count, whatever the order of their sums; an undefined one counts as well.
    extreme = int(np.sum(~(drawn < value - 1e-12)))
    sizes = [int(rows[:, 1].sum()) for groups in counted for rows in groups.values()]
    low = known(max(end.low for end in between))
    return {
        "value": value,
        "low": low,
        "high": known(max(end.high for end in between)),
        "ratio": known(min(gap.ratio for gap in gaps)),
        "ratio_low": known(min(end.low for end in times)),
        "ratio_high": known(min(end.high for end in times)),
        "p": (1 + extreme) / (1 + resampling.resamples),
        "groups": max(map(len, counted)),
        "n": int(eligible.sum()),
        "flag": interval_flag(low, min(sizes)),
    }


def _gap(
    groups: Mapping[str, Array],
    clusters: Sequence[str] | None,
    resampling: Resampling,
    tests: int,
    limits: int,
) -> Gap:
    """The gap of one rate; the error is shared out over so many differences, and rates."""
    alpha = 1 - resampling.confidence
    pairs = [
        _difference(a, b, clusters, 1 - alpha / tests) for a, b in combinations(groups.values(), 2)
    ]
    ends = [math.nan if row[end] is None else row[end] for row in pairs for end in ("low", "high")]
    low, high = np.array(ends).reshape(-1, 2).T
    between = Interval(
        float(np.maximum(0, np.maximum(low, -high)).max()), float(np.maximum(high, -low).max())
    )
    found = [share_estimate(rows, clusters, 1 - alpha / limits) for rows in groups.values()]
    values = [estimate.value for estimate in found]
    least, most = np.array([(estimate.low, estimate.high) for estimate in found]).T
    times = Interval(_over(least.min(), most.max()), min(1.0, _over(most.min(), least.max())))
    return Gap(max(values) - min(values), _over(min(values), max(values)), between, times)


def _over(small: float, large: float) -> float:
    """A ratio of rates: NaN of 0 to 0, infinite above that."""
    if large == 0:
        return math.nan if small == 0 else math.inf
    return float(small / large)
