"""Groups assigned at random, against all assignments counted one by one."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from evals.bias.disparity import group_gaps, largest_gap
from evals.bias.fairness import Classified, Share
from evals.bias.permuted import permuted_counts
from evals.stats import Resampling

MANY = Resampling(resamples=20_000)
SPREAD = 0.015
"""Over four standard errors of a share of 20,000 draws."""


def gap_p(data: Classified, metric: str) -> float:
    (row,) = [row for row in group_gaps(data, MANY) if row["metric"] == metric]
    return float(row["p"])


def test_independent_items_are_assigned_in_every_way() -> None:
    groups, guess = list("aaabbcc"), [1, 1, 1, 0, 1, 0, 0]

    def gap(names: tuple[str, ...]) -> float:
        rates = [np.mean([g for g, n in zip(guess, names, strict=True) if n == x]) for x in "abc"]
        return float(max(rates) - min(rates))

    drawn = [gap(names) for names in permutations(groups)]
    expected = np.mean([value >= gap(tuple(groups)) - 1e-12 for value in drawn])
    data = Classified([1] * 7, guess, {"g": groups})
    assert gap_p(data, "selection_rate") == pytest.approx(expected, abs=SPREAD)


def test_equalised_odds_permutes_inside_each_label() -> None:
    labels, groups = [1, 1, 1, 1, 0, 0, 0, 0], list("aabbaabb")
    guess = [1, 1, 0, 0, 1, 0, 1, 0]  # true positives 1 and 0, false positives 1/2 and 1/2

    def gap(names: tuple[str, ...], part: slice) -> float:
        rates = [
            np.mean([g for g, n in zip(guess[part], names, strict=True) if n == x]) for x in "ab"
        ]
        return float(abs(rates[0] - rates[1]))

    ways = [*permutations(groups[:4])], [*permutations(groups[4:])]
    drawn = [
        max(gap(positive, slice(0, 4)), gap(negative, slice(4, 8)))
        for positive, negative in product(*ways)
    ]
    expected = np.mean([value == 1 for value in drawn])
    assert expected == pytest.approx(1 - (2 / 3) ** 2)  # each gap is 1 in 2 of 6 assignments
    data = Classified(labels, guess, {"g": groups})
    assert gap_p(data, "equalized_odds") == pytest.approx(expected, abs=SPREAD)


def test_clusters_with_several_groups_are_permuted_inside() -> None:
    # Four templates, a hit with a and none with b: all four must turn the same way, 2 of 16.
    data = Classified(
        [1] * 8, [1, 0] * 4, {"g": ["a", "b"] * 4}, clusters=[str(i // 2) for i in range(8)]
    )
    assert gap_p(data, "selection_rate") == pytest.approx(2 / 16, abs=SPREAD)


def test_clusters_of_one_group_are_permuted_whole() -> None:
    # Two clusters of hits in a, two of misses in b: 2 of the 6 assignments of clusters are extreme,
    # while independent items would have been extreme in 2 of C(12, 6) = 924.
    clusters = [str(i // 3) for i in range(12)]
    data = Classified([1] * 12, [1] * 6 + [0] * 6, {"g": ["a"] * 6 + ["b"] * 6}, clusters=clusters)
    assert gap_p(data, "selection_rate") == pytest.approx(2 / 6, abs=SPREAD)
    alone = Classified(data.labels, data.predictions, data.groups)
    assert gap_p(alone, "selection_rate") == pytest.approx(2 / 924, abs=SPREAD / 5)


def test_whole_clusters_move_both_rates_together() -> None:
    hit, everyone = np.array([True, True, False, False]), np.ones(4, dtype=bool)
    shares = [Share(everyone, hit), Share(everyone, ~hit)]
    units, groups = np.array(["p", "p", "q", "q"]), np.array([0, 0, 1, 1])
    one, two = permuted_counts(shares, groups, units, Resampling(50))
    assert np.array_equal(one[..., 0] + two[..., 0], one[..., 1])
    assert {tuple(row) for row in one[..., 0].tolist()} == {(2.0, 0.0), (0.0, 2.0)}


def test_the_largest_gap_needs_two_rates() -> None:
    sums = np.array([[[1, 2], [0, 0], [3, 4]], [[1, 2], [0, 0], [0, 0]]], dtype=float)
    assert largest_gap(sums).tolist() == pytest.approx([0.25, np.nan], nan_ok=True)
