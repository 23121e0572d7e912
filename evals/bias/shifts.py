"""What changed for the groups from one model, or rule, to another on the same items.

Every rate over everyone and in each group, every signed difference of two groups, and every gap.
The cost of a change (accuracy) and its gain (a smaller difference) so stand in one table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from evals.bias.disparity import ODDS, largest_gap, rate_difference, with_q
from evals.bias.fairness import Classified, Share, is_known, known, rates, small_flag
from evals.proportions import tango
from evals.ratios import taking_part
from evals.significance import (
    Pair,
    change_error,
    compare_means,
    compare_proportions,
)
from evals.stats import Array, Interval, MeanError, Resampling, t_quantile

EVERYONE = "everyone"
Rows = tuple[Array, Array]
"""Rows [hit, eligible] of the items before and after."""


def group_changes(
    before: Classified, after: Classified, resampling: Resampling | None = None
) -> list[dict[str, Any]]:
    """After minus before, paired on the items, of rates, differences and gaps.

    A rate: Tango's interval and exact McNemar; over clusters t and sign flips. A difference of two
    groups: the hybrid of their Tango intervals (Zou and Donner 2008, Stat. Med. 27:1693), over
    clusters t; p by t with the jackknife's error. A gap of the known groups has no interval: a gap
    that was 0 can only grow, so by chance alone every interval of its change would be above 0; the
    signed differences speak for it. q over all rows with a p.

    Returns:
        Rows {attribute, metric, kind: rate | difference | gap, group_a, group_b, before, after,
        value, low, high, p, n, flag, q}.

    Raises:
        ValueError: The two have other labels or groups.
    """
    if list(before.labels) != list(after.labels) or before.groups != after.groups:
        raise ValueError("a change is of the same items: labels and groups differ")
    resampling = resampling or Resampling()
    old, new = rates(before), rates(after)
    shares = {metric: (old[metric], new[metric]) for metric in old if metric in new}
    rows = []
    for metric, pair in shares.items():
        head = {"attribute": EVERYONE, "metric": metric, "kind": "rate", "group_a": EVERYONE}
        everyone = np.ones(len(before.labels), dtype=bool)
        row = _rate_change(_pair(pair, everyone), before.clusters, resampling)
        rows += [head | {"group_b": None} | row] if row else []
    for attribute, names in before.attributes():
        for metric, pair in shares.items():
            found = _metric_changes(pair, names, before.clusters, resampling)
            rows += [{"attribute": attribute, "metric": metric} | row for row in found]
        gaps = _gap_changes(shares, names)
        rows += [{"attribute": attribute} | row for row in gaps]
    return with_q(rows)


def _metric_changes(
    pair: tuple[Share, Share],
    names: NDArray[np.str_],
    clusters: Sequence[str] | None,
    resampling: Resampling,
) -> Iterator[dict[str, Any]]:
    """Changes of one rate in each group, then of the differences between groups."""
    groups = {group: _pair(pair, names == group) for group in sorted(set(names.tolist()))}
    groups = {group: rows for group, rows in groups.items() if rows[0][:, 1].any()}
    for group, rows in groups.items():
        found = _rate_change(rows, clusters, resampling)
        yield {"kind": "rate", "group_a": group, "group_b": None} | (found or {})
    for a, b in combinations(groups, 2):
        row = _difference_change(groups[a], groups[b], clusters, resampling.confidence)
        yield {"kind": "difference", "group_a": a, "group_b": b} | row


def _pair(pair: tuple[Share, Share], inside: NDArray[np.bool_]) -> Rows:
    """Rows [hit, eligible] before and after, (n, 2) each."""
    return pair[0].rows(inside), pair[1].rows(inside)


def _rate_change(
    rows: Rows, clusters: Sequence[str] | None, resampling: Resampling
) -> dict[str, Any] | None:
    """Change of one rate; None without an eligible item."""
    both, kept = taking_part(np.concatenate(rows, axis=1), clusters)
    if len(both) == 0:
        return None
    old, new = both[:, 0], both[:, 2]
    if kept is None:
        found = compare_proportions(old, new, resampling.confidence)
    else:
        found = compare_means(old, new, kept, resampling)
    moving = bool(np.any(old != new)) or kept is None
    return {
        "before": float(old.mean()),
        "after": float(new.mean()),
        "value": found.difference,
        "low": known(found.low) if moving else None,
        "high": known(found.high) if moving else None,
        "p": known(found.p),
        "n": found.n,
        "flag": small_flag(found.n),
    }


def _difference_change(
    a: Rows, b: Rows, clusters: Sequence[str] | None, confidence: float
) -> dict[str, Any]:
    """Change of the first group's rate minus that of the second."""
    before, after = (np.concatenate([x, y], axis=1) for x, y in zip(a, b, strict=True))
    found = change_error(Pair(before, after, clusters), rate_difference)
    if clusters is None:
        low, high = _hybrid(_tango(a, confidence), _tango(b, confidence))
    elif found.error > 0:
        half = t_quantile(confidence, found.units - 1) * found.error
        low, high = found.mean - half, found.mean + half
    else:
        low = high = math.nan
    n = [int(rows[0][:, 1].sum()) for rows in (a, b)]
    return {
        "before": float(rate_difference(before.sum(axis=0))),
        "after": float(rate_difference(after.sum(axis=0))),
        "value": found.mean,
        "low": known(low),
        "high": known(high),
        "p": _t_p(found),
        "n": sum(n),
        "flag": small_flag(min(n)),
    }


