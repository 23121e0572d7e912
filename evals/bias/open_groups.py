"""Groups compared by numbers of clustered items: levels, signed differences, gaps. No model.

Rows are [value, 1], or [0, 0] where an item has no value. Two groups either share clusters (the
same templates asked about both) and are compared inside them, or have their own (persons of one
group each), and are compared as independent samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from evals.bias.fairness import Flags, small_flag
from evals.bias.measures import NO_INTERVAL, ONE, UNDEFINED
from evals.metrics import ratio
from evals.power import detectable
from evals.ratios import ratio_error, ratio_estimate, share_estimate
from evals.stats import Array, Resampling, cluster_sums, mean_error

PAIRED = 5
"""Groups of one attribute up to which every pair is compared; of more, each with all others."""
OTHERS = "all others"
GAP = ("largest", "smallest")
GAP_FLAG = "no interval: above 0 for equal groups too"


@dataclass(frozen=True)
class Grouped:
    """Values of one measure, with what each item is about."""

    rows: Array
    """(n, 2)."""
    attributes: Sequence[str]
    groups: Sequence[str]
    clusters: Sequence[str]
    controls: Sequence[bool]

    def part(self, attribute: str) -> Grouped:
        """The items of one attribute that have a value."""
        chosen = zip(self.attributes, self.rows[:, 1], strict=True)
        return self.take([i for i, (a, weight) in enumerate(chosen) if a == attribute and weight])

    def take(self, places: Sequence[int]) -> Grouped:
        """The items at these places."""
        named = (self.attributes, self.groups, self.clusters)
        attributes, groups, clusters = ([own[i] for i in places] for own in named)
        rows, controls = (
            self.rows[np.asarray(places, dtype=int)],
            [self.controls[i] for i in places],
        )
        return Grouped(rows, attributes, groups, clusters, controls)

    def inside(self, group: str) -> Flags:
        """Which items are of a group."""
        return np.array([name == group for name in self.groups], dtype=bool)

    def sides(self, a: str, b: str) -> tuple[Flags, Flags]:
        """Which items are of group a, and which of b or, for `OTHERS`, not of a."""
        of_a = self.inside(a)
        return of_a, ~of_a if b == OTHERS else self.inside(b)


class Compared(NamedTuple):
    """A signed difference."""

    value: float
    n: int
    clusters: int
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    mde: float = math.nan
    """Smallest true difference found with 80 % power."""


def level_rows(
    data: Grouped, metric: str, *, share: bool, confidence: float
) -> list[dict[str, Any]]:
    """Value of every group of every attribute: rows of the ledger's `groups`.

    Shares: Korn and Graubard's interval; others: t with the jackknife's error, over clusters.
    """
    rows = []
    for attribute, group in dict.fromkeys(zip(data.attributes, data.groups, strict=True)):
        about = zip(data.attributes, data.groups, strict=True)
        own = data.take([i for i, pair in enumerate(about) if pair == (attribute, group)])
        if share:
            found = share_estimate(own.rows, own.clusters, confidence)
        else:
            found = ratio_estimate(own.rows, ratio, own.clusters, confidence)
        ends = {key: _known(getattr(found, key)) for key in ("value", "low", "high")}
        total, count = own.rows.sum(axis=0).tolist()
        head = {"attribute": attribute, "group": group, "metric": metric}
        counted = {"n": len(own.rows), "numerator": total, "denominator": int(count)}
        flag = small_flag(found.n) if found.n else UNDEFINED
        rows.append(head | ends | counted | {"flag": flag})
    return rows


def difference_rows(
    data: Grouped, measure: str, unit: str, confidence: float
) -> list[dict[str, Any]]:
    """Signed differences between the groups of every attribute: rows of the ledger's `bias`."""
    rows = []
    for attribute in dict.fromkeys(data.attributes):
        own = data.part(attribute)
        control = any(
            c for a, c in zip(data.attributes, data.controls, strict=True) if a == attribute
        )
        named = zip(data.attributes, data.groups, strict=True)
        for a, b in comparisons(list(dict.fromkeys(g for at, g in named if at == attribute))):
            found = difference(own, a, b, confidence)
            head = {"measure": measure, "attribute": attribute, "group_a": a, "group_b": b}
            counts = {"numerator": None, "denominator": None, "unit": unit}
            flag = _flag(found, min(int(side.sum()) for side in own.sides(a, b)))
            rows.append(head | {"control": control} | found._asdict() | counts | {"flag": flag})
    return rows


def comparisons(groups: Sequence[str]) -> list[tuple[str, str]]:
    """Every pair of up to `PAIRED` groups; of more, each group and `OTHERS`.

    Thirty groups have 435 pairs, whose correction for multiplicity would hide what each can show.
    """
    if len(groups) > PAIRED:
        return [(group, OTHERS) for group in groups]
    return list(combinations(groups, 2))


def change_rows(
    before: Grouped, after: Grouped, measure: str, confidence: float
) -> list[dict[str, Any]]:
    """How the differences changed, on items that both models have a value for.

    Rows of the ledger's `bias_comparisons` without `task`, `before` and `after`.
    """
    both = before.rows[:, 1:] * after.rows[:, 1:]
    moved = np.concatenate([after.rows[:, :1] - before.rows[:, :1], np.ones_like(both)], axis=1)
    changes = Grouped(moved * both, after.attributes, after.groups, after.clusters, after.controls)
    kept = ("measure", "attribute", "group_a", "group_b", "control")
    numbers = ("low", "high", "p", "mde", "n", "clusters")
    return [
        {key: row[key] for key in kept}
        | {"difference": row["value"]}
        | {key: row[key] for key in numbers}
        for row in difference_rows(changes, measure, "", confidence)
    ]


