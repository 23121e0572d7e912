"""Rates by group when the groups are assigned at random: the null of a gap.

Groups are permuted over the eligible items, so labels keep their groups' share: among positives for
true positives, among negatives for false ones. In clusters they are permuted inside each cluster
where one holds several groups (a template with every identity), else over whole clusters.

Random assignment of independent items to groups of fixed sizes makes the groups' hits multivariate
hypergeometric, so they are drawn directly, without shuffling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.bias.fairness import Share
from evals.stats import Array, Resampling

Codes = NDArray[np.intp]


def permuted_counts(
    shares: Sequence[Share], groups: Codes, clusters: Any | None, resampling: Resampling
) -> list[Array]:
    """[hits, eligible] of each group under R random assignments, (R, G, 2) for every rate.

    Args:
        shares: Rates of the same n items; two that share eligible items are to be drawn apart.
        groups: (n,) group numbers 0 to G - 1.
        clusters: (n,) labels, or None.
        resampling: R and the seed.
    """
    count = int(groups.max()) + 1
    units = np.zeros(len(groups), dtype=np.intp)
    if clusters is not None:
        units = np.unique(np.asarray(clusters), return_inverse=True)[1]
    first = np.unique(units, return_index=True)[1]
    if clusters is not None and np.array_equal(groups, groups[first][units]):
        return _whole_clusters(shares, groups[first], units, resampling, count)
    generator = np.random.default_rng((resampling.seed, 2))
    return [_inside(share, groups, units, (resampling, count), generator) for share in shares]


def _inside(
    share: Share,
    groups: Codes,
    units: Codes,
    size: tuple[Resampling, int],
    generator: np.random.Generator,
) -> Array:
    """Groups permuted inside each unit: sums of hypergeometric draws."""
    resampling, count = size
    counts = np.zeros((resampling.resamples, count, 2))
    for unit in np.unique(units[share.eligible]):
        inside = share.eligible & (units == unit)
        sizes = np.bincount(groups[inside], minlength=count)
        hits = int(share.hit[inside].sum())
        counts[..., 0] += generator.multivariate_hypergeometric(
            sizes, hits, size=resampling.resamples
        )
        counts[..., 1] += sizes
    return counts


def _whole_clusters(
    shares: Sequence[Share], groups: Codes, units: Codes, resampling: Resampling, count: int
) -> list[Array]:
    """Groups of whole clusters permuted, the same way for all rates."""
    columns = [
        column for share in shares for column in (share.hit & share.eligible, share.eligible)
    ]
    sums = np.stack([np.bincount(units, weights=column) for column in columns], axis=1)
    generator = np.random.default_rng((resampling.seed, 2))
    drawn = np.empty((resampling.resamples, count, len(columns)))
    for draw in drawn:
        members = np.eye(count)[generator.permutation(groups)]
        draw[...] = members.T @ sums
    return np.split(drawn, len(shares), axis=2)
