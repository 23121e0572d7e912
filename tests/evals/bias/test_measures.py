"""Signed measures and rates of suites: by hand, and every degenerate set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as distributions

from evals.bias.measures import Measure, Rate, ShareMeasure, changes, group_rates, levels
from evals.metrics import value_rows
from evals.ratios import ratio_estimate, ratio_p, share_estimate
from evals.stats import Resampling, mean_estimate, wilson
from evals.task import TaskResult

MEAN = Measure("effect", "effect", "a", "b", "nats", ("group",))
SHARE = ShareMeasure("share", "share", "a", "b", "share above 1/2", ("group",))
DRAWS = Resampling()


def make_result(
    values: list[float], groups: list[str], clusters: list[str] | None = None, **stats: Any
) -> TaskResult:
    ids = tuple(map(str, range(len(values))))
    return TaskResult(
        ids=ids,
        stats={"effect": value_rows(values), **stats},
        samples=[{}] * len(ids),
        clusters=None if clusters is None else tuple(clusters),
        columns={"group": tuple(groups)},
    )


def test_every_group_has_its_row_with_counts_and_flag() -> None:
    result = make_result([1.0, 2.0, 3.0] + [0.5] * 40, ["x"] * 3 + ["y"] * 39 + ["z"])
    rows = levels(result, [MEAN], DRAWS)
    assert [row["attribute"] for row in rows] == ["all", "x", "y", "z"]
    assert [row["n"] for row in rows] == [43, 3, 39, 1]
    assert [row["flag"] for row in rows] == [
        "",
        "n < 30",
        "no interval: clusters do not differ, or are too few",
        "n < 30, no interval: one cluster",
    ]
    x = rows[1]
    # mean 2, sd 1, t(.975, 2) = 4.302653
    half = 4.302652729911275 / math.sqrt(3)
    assert (x["value"], x["low"], x["high"]) == pytest.approx((2, 2 - half, 2 + half))
    assert x["p"] == pytest.approx(distributions.ttest_1samp([1.0, 2.0, 3.0], 0).pvalue)
    assert (x["numerator"], x["denominator"], x["unit"]) == (6, 3, "nats")
    assert math.isnan(rows[3]["low"])
    assert math.isnan(rows[3]["p"])


def test_ties_everywhere_are_a_value_of_zero_without_an_interval() -> None:
    (row, _) = levels(make_result([0.0] * 5, ["x"] * 5), [MEAN], DRAWS)
    assert row["value"] == 0
    assert math.isnan(row["low"])
    assert math.isnan(row["p"])


def test_no_eligible_item_is_undefined_and_still_there() -> None:
    share = np.array([[1.0, 1.0], [0.0, 0.0]])
    result = make_result([0.0, 0.0], ["x", "y"], share=share)
    rows = levels(result, [SHARE], DRAWS)
    assert [(r["attribute"], r["n"], r["flag"]) for r in rows] == [
        ("all", 1, "n < 30"),
        ("x", 1, "n < 30"),
        ("y", 0, "undefined: no eligible item"),
    ]
    assert math.isnan(rows[2]["value"])
    (_, _, change) = changes(result, result, [SHARE], DRAWS)
    assert change["n"] == 0
    assert math.isnan(change["difference"])
    table = group_rates(result, [Rate("rate", "share", ("group",))], DRAWS)
    assert [(r["group"], r["value"], r["n"], r["denominator"]) for r in table] == [
        ("x", 1.0, 1, 1),
        ("y", None, 1, 0),
    ]


def test_shares_are_clustered_where_items_hang_together() -> None:
    hits = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    alone = make_result(hits, ["x"] * 8, share=value_rows(hits))
    low, high = wilson(4, 8)
    row = levels(alone, [SHARE], DRAWS)[0]
    assert (row["value"], row["low"], row["high"]) == pytest.approx((0, low - 0.5, high - 0.5))
    together = make_result(hits, ["x"] * 8, list("aabbccdd"), share=value_rows(hits))
    wider = levels(together, [SHARE], DRAWS)[0]
    assert wider["high"] - wider["low"] > row["high"] - row["low"]
    assert (wider["clusters"], row["clusters"]) == (4, 8)
    assert wider["p"] == 1  # the clusters' signs are +, -, -, +


def test_changes_pair_the_items() -> None:
    before = make_result([1.0, 2.0, 4.0], ["x"] * 3)
    after = make_result([2.0, 4.0, 7.0], ["x"] * 3)
    row = changes(before, after, [MEAN], DRAWS)[0]
    # differences 1, 2, 3: mean 2, and of 8 sign patterns two are as extreme
    assert row["difference"] == pytest.approx(2)
    assert row["p"] == pytest.approx(2 / 8)
    low, high = distributions.t.interval(0.95, 2, 2, 1 / math.sqrt(3))
    assert (row["low"], row["high"]) == pytest.approx((low, high))


def test_rates_by_group_hold_counts_and_wilson_ends() -> None:
    hits = [1.0] * 12 + [0.0] * 28 + [1.0]
    result = make_result(hits, ["x"] * 40 + ["y"], share=value_rows(hits))
    x, y = group_rates(result, [Rate("rate", "share", ("group",))], DRAWS)
    assert (x["numerator"], x["denominator"], x["n"], x["flag"]) == (12, 40, 40, "")
    assert (x["low"], x["high"]) == pytest.approx(tuple(wilson(12, 40)))
    assert (y["numerator"], y["denominator"], y["flag"]) == (1, 1, "n < 30")


def test_ratio_of_a_mean_is_the_clustered_t_interval() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0, 3.0, 5.0])
    found = ratio_estimate(value_rows(values), MEAN.combine, None)
    expected = mean_estimate(values)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    equal = ratio_estimate(value_rows(values), MEAN.combine, list("aabbcc"))
    # clusters of one size: the jackknife is exact there too
    clustered = mean_estimate(values, list("aabbcc"))
    assert (equal.low, equal.high, equal.units) == pytest.approx((clustered.low, clustered.high, 3))
    assert ratio_p(value_rows([1.0]), MEAN.combine, None) != 0


def test_rows_of_zeros_take_no_part() -> None:
    rows = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    found = share_estimate(rows, None)
    assert (found.n, found.value) == (2, 0.5)
    assert (found.low, found.high) == pytest.approx(tuple(wilson(1, 2)))
    ratio_found = ratio_estimate(rows, MEAN.combine, list("abcd"))
    assert (ratio_found.n, ratio_found.units) == (2, 2)
    assert share_estimate(rows[2:], None).n == 0