def difference(data: Grouped, a: str, b: str, confidence: float) -> Compared:
    """Mean of group a minus mean of group b (`OTHERS`: of all items that are not of a).

    Shared clusters: t(C - 1) with the jackknife's error over them. Clusters of their own: error
    sqrt(e_a^2 + e_b^2) from each side's clustered error (Miller 2024, 2411.00640), and one degree
    of freedom less than the smaller side has clusters. Satterthwaite's would believe three clusters
    that happen to agree: of 3 against 51 equal ones it calls .8 % different at p < .0001. Fewer
    than two degrees give the value alone.
    """
    of_a, of_b = data.sides(a, b)
    places = np.flatnonzero(of_a | of_b).tolist()
    clusters = [data.clusters[place] for place in places]
    n, units = len(places), len(set(clusters))
    if not of_a.any() or not of_b.any():
        return Compared(math.nan, n, units)
    if shared(data, of_a, of_b):
        sides = [data.rows * flags[:, None] for flags in (of_a, of_b)]
        rows = np.concatenate(sides, axis=1)[places]
        error, value, _ = ratio_error(rows, _minus, clusters)
        freedom = units - 1
    else:
        value, error, freedom = _apart(data, of_a, of_b)
    if not error > 0 or freedom < 2:
        return Compared(value, n, units)
    half = float(distributions.t.ppf((1 + confidence) / 2, freedom)) * error
    p = float(2 * distributions.t.sf(abs(value) / error, freedom))
    mde = detectable(error, confidence)
    return Compared(value, n, units, value - half, value + half, p, mde)


def gap_rows(
    data: Grouped, measure: str, unit: str, resampling: Resampling
) -> list[dict[str, Any]]:
    """Largest minus smallest mean of three groups and more, with a permutation p alone.

    Groups change places inside clusters where they share them; else whole clusters change groups.
    p = (1 + #{permuted gap >= gap}) / (1 + draws).
    """
    rows = []
    for attribute in dict.fromkeys(data.attributes):
        own = data.part(attribute)
        names = sorted(set(own.groups))
        if len(names) < 3:
            continue
        codes = np.array([names.index(group) for group in own.groups])
        value, p = _permuted(own, codes, resampling)
        head = {"measure": f"{measure}, gap", "attribute": attribute}
        head |= dict(zip(("group_a", "group_b"), GAP, strict=True))
        ends: dict[str, Any] = {"control": False, "value": value, "low": math.nan, "high": math.nan}
        tail = {"n": len(own.rows), "clusters": len(set(own.clusters)), "unit": unit}
        counts = {"numerator": None, "denominator": None, "flag": GAP_FLAG}
        rows.append(head | ends | {"p": p} | tail | counts)
    return rows


def shared(data: Grouped, of_a: Flags, of_b: Flags) -> bool:
    """Whether two groups have a cluster in common."""
    names = np.array(data.clusters)
    return bool(set(names[of_a].tolist()) & set(names[of_b].tolist()))


def _minus(sums: Array) -> Array:
    """Mean of a minus mean of b of sums [a, n_a, b, n_b]."""
    change: Array = ratio(sums) - ratio(sums, 2, 3)
    return change


def _apart(data: Grouped, of_a: Flags, of_b: Flags) -> tuple[float, float, int]:
    """Difference, error and degrees of freedom of groups without a common cluster."""
    means = []
    for flags in (of_a, of_b):
        clusters = [data.clusters[place] for place in np.flatnonzero(flags).tolist()]
        means.append(mean_error(data.rows[flags, 0], clusters))
    a, b = means
    return a.mean - b.mean, math.hypot(a.error, b.error), min(a.units, b.units) - 1


def _permuted(
    data: Grouped, codes: NDArray[np.int64], resampling: Resampling
) -> tuple[float, float]:
    """Gap of the groups' means and its p."""
    blocks = np.unique(np.array(data.clusters), return_inverse=True)[1]
    rows = data.rows
    first = np.full(blocks.max() + 1, -1)
    first[blocks] = codes
    if (first[blocks] == codes).all():  # every cluster has one group: clusters change groups
        rows, codes = cluster_sums(rows, data.clusters), first
        blocks = np.zeros(len(rows), dtype=np.int64)
    order = np.argsort(blocks, kind="stable")
    rows, codes, blocks = rows[order], codes[order], blocks[order]
    observed = _gap(rows, codes)
    generator = np.random.default_rng((resampling.seed, 2))
    extreme = 0
    for _ in range(resampling.resamples):
        shuffled = codes[np.lexsort((generator.random(len(codes)), blocks))]
        extreme += bool(_gap(rows, shuffled) >= observed - 1e-12)
    return observed, (1 + extreme) / (1 + resampling.resamples)


def _gap(rows: Array, codes: NDArray[np.int64]) -> float:
    """Largest minus smallest mean over the groups."""
    means = np.bincount(codes, rows[:, 0]) / np.bincount(codes, rows[:, 1])
    return float(means.max() - means.min())


def _flag(found: Compared, smallest: int) -> str:
    """Why a difference is missing, has no interval or is weak."""
    if math.isnan(found.value):
        return UNDEFINED
    reason = ONE if found.clusters == 1 else NO_INTERVAL
    weak = reason if math.isnan(found.low) else ""
    return ", ".join(flag for flag in (small_flag(smallest), weak) if flag)


def _known(value: float) -> float | None:
    """NaN as None, as in the group tables of classification."""
    return None if math.isnan(value) else value
