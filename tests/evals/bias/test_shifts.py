"""Paired changes by hand, and against scipy's and the package's own building blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from evals.bias.fairness import Classified
from evals.bias.shifts import EVERYONE, group_changes, worst_gap
from evals.proportions import tango
from evals.stats import Resampling

FEW = Resampling(resamples=200)
# Ten items of a, ten of b, all positive. Before: a 4 hits, b 8; after: a 7 (3 gained, 0 lost), b 7
# (1 gained, 2 lost).
GROUPS = ["a"] * 10 + ["b"] * 10
BEFORE = [1] * 4 + [0] * 6 + [1] * 8 + [0] * 2
AFTER = [1] * 7 + [0] * 3 + [1] * 6 + [0] * 2 + [1, 0]


def changes(before: Any = BEFORE, after: Any = AFTER, **more: Any) -> list[dict[str, Any]]:
    old = Classified([1] * len(before), before, {"g": GROUPS[: len(before)]}, **more)
    new = Classified([1] * len(after), after, {"g": GROUPS[: len(after)]}, **more)
    return group_changes(old, new, FEW)


def pick(rows: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    keys = {"metric": "selection_rate"} | keys
    (row,) = [row for row in rows if all(row[key] == value for key, value in keys.items())]
    return row


def test_rates_change_by_tangos_interval_and_mcnemars_p() -> None:
    row = pick(changes(), kind="rate", group_a="a")
    assert (row["before"], row["after"], row["n"]) == (0.4, 0.7, 10)
    assert row["value"] == pytest.approx(0.3)
    assert (row["low"], row["high"]) == pytest.approx(tango(3, 0, 10))
    assert row["p"] == pytest.approx(2 * 0.5**3)
    assert row["flag"] == "n < 30"
    whole = pick(changes(), kind="rate", group_a=EVERYONE)
    assert whole["value"] == pytest.approx((14 - 12) / 20)
    assert whole["p"] == pytest.approx(stats.binomtest(4, 6).pvalue)  # 4 gained, 2 lost


def test_a_difference_changes_by_the_hybrid_of_both_intervals() -> None:
    row = pick(changes(), kind="difference")
    assert (row["group_a"], row["group_b"]) == ("a", "b")
    assert row["before"] == pytest.approx(0.4 - 0.8)
    assert row["after"] == pytest.approx(0.0)
    assert row["value"] == pytest.approx(0.4)
    (low_a, high_a), (low_b, high_b) = tango(3, 0, 10), tango(1, 2, 10)
    assert row["low"] == pytest.approx(0.4 - np.hypot(0.3 - low_a, high_b + 0.1))
    assert row["high"] == pytest.approx(0.4 + np.hypot(high_a - 0.3, -0.1 - low_b))
    assert row["n"] == 20
    assert 0.01 < row["p"] < 0.2


def test_a_gap_changes_with_the_gaps_before_and_after() -> None:
    row = pick(changes(), kind="gap")
    assert (row["before"], row["after"]) == pytest.approx((0.4, 0.0))
    assert row["value"] == pytest.approx(-0.4)
    assert row["low"] is row["high"] is row["p"] is row["q"] is None
    assert (row["n"], row["flag"]) == (20, "n < 30")


def test_equalised_odds_is_the_worse_gap_on_each_side() -> None:
    labels = [1, 1, 0, 0, 1, 1, 0, 0]
    groups = {"g": list("aaaabbbb")}
    before = Classified(labels, [1, 1, 0, 0, 1, 0, 0, 0], groups)  # tpr 1 and 1/2, fpr 0 and 0
    after = Classified(labels, [1, 0, 1, 1, 1, 0, 0, 0], groups)  # tpr 1/2, 1/2, fpr 1 and 0
    row = pick(group_changes(before, after, FEW), metric="equalized_odds")
    assert (row["before"], row["after"], row["value"]) == (0.5, 1.0, 0.5)
    one, two = [[1, 2], [2, 2]], [[0, 2], [2, 2]]
    assert worst_gap(np.array([one, two], dtype=float)) == 1.0
    assert worst_gap(np.array([one, one], dtype=float)) == 0.5


def test_over_clusters_a_changed_rate_is_a_paired_t_and_a_difference_one_of_pairs() -> None:
    rng = np.random.default_rng(4)
    before, after = rng.integers(0, 2, (2, 60))
    groups, clusters = list("ab") * 30, [str(i // 2) for i in range(60)]
    data = [
        Classified([1] * 60, guess.tolist(), {"g": groups}, clusters=clusters)
        for guess in (before, after)
    ]
    rows, moves = group_changes(*data, FEW), after - before
    row = pick(rows, kind="rate", group_a="a")
    ends = stats.ttest_1samp(moves[::2], 0).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((ends.low, ends.high))
    row = pick(rows, kind="difference")
    test = stats.ttest_1samp(moves[::2] - moves[1::2], 0)
    ends = test.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((ends.low, ends.high))
    assert row["p"] == pytest.approx(test.pvalue)


def test_what_did_not_change_has_a_width_and_p_1() -> None:
    rows = changes(BEFORE, BEFORE)
    for row in (pick(rows, kind="rate", group_a="a"), pick(rows, kind="difference")):
        assert (row["value"], row["p"]) == (0.0, 1.0)
        assert row["low"] < 0 < row["high"]
    clustered = changes(BEFORE, BEFORE, clusters=[str(i // 2) for i in range(20)])
    for row in (pick(clustered, kind="rate", group_a="a"), pick(clustered, kind="difference")):
        assert (row["value"], row["low"], row["high"], row["p"]) == (0.0, None, None, 1.0)


def test_unknown_membership_has_its_rate_and_no_part_in_the_gap() -> None:
    groups = {"g": ["a", "a", "b", "b", None, None]}
    old = Classified([1] * 6, [1, 0, 1, 0, 0, 0], groups)
    new = Classified([1] * 6, [1, 0, 1, 0, 1, 1], groups)
    rows = group_changes(old, new, FEW)
    assert pick(rows, kind="rate", group_a="unknown")["value"] == 1.0
    assert pick(rows, kind="gap")["value"] == 0.0
    lone = {"g": ["a", "a", "a", "a", None, None]}
    old, new = (Classified(x.labels, x.predictions, lone) for x in (old, new))
    assert all(row["kind"] != "gap" for row in group_changes(old, new, FEW))


def test_rates_without_an_eligible_item_are_left_out() -> None:
    rows = changes()
    assert not [row for row in rows if row["metric"] == "false_positive_rate"]


def test_changes_are_of_the_same_items() -> None:
    old = Classified([1, 0], [1, 0], {"g": ["a", "b"]})
    with pytest.raises(ValueError, match="the same items"):
        group_changes(old, Classified([1, 1], [1, 0], {"g": ["a", "b"]}), FEW)
    with pytest.raises(ValueError, match="the same items"):
        group_changes(old, Classified([1, 0], [1, 0], {"g": ["b", "a"]}), FEW)