def _tango(rows: Rows, confidence: float) -> tuple[float, Interval]:
    """Change of a rate and its interval."""
    counted = rows[0][:, 1] > 0
    moves = rows[1][counted, 0] - rows[0][counted, 0]
    n = int(counted.sum())
    ends = tango(int((moves > 0).sum()), int((moves < 0).sum()), n, confidence)
    return float(moves.mean()), ends


def _hybrid(a: tuple[float, Interval], b: tuple[float, Interval]) -> Interval:
    """A - b from both intervals: d - sqrt((a - l_a)^2 + (u_b - b)^2), and likewise above."""
    (x, (low_x, high_x)), (y, (low_y, high_y)) = a, b
    down, up = math.hypot(x - low_x, high_y - y), math.hypot(high_x - x, y - low_y)
    return Interval(x - y - down, x - y + up)


def _t_p(found: MeanError) -> float | None:
    """Two-sided p of no change; 1 where nothing moved at all."""
    if found.error > 0:
        return float(2 * distributions.t.sf(abs(found.mean) / found.error, found.units - 1))
    return 1.0 if found.mean == 0 and found.error == 0 else None


def _gap_changes(
    shares: dict[str, tuple[Share, Share]], names: NDArray[np.str_]
) -> Iterator[dict[str, Any]]:
    """Gaps of the known groups before and after; the worse of two for equalised odds."""
    wanted: dict[str, tuple[str, ...]] = {metric: (metric,) for metric in shares}
    if ODDS[0] in shares:
        wanted["equalized_odds"] = ODDS
    members = [names == group for group in sorted(set(names.tolist())) if is_known(group)]
    for metric, used in wanted.items():
        # (2, rates, G, 2): before and after
        sums = np.array(
            [
                [[shares[x][side].rows(g).sum(axis=0) for g in members] for x in used]
                for side in (0, 1)
            ]
        ).reshape(2, len(used), -1, 2)
        before, after = (worst_gap(side) for side in sums)
        if math.isnan(before):
            continue
        n = int(
            np.any([shares[x][0].eligible for x in used], axis=0)[np.any(members, axis=0)].sum()
        )
        sizes = sums[0, :, :, 1]
        yield {
            "metric": metric,
            "kind": "gap",
            "group_a": None,
            "group_b": None,
            "before": before,
            "after": after,
            "value": after - before,
            "low": None,
            "high": None,
            "p": None,
            "n": n,
            "flag": small_flag(int(sizes[sizes > 0].min())),
        }


def worst_gap(sums: Array) -> float:
    """The largest gap of some rates, sums (rates, G, 2) [hits, eligible]; NaN if one has none."""
    return float(largest_gap(sums).max()) if sums.size else math.nan
