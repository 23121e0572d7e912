"""Group tables and comparisons against hand counts, scikit-learn, fairlearn and statsmodels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fairlearn import metrics as fair
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from evals.bias.fairness import Classified, group_table
from evals.stats import Resampling

Pick = Callable[..., dict[str, Any]]
RandomTable = Callable[..., tuple[list[int], list[int], list[str]]]
FEW = Resampling(resamples=200)
# group a: 5 items, labels 1 1 1 0 0, predictions 1 1 0 1 0; group b: 4 items, all labels 0.
LABELS = [1, 1, 1, 0, 0, 0, 0, 0, 0]
PREDICTIONS = [1, 1, 0, 1, 0, 1, 0, 0, 0]
GENDER = ["a"] * 5 + ["b"] * 4


def test_rates_by_hand(pick: Pick) -> None:
    rows = group_table(Classified(LABELS, PREDICTIONS, {"gender": GENDER}), FEW)
    expected = {
        # tp 2, fn 1, fp 1, tn 1
        ("a", "accuracy"): (3, 5),
        ("a", "selection_rate"): (3, 5),
        ("a", "true_positive_rate"): (2, 3),
        ("a", "false_positive_rate"): (1, 2),
        ("a", "f1"): (4, 6),
        # fp 1, tn 3
        ("b", "accuracy"): (3, 4),
        ("b", "selection_rate"): (1, 4),
        ("b", "false_positive_rate"): (1, 4),
        ("b", "f1"): (0, 1),
    }
    for (group, metric), (numerator, denominator) in expected.items():
        row = pick(rows, group=group, metric=metric)
        assert (row["numerator"], row["denominator"]) == (numerator, denominator)
        assert row["value"] == pytest.approx(numerator / denominator)
        assert row["n"] == (5 if group == "a" else 4)
        assert row["flag"] == "n < 30"


def test_a_rate_without_eligible_items_is_undefined_and_not_zero(pick: Pick) -> None:
    rows = group_table(Classified(LABELS, PREDICTIONS, {"gender": GENDER}), FEW)
    row = pick(rows, group="b", metric="true_positive_rate")
    assert row["value"] is None
    assert row["flag"] == "undefined: no eligible item"


def test_values_equal_fairlearn_and_intervals_equal_statsmodels(
    pick: Pick, random_table: RandomTable
) -> None:
    labels, predictions, groups = random_table()
    rows = group_table(Classified(labels, predictions, {"g": groups}), FEW)
    y, guess, names = np.array(labels), np.array(predictions), np.array(groups)
    functions = {
        "selection_rate": fair.selection_rate,
        "true_positive_rate": fair.true_positive_rate,
        "false_positive_rate": fair.false_positive_rate,
        "accuracy": sk.accuracy_score,
        "f1": sk.f1_score,
    }
    for group in "xyz":
        inside = names == group
        for metric, function in functions.items():
            row = pick(rows, group=group, metric=metric)
            assert row["value"] == pytest.approx(function(y[inside], guess[inside]))
            if metric != "f1":
                ends = proportion_confint(row["numerator"], row["denominator"], method="wilson")
                assert (row["low"], row["high"]) == pytest.approx(ends)
    small = {row["flag"] for row in rows if row["group"] == "z"}
    large = {row["flag"] for row in rows if row["group"] == "x"}
    assert (small, large) == ({"n < 30"}, {""})


def test_several_classes_have_accuracy_and_macro_f1_alone(pick: Pick) -> None:
    labels = ["red", "blue", "green", "red", "blue", "red"]
    guess = ["red", "green", "green", "blue", "blue", "red"]
    rows = group_table(Classified(labels, guess, {"g": ["p"] * 4 + ["q"] * 2}), FEW)
    assert {row["metric"] for row in rows} == {"accuracy", "macro_f1"}
    for group, part in (("p", slice(0, 4)), ("q", slice(4, 6))):
        expected = sk.f1_score(labels[part], guess[part], average="macro", zero_division=0)
        assert pick(rows, group=group, metric="macro_f1")["value"] == pytest.approx(expected)


def test_a_named_positive_class_turns_the_rates(pick: Pick) -> None:
    labels, guess = ["bad", "bad", "good", "good"], ["bad", "good", "good", "good"]
    rows = group_table(Classified(labels, guess, {"g": ["p"] * 4}, positive="bad"), FEW)
    assert pick(rows, metric="selection_rate")["value"] == 0.25
    assert pick(rows, metric="true_positive_rate")["value"] == 0.5
    assert pick(rows, metric="false_positive_rate")["value"] == 0.0


def test_unknown_groups_and_intersections_are_shown() -> None:
    groups = {"gender": ["w", None, "m", "m"], "age": ["old", "old", "young", None]}
    rows = group_table(Classified([1, 0, 1, 0], [1, 1, 1, 0], groups), FEW)
    sizes = {(r["attribute"], r["group"]): r["n"] for r in rows if r["metric"] == "accuracy"}
    assert sizes == {
        ("gender", "m"): 2,
        ("gender", "unknown"): 1,
        ("gender", "w"): 1,
        ("age", "old"): 2,
        ("age", "unknown"): 1,
        ("age", "young"): 1,
        ("gender & age", "m & unknown"): 1,
        ("gender & age", "m & young"): 1,
        ("gender & age", "unknown & old"): 1,
        ("gender & age", "w & old"): 1,
    }


def test_tables_refuse_what_they_cannot_judge() -> None:
    with pytest.raises(ValueError, match="one prediction a label"):
        Classified([], [], {"g": []})
    with pytest.raises(ValueError, match="one prediction a label"):
        Classified([1], [1, 0], {"g": ["a"]})
    with pytest.raises(ValueError, match="'g' for 2 items"):
        Classified([1, 0], [1, 0], {"g": ["a"]})
    with pytest.raises(ValueError, match="two classes"):
        Classified(["x", "y"], ["z", "x"], {"g": ["a", "a"]}, positive="x")
