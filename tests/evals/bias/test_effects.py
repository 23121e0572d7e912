"""Mean effects by contrast against scipy, enumeration and hand-made sums."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from evals.bias.effects import Contrast, Effects, change_rows, effect_rows
from evals.stats import Resampling

TONE = Contrast("tone", "gender", "woman", "man", False)
CONTROL = Contrast("tone", "gender", "man", "man", True)
DRAWS = Resampling(resamples=500)


def _effects(values: list[float], contrasts: list[Contrast], clusters: list[str]) -> Effects:
    return Effects(np.array(values), contrasts, clusters)


def test_equal_clusters_give_the_t_interval_of_the_cluster_means() -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(0.4, 1, size=(7, 1)) + rng.normal(0, 0.1, size=(7, 5))
    clusters = [f"pair{c}" for c in range(7) for _ in range(5)]
    (row,) = effect_rows(_effects(list(table.ravel()), [TONE] * 35, clusters), "nats", DRAWS)
    # With equally large clusters the clustered interval is the t interval of the 7 means.
    expected = stats.ttest_1samp(table.mean(axis=1), 0).confidence_interval(0.95)
    assert row["value"] == pytest.approx(table.mean())
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    assert (row["n"], row["clusters"], row["unit"]) == (35, 7, "nats")
    # Items taken as independent would claim far more than 7 independent name pairs can.
    naive = stats.ttest_1samp(table.ravel(), 0).confidence_interval(0.95)
    assert row["high"] - row["low"] > 1.8 * (naive.high - naive.low)


def test_p_counts_sign_flips_of_whole_clusters() -> None:
    values, clusters = [3.0, 1.0, 2.0, -1.0, 0.5], ["x", "x", "y", "z", "z"]
    (row,) = effect_rows(_effects(values, [TONE] * 5, clusters), "nats", DRAWS)
    sums = np.array([4.0, 2.0, -0.5])
    flips = [abs(np.dot(s, sums)) for s in itertools.product([1, -1], repeat=3)]
    assert row["p"] == pytest.approx(np.mean(np.array(flips) >= 5.5))


def test_contrasts_are_kept_apart_and_controls_marked() -> None:
    contrasts = [TONE, CONTROL, TONE, TONE._replace(attribute="age")]
    rows = effect_rows(_effects([1.0, 5.0, 3.0, 9.0], contrasts, list("abcd")), "sd", DRAWS)
    assert [(r["attribute"], r["control"], r["value"], r["n"]) for r in rows] == [
        ("gender", False, 2.0, 2),
        ("gender", True, 5.0, 1),
        ("age", False, 9.0, 1),
    ]


def test_items_stated_in_the_other_direction_count_with_the_sign_turned() -> None:
    effects = _effects([2.0, -4.0, 6.0], [TONE, TONE.reverse, TONE], ["a", "b", "c"])
    (row,) = effect_rows(effects, "nats", DRAWS)
    # Alphabetical: man minus woman. -2, -4, -6 have mean -4.
    assert (row["group_a"], row["group_b"], row["value"]) == ("man", "woman", -4.0)


def test_change_is_the_paired_difference_and_its_interval_is_of_the_pairs() -> None:
    before = _effects([1.0, 2.0, 10.0, 20.0], [TONE] * 4, list("abcd"))
    after = _effects([1.5, 3.0, 10.75, 21.0], [TONE] * 4, list("abcd"))
    (row,) = change_rows(before, after, DRAWS)
    paired = stats.ttest_rel(after.values, before.values).confidence_interval(0.95)
    assert row["difference"] == pytest.approx((0.5 + 1 + 0.75 + 1) / 4)
    assert (row["low"], row["high"]) == pytest.approx((paired.low, paired.high))
    assert row["p"] == pytest.approx(2 / 16)  # all four rise: only all flipped is as extreme
    assert "value" not in row
    assert "unit" not in row


def test_change_refuses_other_items() -> None:
    before = _effects([1.0], [TONE], ["a"])
    with pytest.raises(ValueError, match="same items"):
        change_rows(before, _effects([1.0], [TONE], ["b"]), DRAWS)


def test_controls_without_effect_alarm_at_their_nominal_rate() -> None:
    # Calibration under the null, clustered: 400 audits of 12 name pairs with 4 templates each.
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(400):
        values = (rng.normal(0, 1, size=(12, 1)) + rng.normal(0, 0.3, size=(12, 4))).ravel()
        clusters = [f"{c}" for c in range(12) for _ in range(4)]
        (row,) = effect_rows(
            _effects(list(values), [CONTROL] * 48, clusters), "sd", Resampling(resamples=100)
        )
        alarms += not row["low"] <= 0 <= row["high"]
    # Binomial(400, .05): 20 expected, sd 4.4; ignoring the clusters gives about 110.
    assert 7 <= alarms <= 34
