"""Signed effects of swapping a group, summed up per contrast: pure statistics, no model.

Used for policies (log-likelihoods) and for reward models (scores) alike. An effect of an item is
what the model does for group a minus what it does for group b; its mean over items is reported with
a t interval over clusters (name pairs, C - 1 degrees of freedom, Miller 2024, 2411.00640) and a
permutation p that flips whole clusters. A control swaps two names of the *same* group: its
expectation is zero, so an interval that misses zero there tells of noise the others share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from evals.significance import sign_flip
from evals.stats import Array, Resampling, mean_estimate


class Contrast(NamedTuple):
    """What an effect compares."""

    measure: str
    attribute: str
    group_a: str
    group_b: str
    control: bool

    @property
    def reverse(self) -> Contrast:
        """The same comparison with the groups exchanged."""
        return self._replace(group_a=self.group_b, group_b=self.group_a)


@dataclass(frozen=True)
class Effects:
    """One signed effect an item."""

    values: Array
    """(n,) group a minus group b."""
    contrasts: Sequence[Contrast]
    """What each item compares."""
    clusters: Sequence[str]
    """The name pair of each item."""

    def scaled(self, factor: float) -> Effects:
        """The same effects in another unit."""
        return replace(self, values=self.values * factor)


def effect_rows(effects: Effects, unit: str, resampling: Resampling) -> list[dict[str, Any]]:
    """Mean effect of every contrast, in the order of first appearance.

    Args:
        effects: One effect an item.
        unit: Unit of the values, for the reader.
        resampling: Confidence, and the draws of the permutation.

    Returns:
        Rows of the ledger's `bias` without `stage` and `task`. One cluster: NaN ends.
    """
    rows = []
    for contrast, values, clusters in by_contrast(effects):
        mean = mean_estimate(values, clusters, resampling.confidence)
        tail = {"n": len(values), "clusters": len(set(clusters)), "unit": unit}
        p = sign_flip(values, clusters, resampling)
        ends = {"value": mean.value, "low": mean.low, "high": mean.high, "p": p}
        rows.append(contrast._asdict() | ends | tail)
    return rows


def change_rows(before: Effects, after: Effects, resampling: Resampling) -> list[dict[str, Any]]:
    """Change of every contrast's mean effect between two models, paired on the items.

    Args:
        before: Effects of the first model.
        after: Effects of the second on the same items in the same order.
        resampling: Confidence, and the draws of the permutation.

    Returns:
        Rows of the ledger's `bias_comparisons` without `task`, `before` and `after`.

    Raises:
        ValueError: The items are not the same.
    """
    same = list(before.contrasts) == list(after.contrasts)
    if not same or list(before.clusters) != list(after.clusters):
        raise ValueError("changes need the same items in the same order")
    changes = replace(after, values=after.values - before.values)
    rows = []
    for row in effect_rows(changes, "", resampling):
        del row["unit"]
        rows.append({("difference" if key == "value" else key): row[key] for key in row})
    return rows


def by_contrast(effects: Effects) -> list[tuple[Contrast, Array, list[str]]]:
    """Values and clusters of each contrast.

    Where items state a contrast in both directions (a, b) and (b, a) they are one comparison:
    groups in alphabetical order, the sign of the others turned.
    """
    stated = set(effects.contrasts)
    found: dict[Contrast, tuple[list[float], list[str]]] = {}
    for value, contrast, cluster in zip(
        effects.values.tolist(), effects.contrasts, effects.clusters, strict=True
    ):
        sign = 1.0
        both_ways = contrast.reverse in stated and contrast.group_a != contrast.group_b
        if both_ways and contrast.group_a > contrast.group_b:
            contrast, sign = contrast.reverse, -1.0
        values, clusters = found.setdefault(contrast, ([], []))
        values.append(sign * value)
        clusters.append(cluster)
    return [(key, np.array(values), clusters) for key, (values, clusters) in found.items()]
