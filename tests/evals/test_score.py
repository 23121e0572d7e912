"""Which interval and test a metric gets, and how results of two stages are paired."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from align.errors import UserError
from evals.metrics import (
    accuracy_metric,
    f1_metrics,
    mean_metric,
    perplexity_metrics,
    value_rows,
)
from evals.score import compare, estimate, non_inferior, pair_results
from evals.stats import Resampling
from evals.task import Metric, TaskResult

DRAWS = Resampling(500)
MEAN = mean_metric("length", "x", "none", "mean")


def result(values: list[float], ids: str, **fields: object) -> TaskResult:
    return TaskResult(
        ids=tuple(ids),
        stats={"accuracy": value_rows(values), "x": value_rows(values)},
        samples=[{"value": value} for value in values],
        columns={"who": tuple(ids.upper())},
        **fields,  # type: ignore[arg-type]
    )


def test_each_kind_of_metric_gets_its_interval() -> None:
    scored = result([1.0, 0, 1, 1], "abcd")
    assert estimate(accuracy_metric(), scored, DRAWS).method == "Wilson, 0.95"
    assert estimate(MEAN, scored, DRAWS).method == "t, 0.95"
    bare = estimate(replace(MEAN, kind="biased"), scored, DRAWS)
    assert bare.value == 0.75
    assert np.isnan([bare.low, bare.high]).all()
    assert (bare.method, bare.n) == ("no interval: biased for few items", 4)
    grouped = result([1.0, 0, 1, 1], "abcd", clusters=("x", "x", "y", "y"))
    assert estimate(accuracy_metric(), grouped, DRAWS).method == "Korn-Graubard, 2 clusters, 0.95"
    documents = TaskResult(
        ids=("a", "b"),
        stats={"perplexity": np.array([[2.0, 2, 1, 4], [3, 2, 1, 4]])},
        samples=[{}] * 2,
    )
    method = estimate(perplexity_metrics()[0], documents, DRAWS).method
    assert method == "t of the logarithm, jackknife, 0.95"
    answers = TaskResult(
        ids=("a", "b"), stats={"f1": np.array([[1.0, 0, 0], [1, 1, 0]])}, samples=[{}] * 2
    )
    method = estimate(f1_metrics()[0], answers, DRAWS).method
    assert method == "BCa bootstrap, 500 resamples, 0.95"


def test_each_kind_of_metric_gets_its_test() -> None:
    before, after = result([1.0, 0, 0, 0], "abcd"), result([1.0, 1, 1, 0], "abcd")
    accuracy = compare(accuracy_metric(), before, after, DRAWS)
    assert (accuracy.test, accuracy.difference) == ("exact McNemar", 0.5)
    assert compare(MEAN, before, after, DRAWS).test == "sign-flip permutation"


def test_non_inferiority_holds_its_test_and_its_direction() -> None:
    before, after = result([1.0, 2, 3, 4], "abcd"), result([1.1, 1.9, 3.2, 4.2], "abcd")
    # Lengths rose by 0.1 on average: no loss where more is better, a loss where less is.
    longer = mean_metric("length", "x", "higher", "mean")
    shorter = mean_metric("length", "x", "lower", "mean")
    assert non_inferior(longer, before, after, 0.2).difference == pytest.approx(0.1)
    assert non_inferior(shorter, before, after, 0.2).difference == pytest.approx(-0.1)
    assert non_inferior(longer, before, after, 0.2).holds
    assert not non_inferior(shorter, before, after, 0.2).holds
    with pytest.raises(UserError, match="neither direction of length"):
        non_inferior(MEAN, before, after, 0.2)


def test_non_inferiority_is_the_other_side_of_the_interval() -> None:
    generator, names = np.random.default_rng(0), "abcdefghijklmnopqrst"
    before, after = (result(((generator.random(20) < 0.7) * 1.0).tolist(), names) for _ in range(2))
    clusters = tuple("v" if name in "aeiou" else name for name in names)
    for metric in (accuracy_metric(), perplexity_like()):
        for grouped in (None, clusters):
            first, second = (replace(side, clusters=grouped) for side in (before, after))
            change = compare(metric, first, second, DRAWS)
            end = change.low if metric.better == "higher" else -change.high
            assert non_inferior(metric, first, second, 0.1).bound == pytest.approx(end)


def perplexity_like() -> Metric:
    return Metric("p", "x", lambda s: np.exp(s[..., 0] / s[..., 1]), "lower", "", "positive")


@pytest.mark.parametrize("clusters", [None, ("x", "y", "y")])
def test_a_ratio_in_which_no_item_takes_part_has_no_change(clusters: object) -> None:
    # Both models' numerator and denominator are 0 of every item: nobody was named by an answer.
    nothing = TaskResult(("a", "b", "c"), {"x": np.zeros((3, 2))}, [{}] * 3, clusters=clusters)  # type: ignore[arg-type]
    change = compare(replace(perplexity_like(), kind="ratio"), nothing, nothing, DRAWS)
    assert np.isnan([change.difference, change.low, change.high, change.p, change.mde]).all()
    assert (change.n, change.units) == (0, 0)


def test_items_are_paired_by_id_not_by_place() -> None:
    before = result([1.0, 0, 1, 0], "abcd")
    after = result([0.0, 1, 0, 1], "dcba")  # the same outcome of every item
    change = compare(accuracy_metric(), before, after, DRAWS)
    assert (change.difference, change.p) == (0.0, 1.0)
    first, second = pair_results(before, after)
    assert first.ids == second.ids == tuple("abcd")
    assert second.columns["who"] == tuple("ABCD")
    assert [sample["value"] for sample in second.samples] == [1, 0, 1, 0]


def test_only_missing_items_may_differ() -> None:
    before = result([1.0, 0, 1], "abc")
    after = result([1.0, 0], "ab", missing={"too long": 1})
    paired = pair_results(before, after)
    assert [len(side.ids) for side in paired] == [2, 2]
    with pytest.raises(UserError, match="2 shared, 1 only in the first, 0 only in the second"):
        pair_results(before, result([1.0, 0], "ab"))
    with pytest.raises(UserError, match="different items"):
        pair_results(before, result([1.0, 0, 1], "xyz"))
