"""Groups compared: signed differences and gaps, by hand and against fairlearn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fairlearn import metrics as fair
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from evals.bias.disparity import group_differences, group_gaps
from evals.bias.fairness import Classified
from evals.stats import Resampling

Pick = Callable[..., dict[str, Any]]
RandomTable = Callable[..., tuple[list[int], list[int], list[str]]]
FEW = Resampling(resamples=200)
# group a: 5 items, labels 1 1 1 0 0, predictions 1 1 0 1 0; group b: 4 items, all labels 0.
LABELS = [1, 1, 1, 0, 0, 0, 0, 0, 0]
PREDICTIONS = [1, 1, 0, 1, 0, 1, 0, 0, 0]
GENDER = ["a"] * 5 + ["b"] * 4


def test_differences_are_signed_and_span_demographic_parity_and_equalised_odds(
    random_table: RandomTable,
) -> None:
    rows = group_differences(Classified(LABELS, PREDICTIONS, {"gender": GENDER}))
    signed = {row["metric"]: row["value"] for row in rows}
    # 3/5 - 3/4, 3/5 - 1/4, 1/2 - 1/4; no positive in b, so no difference of true positive rates
    assert signed == pytest.approx(
        {"accuracy": -0.15, "selection_rate": 0.35, "false_positive_rate": 0.25}
    )
    labels, guess, groups = random_table()
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


def test_gap_p_is_small_for_a_real_gap_and_uniform_without_one(pick: Pick) -> None:
    groups = ["a"] * 40 + ["b"] * 40
    apart = group_gaps(
        Classified([1] * 80, [1] * 36 + [0] * 4 + [1] * 16 + [0] * 24, {"g": groups})
    )
    row = pick(apart, metric="true_positive_rate")
    assert row["value"] == pytest.approx(0.5)  # 36/40 - 16/40
    assert row["p"] < 0.002
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(60):
        guess = rng.integers(0, 2, 80).tolist()
        rows = group_gaps(Classified([1] * 80, guess, {"g": groups}), Resampling(resamples=100))
        p_values.append(pick(rows, metric="selection_rate")["p"])
    # Ties make the p conservative: mean a little over a half, and few below .1 (6 expected).
    assert 0.4 < float(np.mean(p_values)) < 0.75
    assert sum(p < 0.1 for p in p_values) <= 12


def test_gap_leaves_the_unknown_group_out(pick: Pick) -> None:
    rows = group_gaps(Classified([1, 1, 1, 0], [1, 1, 0, 0], {"g": ["a", "b", None, None]}), FEW)
    assert pick(rows, metric="accuracy")["value"] == 0.0
    assert pick(rows, metric="accuracy")["n"] == 2


def test_difference_p_is_fishers_exact_by_hand() -> None:
    # 3 of 3 against 0 of 3: of the C(6,3) = 20 ways to place the hits two are as extreme.
    (row,) = group_differences(Classified(["u"] * 6, ["u"] * 3 + ["v"] * 3, {"g": list("aaabbb")}))
    assert row["p"] == pytest.approx(2 / 20)
    assert row["value"] == 1.0


binary = st.integers(0, 1)
tables = st.lists(st.tuples(binary, binary, st.sampled_from("abc")), min_size=1, max_size=40)


def same(ours: float | None, theirs: float) -> bool:
    """Equal to the last digit; where ours is null, theirs is NaN."""
    return ours == theirs if ours is not None else bool(np.isnan(theirs))


@settings(max_examples=15, deadline=None)
@given(tables, st.sampled_from(["ab", "abc"]))
def test_gaps_are_fairlearns_on_random_tables(rows: list[tuple[int, int, str]], names: str) -> None:
    # Every group has both labels, so that no rate is undefined; ratios of 0 to 0 are fairlearn's.
    rows = [
        *((x, y, g) for x, y, g in rows if g in names),
        *((x, x, g) for g in names for x in (0, 1)),
    ]
    labels, guess, groups = (list(column) for column in zip(*rows, strict=True))
    found = {r["metric"]: r for r in group_gaps(Classified(labels, guess, {"g": groups}), FEW)}
    kept = {"sensitive_features": groups}
    parity, odds = found["selection_rate"], found["equalized_odds"]
    chance = found["true_positive_rate"]
    assert parity["value"] == fair.demographic_parity_difference(labels, guess, **kept)
    assert same(parity["ratio"], fair.demographic_parity_ratio(labels, guess, **kept))
    assert odds["value"] == fair.equalized_odds_difference(labels, guess, **kept)
    assert same(odds["ratio"], fair.equalized_odds_ratio(labels, guess, **kept))
    assert chance["value"] == fair.equal_opportunity_difference(labels, guess, **kept)
    for row in found.values():
        assert row["low"] <= row["value"] <= row["high"]
        if row["ratio"] is not None and np.isfinite(row["ratio"]):
            assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]


def test_a_group_without_positives_takes_no_part_where_fairlearn_counts_a_rate_of_0(
    pick: Pick,
) -> None:
    # true positives: a 1/2, b 2/2; c has no positive item
    data = Classified([1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 0, 0], {"g": list("aabbcc")})
    row = pick(group_gaps(data, FEW), metric="true_positive_rate")
    assert (row["value"], row["groups"]) == (0.5, 2)
    frame = fair.MetricFrame(
        metrics=fair.true_positive_rate,
        y_true=data.labels,
        y_pred=data.predictions,
        sensitive_features=list("aabbcc"),
    )
    assert frame.difference() == 1.0
    # false positives: only c has negatives, so there is no gap, and no equalised odds
    assert {r["metric"] for r in group_gaps(data, FEW)}.isdisjoint(
        {"false_positive_rate", "equalized_odds"}
    )


def test_the_gaps_interval_holds_all_pairs_at_once(pick: Pick) -> None:
    hits, sizes = {"a": 10, "b": 22, "c": 30}, {"a": 40, "b": 50, "c": 40}
    groups = [g for g, n in sizes.items() for _ in range(n)]
    guess = [int(i < hits[g]) for g, n in sizes.items() for i in range(n)]
    row = pick(group_gaps(Classified([1] * 130, guess, {"g": groups})), metric="selection_rate")
    ends = [
        confint_proportions_2indep(
            hits[a], sizes[a], hits[b], sizes[b], method="newcomb", alpha=0.05 / 3
        )
        for a, b in (("b", "a"), ("c", "a"), ("c", "b"))  # the larger rate first
    ]
    assert row["value"] == pytest.approx(30 / 40 - 10 / 40)
    assert row["low"] == pytest.approx(max(low for low, _ in ends))
    assert row["high"] == pytest.approx(max(high for _, high in ends))
    alone = {g: proportion_confint(hits[g], sizes[g], 0.05 / 3, "wilson") for g in hits}
    lows, highs = zip(*alone.values(), strict=True)
    assert row["ratio"] == pytest.approx(1 / 3)
    assert row["ratio_low"] == pytest.approx(min(lows) / max(highs))
    assert row["ratio_high"] == pytest.approx(min(highs) / max(lows))


def test_the_worse_of_both_rates_shares_its_error_over_both(pick: Pick) -> None:
    # 20 positives and 20 negatives in each of two groups: four rates, two differences
    labels = ([1] * 20 + [0] * 20) * 2
    guess = [1] * 15 + [0] * 5 + [1] * 4 + [0] * 16 + [1] * 10 + [0] * 10 + [1] * 2 + [0] * 18
    row = pick(
        group_gaps(Classified(labels, guess, {"g": ["a"] * 40 + ["b"] * 40})),
        metric="equalized_odds",
    )
    true = confint_proportions_2indep(15, 20, 10, 20, method="newcomb", alpha=0.025)
    false = confint_proportions_2indep(4, 20, 2, 20, method="newcomb", alpha=0.025)
    assert row["value"] == pytest.approx(0.25)
    assert row["low"] == pytest.approx(max(0.0, true[0], false[0]))
    assert row["high"] == pytest.approx(max(true[1], false[1]))
    rates = [proportion_confint(hits, 20, 0.0125, "wilson") for hits in (15, 10, 4, 2)]
    assert row["ratio"] == pytest.approx(0.5)  # 2/4, below 10/15
    assert row["ratio_low"] == pytest.approx(
        min(rates[1][0] / rates[0][1], rates[3][0] / rates[2][1])
    )


def test_a_difference_over_clusters_is_a_paired_t_where_each_holds_both_groups(pick: Pick) -> None:
    rng = np.random.default_rng(3)
    clusters, groups = [str(i) for i in range(30) for _ in "ab"], list("ab") * 30
    guess = rng.integers(0, 2, 60).tolist()
    data = Classified([1] * 60, guess, {"g": groups}, clusters=clusters)
    row = pick(group_differences(data), metric="selection_rate")
    test = stats.ttest_1samp(np.array(guess[::2]) - np.array(guess[1::2]), 0)
    assert row["value"] == pytest.approx(np.mean(guess[::2]) - np.mean(guess[1::2]))
    ends = test.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((ends.low, ends.high))
    assert row["p"] == pytest.approx(test.pvalue)


def test_clusters_that_do_not_differ_give_no_interval_and_say_so(pick: Pick) -> None:
    data = Classified(
        [1] * 80, [1] * 80, {"g": list("ab") * 40}, clusters=["x", "x", "y", "y"] * 20
    )
    row = pick(group_differences(data), metric="selection_rate")
    assert (row["value"], row["low"], row["p"]) == (0.0, None, None)
    assert row["flag"] == "no interval: too few clusters, or they do not differ"
    gap = pick(group_gaps(data, FEW), metric="selection_rate")
    assert (gap["value"], gap["low"], gap["high"], gap["p"]) == (0.0, None, None, 1.0)


def test_q_is_benjamini_hochbergs_over_the_table(random_table: RandomTable) -> None:
    labels, guess, groups = random_table()
    for rows in (
        group_differences(Classified(labels, guess, {"g": groups})),
        group_gaps(Classified(labels, guess, {"g": groups}), FEW),
    ):
        expected = stats.false_discovery_control([row["p"] for row in rows])
        assert [row["q"] for row in rows] == pytest.approx(list(expected))
