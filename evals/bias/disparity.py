"""Groups compared: signed differences of rates with intervals, and gaps with a permutation p.

The gap between the largest and the smallest group is positive even for identical groups. So pairs
of groups are compared by signed differences - of selection rates (demographic parity), of true and
false positive rates (equalised odds) - and the gap only stands beside its permutation p. Whether a
difference is unfair is for people to say.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evals.bias.fairness import (
    UNKNOWN,
    Classified,
    Flags,
    Groups,
    Share,
    attributes,
    rates,
    small_flag,
)
from evals.proportions import newcombe
from evals.stats import Resampling


def group_differences(
    labels: Sequence[Hashable],
    predictions: Sequence[Hashable],
    groups: Groups,
    *,
    positive: Hashable | None = None,
    confidence: float = 0.95,
) -> list[dict[str, Any]]:
    """Signed difference, first group minus second, of every rate for every pair of groups.

    Newcombe's hybrid score interval (1998, Stat. Med. 17:873) and Fisher's exact p. Items are taken
    as independent.

    Returns:
        Rows {attribute, metric, group_a, group_b, value, low, high, p, n_a, n_b, flag}, n being
        eligible items; a pair with no eligible item in a group is left out.
    """
    from scipy.stats import fisher_exact

    shares = rates(Classified(labels, predictions, positive))
    rows = []
    for attribute, names in attributes(groups, len(labels)):
        for metric, share in shares.items():
            counts = _counts(share, names)
            for a, b in combinations(sorted(counts), 2):
                (hits_a, n_a), (hits_b, n_b) = counts[a], counts[b]
                low, high = newcombe(counts[a], counts[b], confidence)
                table = [[hits_a, n_a - hits_a], [hits_b, n_b - hits_b]]
                row: dict[str, Any] = {"attribute": attribute, "metric": metric}
                row |= {"group_a": a, "group_b": b, "value": hits_a / n_a - hits_b / n_b}
                row |= {"low": low, "high": high, "p": float(fisher_exact(table).pvalue)}
                rows.append(row | {"n_a": n_a, "n_b": n_b, "flag": small_flag(min(n_a, n_b))})
    return rows


def group_gaps(
    labels: Sequence[Hashable],
    predictions: Sequence[Hashable],
    groups: Groups,
    *,
    positive: Hashable | None = None,
    resampling: Resampling | None = None,
) -> list[dict[str, Any]]:
    """Largest minus smallest rate over groups, with the p of groups assigned at random.

    Known groups only; p = (1 + #{permuted gap >= gap}) / (1 + draws), permuting eligible items.

    Returns:
        Rows {attribute, metric, value, p, groups, n}.
    """
    resampling = resampling or Resampling()
    shares = rates(Classified(labels, predictions, positive))
    rows = []
    for attribute, names in attributes(groups, len(labels)):
        known = np.array([UNKNOWN not in name.split(" & ") for name in names])
        for metric, share in shares.items():
            used = share.eligible & known
            codes = np.unique(np.array(names)[used], return_inverse=True)[1]
            if used.any() and codes.max() > 0:
                value, p = _permuted_gap(share.hit[used], codes, resampling)
                row = {"attribute": attribute, "metric": metric, "value": value, "p": p}
                rows.append(row | {"groups": int(codes.max()) + 1, "n": int(used.sum())})
    return rows


def _counts(share: Share, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(hits, eligible items) of each group that has any."""
    counts: dict[str, tuple[int, int]] = {}
    for name, eligible, hit in zip(names, share.eligible, share.hit, strict=True):
        if eligible:
            hits, n = counts.get(name, (0, 0))
            counts[name] = (hits + int(hit), n + 1)
    return counts


def _permuted_gap(
    hits: Flags, codes: NDArray[np.intp], resampling: Resampling
) -> tuple[float, float]:
    """Gap of the groups' rates and its permutation p."""
    members = np.eye(int(codes.max()) + 1)[codes]
    sizes = members.sum(axis=0)

    def gaps(outcomes: NDArray[np.float64]) -> NDArray[np.float64]:
        rates = outcomes @ members / sizes
        return np.asarray(rates.max(axis=-1) - rates.min(axis=-1))

    observed = float(gaps(hits.astype(np.float64)))
    generator = np.random.default_rng(resampling.seed)
    extreme = 0
    for _ in range(resampling.resamples):
        extreme += bool(gaps(generator.permutation(hits).astype(np.float64)) >= observed - 1e-12)
    return observed, (1 + extreme) / (1 + resampling.resamples)
