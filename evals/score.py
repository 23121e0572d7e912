"""From rows to numbers: which interval and which test a metric gets, and how stages are paired."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from align.errors import UserError
from evals.jackknife import jackknife_error, positive_estimate
from evals.non_inferiority import (
    LEVEL,
    NonInferiority,
    non_inferior_functions,
    non_inferior_means,
    non_inferior_proportions,
)
from evals.ratios import ratio_estimate, share_estimate, taking_part
from evals.significance import (
    Difference,
    Pair,
    compare_functions,
    compare_means,
    compare_proportions,
)
from evals.stats import (
    Estimate,
    Resampling,
    bootstrap,
    cluster_sums,
    mean_error,
    mean_estimate,
    proportion_estimate,
    without_interval,
)
from evals.task import Metric, TaskResult


def estimate(metric: Metric, result: TaskResult, resampling: Resampling) -> Estimate:
    """A metric with its interval.

    Proportions and shares: Wilson, over clusters Korn-Graubard; means: t; ratios: t with the
    jackknife's error; perplexities: t of the logarithm; biased metrics: none; everything else: BCa
    bootstrap. Over clusters where the result has them.
    """
    rows, clusters = result.stats[metric.stat], result.clusters
    if metric.kind == "proportion":
        return proportion_estimate(rows[:, 0], clusters, resampling.confidence)
    if metric.kind == "share":
        return share_estimate(rows, clusters, resampling.confidence)
    if metric.kind == "mean":
        return mean_estimate(rows[:, 0], clusters, resampling.confidence)
    if metric.kind == "ratio":
        return ratio_estimate(rows, metric.combine, clusters, resampling.confidence)
    if metric.kind == "positive":
        return positive_estimate(rows, metric.combine, clusters, resampling.confidence)
    if metric.kind == "biased":
        return without_interval(rows, metric.combine)
    return bootstrap(rows, metric.combine, clusters, resampling)


def standard_error(metric: Metric, result: TaskResult) -> float:
    """Standard error of a metric; NaN for a single item or cluster.

    Proportions and means: sd/sqrt(n), over clusters as in Miller 2024. Everything else: the
    jackknife's over items or clusters.
    """
    rows, clusters = result.stats[metric.stat], result.clusters
    if metric.kind in ("proportion", "mean"):
        return mean_error(rows[:, 0], clusters).error
    units = cluster_sums(rows, clusters)
    if len(units) < 2:
        return math.nan
    return jackknife_error(metric.combine(units.sum(axis=0) - units))


def compare(
    metric: Metric, before: TaskResult, after: TaskResult, resampling: Resampling
) -> Difference:
    """After minus before on the items both hold.

    Proportions: exact McNemar; means: sign-flip permutation; everything else: permutation of the
    two models' rows inside an item. Clusters are kept whole.

    Raises:
        UserError: See `pair_results`.
    """
    before, after = pair_results(before, after)
    old, new, clusters = before.stats[metric.stat], after.stats[metric.stat], after.clusters
    if metric.kind == "proportion" and clusters is None:
        return compare_proportions(old[:, 0], new[:, 0], resampling.confidence)
    if metric.kind in ("mean", "proportion"):
        return compare_means(old[:, 0], new[:, 0], clusters, resampling)
    rows, kept = taking_part(np.concatenate([old, new], axis=1), clusters)
    pair = Pair(rows[:, : old.shape[1]], rows[:, old.shape[1] :], kept)
    return compare_functions(pair, metric.combine, resampling)


def non_inferior(
    metric: Metric, before: TaskResult, after: TaskResult, margin: float, level: float = LEVEL
) -> NonInferiority:
    """Test whether a metric is worse after than before by less than the margin.

    Args:
        metric: Its `better` says which direction is worse.
        before: The reference.
        after: What must not be worse.
        margin: Largest loss that is acceptable, in the metric's unit.
        level: Of the one-sided test.

    Raises:
        UserError: No direction of the metric is worse, or see `pair_results`.
    """
    if metric.better == "none":
        raise UserError(
            f"neither direction of {metric.name} is worse, so it cannot be non-inferior",
            remedy="choose a metric whose higher or lower values are better",
        )
    before, after = pair_results(before, after)
    # What a lower value is better for loses where it rises: the two change places.
    first, second = (before, after) if metric.better == "higher" else (after, before)
    pair = Pair(first.stats[metric.stat], second.stats[metric.stat], first.clusters)
    if metric.kind == "proportion" and pair.clusters is None:
        return non_inferior_proportions(pair.before[:, 0], pair.after[:, 0], margin, level)
    if metric.kind in ("mean", "proportion"):
        columns = pair.before[:, 0], pair.after[:, 0]
        return non_inferior_means(*columns, pair.clusters, margin, level)
    return non_inferior_functions(pair, metric.combine, margin, level)


def pair_results(before: TaskResult, after: TaskResult) -> tuple[TaskResult, TaskResult]:
    """The two results on their common items, in the order of `before`.

    Only items that one of them counts as missing may differ.

    Raises:
        UserError: The results are of different items, or share none.
    """
    if before.ids == after.ids:
        return before, after
    common = set(before.ids) & set(after.ids)
    lost = len(before.ids) - len(common), len(after.ids) - len(common)
    allowed = sum(after.missing.values()), sum(before.missing.values())
    if not common or lost[0] > allowed[0] or lost[1] > allowed[1]:
        raise UserError(
            f"the results are of different items: {len(common)} shared, {lost[0]} only in the "
            f"first, {lost[1]} only in the second",
            remedy="evaluate both stages on the same data",
        )
    shared = [item for item in before.ids if item in common]
    return select(before, shared), select(after, shared)


def select(result: TaskResult, ids: Sequence[str]) -> TaskResult:
    """The result on the items `ids` alone, in that order."""
    place = {item: index for index, item in enumerate(result.ids)}
    index = [place[item] for item in ids]
    clusters = result.clusters
    return TaskResult(
        ids=tuple(ids),
        stats={key: rows[np.asarray(index, dtype=int)] for key, rows in result.stats.items()},
        samples=[result.samples[i] for i in index],
        clusters=None if clusters is None else tuple(clusters[i] for i in index),
        columns={key: tuple(names[i] for i in index) for key, names in result.columns.items()},
        missing=result.missing,
    )
