"""Groups compared: against scipy where designs are plain, by hand where they are not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from evals.bias.open_groups import (
    OTHERS,
    Grouped,
    change_rows,
    comparisons,
    difference,
    difference_rows,
    gap_rows,
    level_rows,
)
from evals.stats import Resampling


def grouped(
    values: Sequence[float], groups: Sequence[str], clusters: Sequence[str], control: bool = False
) -> Grouped:
    known = ~np.isnan(np.array(values, dtype=float))
    rows = np.stack([np.nan_to_num(np.array(values, dtype=float)), known.astype(float)], axis=1)
    n = len(values)
    return Grouped(rows, ["g"] * n, groups, clusters, [control] * n)


A, B = [1.0, 4.0, 2.0, 6.0, 3.0], [0.5, 1.0, 2.5, 0.0]


def cautious_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Welch's statistic by scipy, with one degree of freedom less than the smaller sample has."""
    peer = stats.ttest_ind(a, b, equal_var=False)
    return float(2 * stats.t.sf(abs(peer.statistic), min(len(a), len(b)) - 1))


def test_groups_of_their_own_clusters_are_compared_with_the_smaller_ones_freedom() -> None:
    data = grouped(A + B, ["a"] * 5 + ["b"] * 4, [str(n) for n in range(9)])
    found = difference(data, "a", "b", 0.9)
    error = np.sqrt(np.var(A, ddof=1) / 5 + np.var(B, ddof=1) / 4)
    assert found.value == pytest.approx(np.mean(A) - np.mean(B))
    # t(3) at 90 %: 2.3534
    assert (found.high - found.value, found.value - found.low) == pytest.approx(
        [2.35336 * error] * 2, rel=1e-5
    )
    assert found.p == pytest.approx(cautious_p(A, B))
    assert (found.n, found.clusters) == (9, 9)


def test_three_clusters_that_happen_to_agree_are_no_certainty() -> None:
    # 3 clusters against 51 of the same skewed law: Welch's own p is below .0001 in 6 % of draws.
    generator = np.random.default_rng(0)
    p = []
    for _ in range(400):
        values = generator.beta(0.5, 4, size=54).tolist()
        groups = ["a"] * 3 + ["b"] * 51
        found = difference(grouped(values, groups, [str(n) for n in range(54)]), "a", "b", 0.95)
        p.append(found.p)
    assert min(p) > 0.001
    assert np.mean(np.array(p) <= 0.05) < 0.12


def test_groups_that_share_clusters_are_compared_inside_them() -> None:
    a, b = [1.0, 4.0, 2.0, 6.0], [0.5, 3.0, 2.5, 4.0]
    data = grouped(a + b, ["a"] * 4 + ["b"] * 4, list("wxyz") * 2)
    found = difference(data, "a", "b", 0.95)
    peer = stats.ttest_rel(a, b)
    ends = peer.confidence_interval(0.95)
    # one item of each group a cluster: the jackknife is the paired t
    assert (found.value, found.p) == pytest.approx((0.75, peer.pvalue))
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    turned = difference(data, "b", "a", 0.95)
    assert (turned.value, turned.high) == pytest.approx((-0.75, -found.low))


def test_two_shared_clusters_give_the_value_alone() -> None:
    # Differences of 1 and 1.000002: t(1) would put p at 6e-7.
    values, groups = [3.0, 2.0, 5.000002, 4.0], ["a", "b"] * 2
    found = difference(grouped(values, groups, ["x", "x", "y", "y"]), "a", "b", 0.95)
    assert found.value == pytest.approx(1.000001)
    assert np.isnan([found.low, found.high, found.p]).all()
    third = grouped([*values, 2.0, 1.5], ["a", "b"] * 3, list("xxyyzz"))
    assert np.isfinite(difference(third, "a", "b", 0.95).p)


def test_fewer_than_three_clusters_on_a_side_give_the_value_alone() -> None:
    two = grouped([1, 0, 0, 2, 3], list("aabbb"), list("vwxyz"))
    found = difference(two, "a", "b", 0.95)
    assert found.value == pytest.approx(0.5 - 5 / 3)
    assert math.isnan(found.low)
    three = difference(grouped([1, 0, 4, 0, 2, 3], list("aaabbb"), list("uvwxyz")), "a", "b", 0.95)
    assert three.p == pytest.approx(cautious_p([1, 0, 4], [0, 2, 3]))


def test_each_of_many_groups_is_compared_with_all_others() -> None:
    assert comparisons(list("abc")) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert len(comparisons(list("abcde"))) == 10
    assert comparisons(list("abcdef")) == [(group, OTHERS) for group in "abcdef"]
    generator = np.random.default_rng(0)
    values = generator.normal(size=30).round(2).tolist()
    groups = [group for group in "abcdef" for _ in range(5)]
    own = grouped(values, groups, [str(n) for n in range(30)])
    rows = difference_rows(own, "m", "u", 0.95)
    assert [(row["group_a"], row["group_b"]) for row in rows] == [(g, OTHERS) for g in "abcdef"]
    p = cautious_p(values[5:10], values[:5] + values[10:])
    assert (rows[1]["p"], rows[1]["n"]) == (pytest.approx(p), 30)
    # in shared clusters: each with the mean of the others of the same cluster
    rows = difference_rows(grouped(values, groups, list("vwxyz") * 6), "m", "u", 0.95)
    table = np.array(values).reshape(6, 5)
    peer = stats.ttest_rel(table[2], np.delete(table, 2, axis=0).mean(axis=0))
    assert (rows[2]["p"], rows[2]["clusters"]) == (pytest.approx(peer.pvalue), 5)


