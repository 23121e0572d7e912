"""Mitigations beside fairlearn called by hand, on items whose bias is planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fairlearn import metrics as fair
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import DemographicParity, ExponentiatedGradient
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from evals.bias.fairness import Classified
from evals.bias.mitigation import (
    farthest_pairs,
    halves,
    reduction_mitigations,
    threshold_mitigations,
    treatable,
)
from evals.stats import Resampling

FEW = Resampling(resamples=100)


def planted(n: int = 600) -> tuple[Classified, np.ndarray[Any, Any]]:
    """Scores of one group are 0.25 too low."""
    rng = np.random.default_rng(7)
    groups = np.array(["a", "b"])[np.arange(n) % 2]
    labels = rng.integers(0, 2, n)
    scores = np.clip(0.3 + 0.4 * labels - 0.25 * (groups == "b") + 0.2 * rng.normal(size=n), 0, 1)
    guess = (scores >= 0.5).astype(int)
    return Classified(labels.tolist(), guess.tolist(), {"g": groups.tolist()}), scores


def pick(rows: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in keys.items())]
    return row


def test_halves_are_disjoint_seeded_and_keep_clusters_whole() -> None:
    clusters = [str(i // 3) for i in range(30)]
    fit, judged = halves(30, clusters, seed=1)
    assert sorted([*fit, *judged]) == list(range(30))
    assert {clusters[i] for i in fit}.isdisjoint({clusters[i] for i in judged})
    assert len({clusters[i] for i in fit}) == 5
    assert not np.array_equal(fit, halves(30, clusters, seed=2).fit)
    assert len(halves(31, None, seed=1).fit) == 15
    with pytest.raises(ValueError, match="cannot be halved"):
        halves(3, ["x"] * 3, seed=0)


@pytest.mark.parametrize("constraint", ["demographic_parity", "equalized_odds"])
def test_thresholds_are_fairlearns_fitted_on_one_half_and_judged_on_the_other(
    constraint: str,
) -> None:
    data, scores = planted()
    found = threshold_mitigations(data, scores, FEW)
    assert found.notes == []
    fit, judged = halves(600, None, 0)
    labels, groups = np.array(data.labels), np.array(data.groups["g"])
    # A logistic regression on the score alone keeps its order, so the rule is the same.
    line = LogisticRegression(C=1e6).fit(scores[fit, None], labels[fit])
    rule = ThresholdOptimizer(
        estimator=line, constraints=constraint, prefit=True, predict_method="predict_proba"
    ).fit(scores[fit, None], labels[fit], sensitive_features=groups[fit])
    after = rule.predict(
        scores[judged, None], sensitive_features=groups[judged], random_state=FEW.seed
    )
    gap = getattr(fair, f"{constraint}_difference")
    metric = {"demographic_parity": "selection_rate"}.get(constraint, constraint)
    row = pick(found.rows, constraint=constraint, kind="gap", metric=metric)
    kept = {"sensitive_features": groups[judged]}
    guess = np.array(data.predictions)[judged]
    assert row["before"] == pytest.approx(gap(labels[judged], guess, **kept))
    assert row["after"] == pytest.approx(gap(labels[judged], after, **kept))
    assert row["value"] < -0.2
    metric = metric if metric == "selection_rate" else "true_positive_rate"
    row = pick(found.rows, constraint=constraint, kind="difference", metric=metric)
    assert row["largest"]
    assert row["before"] > 0.15  # a is ahead of b
    assert row["high"] < 0
    cost = pick(found.rows, constraint=constraint, attribute="everyone", metric="accuracy")
    assert cost["after"] == pytest.approx(np.mean(after == labels[judged]))
    assert cost["n"] == len(judged) == 300


def test_those_without_a_rule_keep_their_prediction_and_are_counted() -> None:
    data, scores = planted()
    groups = list(data.groups["g"])
    groups[:40] = [None] * 40
    groups[40:50] = ["c"] * 10  # of one label alone
    labels = [1 if g == "c" else y for g, y in zip(groups, data.labels, strict=True)]
    changed = Classified(labels, data.predictions, {"g": groups})
    found = threshold_mitigations(changed, scores, FEW)
    judged = halves(600, None, 0).judged
    count = sum(groups[i] in (None, "c") for i in judged)
    assert found.notes == [
        f"ThresholdOptimizer by g: {count} items keep their prediction "
        "(c, unknown: unknown, or one label alone in the half for fitting)"
    ]
    for group in ("c", "unknown"):
        row = pick(
            found.rows,
            constraint="equalized_odds",
            kind="rate",
            metric="selection_rate",
            group_a=group,
        )
        assert row["before"] == row["after"]


def test_treatable_groups_are_known_and_have_both_labels() -> None:
    labels = np.array([0, 1, 1, 1, 0, 1, 0, 1])
    names = np.array(["a", "a", "b", "b", "unknown", "unknown", "a & unknown", "a & unknown"])
    assert treatable(labels, names) == ["a"]


def test_fewer_than_two_groups_with_a_rule_are_said() -> None:
    data, scores = planted(200)
    lone = Classified(data.labels, data.predictions, {"g": ["a"] * 200})
    said = "1 known groups with both labels in the half for fitting, 2 needed"
    assert threshold_mitigations(lone, scores, FEW) == ([], [f"ThresholdOptimizer by g: {said}"])
    features = [{"x": score} for score in scores.tolist()]
    assert reduction_mitigations(lone, features, FEW).notes == [
        f"ExponentiatedGradient by g: {said}"
    ]
    same = Classified([1] * 200, data.predictions, data.groups)
    assert reduction_mitigations(same, features, FEW).notes == [
        "ExponentiatedGradient: one label alone in the half for fitting"
    ]


def test_the_farthest_pair_is_that_of_the_known_extremes() -> None:
    # selection rates: a 0, b 1/2, c 1, unknown 1; true positives of a and c alone
    data = Classified(
        [1, 0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 1, 1, 1, 1], {"g": [*"aabbcc", None, None]}
    )
    found = farthest_pairs(data, "g")
    assert found["selection_rate"] == {"a", "c"}
    assert found["true_positive_rate"] == {"a", "c"}
    assert found["false_positive_rate"] == {"a", "b"}
    alone = Classified([1, 0], [1, 0], {"g": ["a", None]})
    assert farthest_pairs(alone, "g") == {}


def test_both_need_two_classes() -> None:
    data = Classified(["x", "y", "z"], ["x", "y", "z"], {"g": ["a", "b", "a"]})
    with pytest.raises(ValueError, match="two classes"):
        threshold_mitigations(data, np.zeros(3), FEW)
    with pytest.raises(ValueError, match="two classes"):
        reduction_mitigations(data, [{}] * 3, FEW)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pandas, in fairlearn
def test_a_reduction_is_fairlearns_on_scaled_features() -> None:
    data, scores = planted(300)
    labels, groups = np.array(data.labels), np.array(data.groups["g"])
    colour = np.where(groups == "a", "red", "blue")
    features = [
        {"score": float(s), "colour": None if i == 5 else str(c)}
        for i, (s, c) in enumerate(zip(scores, colour, strict=True))
    ]
    found = reduction_mitigations(data, features, FEW)
    fit, judged = halves(300, None, 0)
    colour[5] = "missing"
    # columns in the order of their names: colours, then the score
    seen = sorted(set(colour[fit].tolist()))
    table = np.column_stack([*(colour == name for name in seen), scores]).astype(float)
    table = StandardScaler().fit(table[fit]).transform(table)
    plain = LogisticRegression(max_iter=1000).fit(table[fit], labels[fit])
    model = ExponentiatedGradient(LogisticRegression(max_iter=1000), DemographicParity())
    model.fit(table[fit], labels[fit], sensitive_features=groups[fit])
    after = model.predict(table, random_state=0)[judged]
    row = pick(found.rows, constraint="demographic_parity", kind="gap", metric="selection_rate")
    kept = {"sensitive_features": groups[judged]}
    assert row["before"] == pytest.approx(
        fair.demographic_parity_difference(labels[judged], plain.predict(table[judged]), **kept)
    )
    assert row["after"] == pytest.approx(
        fair.demographic_parity_difference(labels[judged], after, **kept)
    )
    assert {row["method"] for row in found.rows} == {"ExponentiatedGradient"}
