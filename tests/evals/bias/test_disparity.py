"""Groups compared: signed differences and gaps, by hand and against fairlearn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fairlearn import metrics as fair

from evals.bias.disparity import group_differences, group_gaps
from evals.bias.fairness import Classified
from evals.stats import Resampling

FEW = Resampling(resamples=200)
# group a: 5 items, labels 1 1 1 0 0, predictions 1 1 0 1 0; group b: 4 items, all labels 0.
LABELS = [1, 1, 1, 0, 0, 0, 0, 0, 0]
PREDICTIONS = [1, 1, 0, 1, 0, 1, 0, 0, 0]
GENDER = ["a"] * 5 + ["b"] * 4


def _pick(rows: list[dict[str, Any]], **keys: str) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in keys.items())]
    return row


def _random(n: int = 400) -> tuple[list[int], list[int], list[str]]:
    rng = np.random.default_rng(5)
    groups = rng.choice(["x", "y", "z"], size=n, p=[0.5, 0.45, 0.05])
    labels = rng.integers(0, 2, n)
    predictions = np.where(rng.random(n) < 0.7, labels, 1 - labels)
    return labels.tolist(), predictions.tolist(), groups.tolist()


def test_differences_are_signed_and_span_demographic_parity_and_equalised_odds() -> None:
    rows = group_differences(Classified(LABELS, PREDICTIONS, {"gender": GENDER}))
    signed = {row["metric"]: row["value"] for row in rows}
    # 3/5 - 3/4, 3/5 - 1/4, 1/2 - 1/4; no positive in b, so no difference of true positive rates
    assert signed == pytest.approx(
        {"accuracy": -0.15, "selection_rate": 0.35, "false_positive_rate": 0.25}
    )
    labels, guess, groups = _random()
    table = {
        (r["metric"], r["group_a"], r["group_b"]): abs(r["value"])
        for r in group_differences(Classified(labels, guess, {"g": groups}))
    }
    parity = max(v for (metric, *_), v in table.items() if metric == "selection_rate")
    odds = max(v for (metric, *_), v in table.items() if metric.endswith("positive_rate"))
    assert parity == pytest.approx(
        fair.demographic_parity_difference(labels, guess, sensitive_features=groups)
    )
    assert odds == pytest.approx(
        fair.equalized_odds_difference(labels, guess, sensitive_features=groups)
    )


def test_gap_p_is_small_for_a_real_gap_and_uniform_without_one() -> None:
    groups = ["a"] * 40 + ["b"] * 40
    apart = group_gaps(
        Classified([1] * 80, [1] * 36 + [0] * 4 + [1] * 16 + [0] * 24, {"g": groups})
    )
    row = _pick(apart, metric="true_positive_rate")
    assert row["value"] == pytest.approx(0.5)  # 36/40 - 16/40
    assert row["p"] < 0.002
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(60):
        guess = rng.integers(0, 2, 80).tolist()
        rows = group_gaps(Classified([1] * 80, guess, {"g": groups}), Resampling(resamples=100))
        p_values.append(_pick(rows, metric="selection_rate")["p"])
    # Ties make the p conservative: mean a little over a half, and few below .1 (6 expected).
    assert 0.4 < float(np.mean(p_values)) < 0.75
    assert sum(p < 0.1 for p in p_values) <= 12


def test_gap_leaves_the_unknown_group_out() -> None:
    rows = group_gaps(Classified([1, 1, 1, 0], [1, 1, 0, 0], {"g": ["a", "b", None, None]}), FEW)
    assert _pick(rows, metric="accuracy")["value"] == 0.0
    assert _pick(rows, metric="accuracy")["n"] == 2


def test_difference_p_is_fishers_exact_by_hand() -> None:
    # 3 of 3 against 0 of 3: of the C(6,3) = 20 ways to place the hits two are as extreme.
    (row,) = group_differences(Classified(["u"] * 6, ["u"] * 3 + ["v"] * 3, {"g": list("aaabbb")}))
    assert row["p"] == pytest.approx(2 / 20)
    assert row["value"] == 1.0