def test_items_of_one_person_are_one_cluster() -> None:
    once = grouped(A + B, ["a"] * 5 + ["b"] * 4, [str(n) for n in range(9)])
    twice = grouped(
        [v for v in A + B for _ in range(2)],
        ["a"] * 10 + ["b"] * 8,
        [str(n // 2) for n in range(18)],
    )
    found = [difference(data, "a", "b", 0.95) for data in (once, twice)]
    assert [f.clusters for f in found] == [9, 9]
    assert found[0][3:] == pytest.approx(found[1][3:])


def test_what_cannot_be_computed_is_said() -> None:
    data = grouped([1, 1, 2, math.nan], ["a", "b", "b", "c"], ["x", "x", "y", "y"])
    rows = {(row["group_a"], row["group_b"]): row for row in difference_rows(data, "m", "u", 0.95)}
    assert set(rows) == {("a", "b"), ("a", "c"), ("b", "c")}, "a group without values stays"
    assert rows["a", "c"]["flag"] == "undefined: no eligible item"
    assert math.isnan(rows["a", "c"]["value"])
    assert rows["a", "b"]["value"] == -0.5
    ties = grouped([0, 0, 0, 0], list("abab"), list("xxyy"))
    (row,) = difference_rows(ties, "m", "u", 0.95)
    assert row["value"] == 0
    assert math.isnan(row["low"])
    assert row["flag"].startswith("n < 30, no interval: clusters do not differ")
    own = difference(grouped([1, 1, 3, 3], list("aabb"), list("wxyz")), "a", "b", 0.95)
    assert (own.value, own.n) == (-2, 4)
    assert math.isnan(own.low), "no spread is no proof of certainty"
    alone = difference(grouped([1, 2], list("ab"), list("xx")), "a", "b", 0.95)
    assert (alone.value, alone.clusters) == (-1, 1)
    assert math.isnan(alone.low)


def test_controls_are_marked() -> None:
    data = grouped([1, 2, 3, 4], list("abab"), list("xxyy"), control=True)
    assert difference_rows(data, "m", "u", 0.95)[0]["control"] is True


def test_levels_of_groups() -> None:
    data = grouped([1, 0, 1, 1, math.nan], list("aaabb"), list("vwxyz"))
    a, b = level_rows(data, "m", share=True, confidence=0.95)
    # Korn-Graubard: SE^2 = (2/9)/2, so p (1 - p)/SE^2 = 2 effective items, 4/3 of them hits
    ends = stats.beta.ppf(0.025, 4 / 3, 5 / 3), stats.beta.ppf(0.975, 7 / 3, 2 / 3)
    assert (a["value"], a["n"], a["numerator"], a["denominator"]) == (2 / 3, 3, 2, 3)
    assert (a["low"], a["high"]) == pytest.approx(ends)
    assert (b["value"], b["n"], b["denominator"], b["flag"]) == (1, 2, 1, "n < 30")
    (a, _) = level_rows(grouped(A + B, ["a"] * 5 + ["b"] * 4, list("123456789")), "m",
                        share=False, confidence=0.95)  # fmt: skip
    ends = stats.ttest_1samp(A, 0).confidence_interval(0.95)
    assert (a["low"], a["high"]) == pytest.approx((ends.low, ends.high))


def test_changes_are_paired_on_items_that_both_models_have() -> None:
    before = grouped([1, 2, 1, 3, 4, 5, 9], list("aaabbba"), list("tuvwxyz"))
    after = grouped([2, 2, 6, 3, 6, 6, math.nan], list("aaabbba"), list("tuvwxyz"))
    (row,) = change_rows(before, after, "m", 0.95)
    # changes a: 1, 0, 5; b: 0, 2, 1; the seventh has no second value
    assert row["difference"] == pytest.approx(2.0 - 1.0)
    assert (row["p"], row["n"]) == (pytest.approx(cautious_p([1, 0, 5], [0, 2, 1])), 6)


def test_a_gap_is_judged_by_permutation_inside_clusters() -> None:
    # Clusters differ by 100, groups inside a cluster by 1 and 2 throughout.
    values = [100.0 * c + g for c in range(4) for g in range(3)]
    data = grouped(values, list("abc") * 4, [str(c) for c in range(4) for _ in range(3)])
    (row,) = gap_rows(data, "m", "u", Resampling(resamples=4000))
    assert row["value"] == pytest.approx(2)
    # all four clusters in the same order, of 6^4 ways: 6 / 1296, and no other gap is as large
    assert row["p"] == pytest.approx(6 / 1296, abs=0.004)
    assert (row["measure"], row["group_a"], row["n"], row["clusters"]) == (
        "m, gap",
        "largest",
        12,
        4,
    )
    assert math.isnan(row["low"])


def test_a_gap_of_groups_with_own_clusters_moves_whole_clusters() -> None:
    # three groups of two persons with two prompts each, equal within a person: 6!/(2!)^3 = 90
    # arrangements, of which the 6 that keep the pairs together reach the observed gap of 4
    people = [0.0, 0.0, 2.0, 2.0, 4.0, 4.0]
    data = grouped(
        [v for v in people for _ in range(2)],
        [g for g in "aabbcc" for _ in range(2)],
        [str(n) for n in range(6) for _ in range(2)],
    )
    (row,) = gap_rows(data, "m", "u", Resampling(resamples=4000))
    assert row["value"] == 4
    # the gap is 4 whenever both 0 and both 4 keep together: 6 of 90
    assert row["p"] == pytest.approx(6 / 90, abs=0.015)
    two = grouped([1, 2, 3, 4], list("abab"), list("wxyz"))
    assert gap_rows(two, "m", "u", Resampling(resamples=10)) == [], "two groups have a difference"
