"""Preference and drift: sums by hand, scipy on mirrored data, exact flips, and simulations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evals.bias.association import (
    Paired,
    association,
    attribute_rows,
    clear_rows,
    contrast_rows,
    families,
    rank_correlation,
)
from evals.bias.effects import Contrast
from evals.stats import Resampling

FLIPS = Resampling(resamples=500)
WOMAN = Contrast("tone", "gender", "woman", "man", False)
OLD = Contrast("tone", "age", "old", "young", False)
NAME = Contrast("tone", "name", "same", "same", True)


def items(rows: list[tuple[Contrast, str, float, float]]) -> Paired:
    contrasts, clusters, x, y = (list(column) for column in zip(*rows, strict=True))
    return Paired(np.array(x), np.array(y), contrasts, clusters)


def row(attribute: str, x: float, y: float, *, control: bool = False) -> dict[str, Any]:
    sides = {"preference": {"value": x}, "drift": {"value": y}}
    return {"attribute": attribute, "control": control} | sides


def test_both_means_of_a_contrast_stand_on_the_same_items() -> None:
    x, y, templates = [1.0, 2.0, 6.0, 5.0], [0.5, 0.25, -0.75, 1.0], ["t1", "t2", "t3", "t4"]
    paired = items([(WOMAN, t, a, b) for t, a, b in zip(templates, x, y, strict=True)])
    (found,) = contrast_rows(paired, Resampling(confidence=0.9))
    assert (found["measure"], found["group_a"], found["group_b"]) == ("tone", "woman", "man")
    assert (found["n"], found["clusters"]) == (4, 4)
    for side, values in (("preference", x), ("drift", y)):
        ends = stats.ttest_1samp(values, 0).confidence_interval(0.9)
        expected = {"value": np.mean(values), "low": ends.low, "high": ends.high}
        # all 4 positive: 2 of 16 patterns; -.75 + 1.75: |sum| >= 1 but for |.5 + .25 + .75 - 1|
        # = .5 and |.5 - .25 - .75 + 1| = .5, |.5 - .25 + .75 - 1| = 0, each with its negative
        expected["p"] = 2 / 16 if side == "preference" else 10 / 16
        assert found[side] == pytest.approx(expected)


def test_a_contrast_stated_in_both_directions_is_one_and_both_signs_turn() -> None:
    paired = items([(WOMAN, "t1", 3.0, 1.0), (WOMAN.reverse, "t2", -5.0, -2.0)])
    (found,) = contrast_rows(paired, FLIPS)
    # man minus woman: -3 and -5, -1 and -2
    assert (found["group_a"], found["preference"]["value"]) == ("man", -4.0)
    assert (found["drift"]["value"], found["n"]) == (-1.5, 2)


def test_values_without_a_spread_and_single_items_have_no_interval() -> None:
    paired = items([(WOMAN, "t1", 2.0, 0.0), (WOMAN, "t2", 2.0, 0.0), (OLD, "t1", 1.0, 3.0)])
    rows = contrast_rows(paired, FLIPS)
    assert [r["preference"]["value"] for r in rows] == [2.0, 1.0]
    ends = [r[side][end] for r in rows for side in ("preference", "drift") for end in ("low",)]
    assert all(math.isnan(end) for end in ends)


def test_the_slope_goes_through_0_and_its_error_leaves_templates_out() -> None:
    # sum x y = 1*2 + 2*1 + 3*4 = 16 and -1*1 = -1; sum x^2 = 1 + 4 + 9 + 1 = 15
    paired = items(
        [
            (WOMAN, "t1", 1.0, 2.0),
            (WOMAN, "t1", 2.0, 1.0),
            (WOMAN, "t2", 3.0, 4.0),
            (WOMAN, "t3", -1.0, 1.0),
            (NAME, "t1", 1.0, -1.0),
            (OLD, "t1", 2.0, 3.0),
        ]
    )
    gender, name, age = attribute_rows(paired, FLIPS)
    assert gender["value"] == pytest.approx(15 / 15)
    assert (gender["n"], gender["clusters"]) == (4, 3)
    assert gender["size"] == pytest.approx(math.sqrt(15 / 4))
    left = np.array([(12 - 1) / (9 + 1), (4 - 1) / (5 + 1), 16 / 14])  # without t1, t2, t3
    error = math.sqrt(2 / 3 * np.sum((left - left.mean()) ** 2))
    half = stats.t.ppf(0.975, 2) * error
    assert (gender["low"], gender["high"]) == pytest.approx((1 - half, 1 + half))
    # templates' products 4, 12, -1: of the 8 sign patterns |sum| >= 15 for 4+12-1, 4+12+1 and
    # their negatives
    assert gender["p"] == pytest.approx(4 / 8)
    assert (name["attribute"], name["control"], name["value"]) == ("name", True, -1.0)
    assert (age["value"], age["p"]) == (pytest.approx(1.5), 1.0)  # one template: no evidence
    assert math.isnan(age["low"])


@pytest.mark.parametrize(("x", "y", "slope"), [(1.0, 0.0, 0.0), (0.0, 1.0, math.nan)])
def test_all_ties_give_no_test(x: float, y: float, slope: float) -> None:
    (found,) = attribute_rows(items([(OLD, t, x, y) for t in ("t1", "t2", "t3")]), FLIPS)
    assert found["value"] == pytest.approx(slope, nan_ok=True)
    assert all(math.isnan(found[key]) for key in ("low", "high", "p"))


def test_rank_correlation_is_spearman_of_the_data_and_its_mirror_image() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=9).round(1), rng.normal(size=9).round(1)
    x[0], x[1], x[2] = 0.0, 0.7, -0.7  # a zero and a tie
    expected = stats.spearmanr([*x, *-x], [*y, *-y]).statistic
    assert rank_correlation(x, y) == pytest.approx(expected)
    turned = np.where(np.arange(9) % 2, -1, 1)  # other groups named first
    assert rank_correlation(x * turned, y * turned) == pytest.approx(expected)
    assert math.isnan(rank_correlation(x, np.zeros(9)))
    # by hand: signed ranks 1/2, -3/2 and 3/2, -1/2: (3/4 + 3/4) / (1/4 + 9/4)
    assert rank_correlation(np.array([1.0, -2.0]), np.array([5.0, -3.0])) == pytest.approx(0.6)


def test_with_a_family_a_contrast_the_sign_test_is_the_exact_binomial() -> None:
    rows = [row(f"a{i}", 1.0 + i, 2.0 if i < 7 else -1.0) for i in range(8)]
    found = association([*rows, row("tie", 1.0, 0.0), row("c", 9.0, 9.0, control=True)], FLIPS)
    assert (found["contrasts"], found["families"]) == (9, 9), "controls do not count"
    assert (found["agree"], found["signed"]) == (7, 8), "a tie is neither"
    assert found["p_agree"] == pytest.approx(stats.binomtest(7, 8).pvalue)


def test_contrasts_of_a_family_turn_together() -> None:
    # religion twice with, once with; age against: families' sums of signs 3 and -1
    rows = [row("religion", 4, 4), row("religion", 3, 3), row("religion", 2, 2), row("age", 1, -1)]
    found = association(rows, FLIPS)
    assert (found["families"], found["agree"], found["signed"]) == (2, 3, 4)
    # |3 - 1| = 2 and |3 + 1| = 4: all four patterns are at least as far from 0
    assert found["p_agree"] == 1.0
    # signed ranks 3.5, 2.5, 1.5, +-0.5: products 12.25 + 6.25 + 2.25 = 20.75 and -0.25
    assert found["rho"] == pytest.approx(20.5 / 21)
    assert found["p_rho"] == 1.0
    # without religion the correlation is -1, without age 1
    assert (found["rho_low"], found["rho_high"]) == pytest.approx((-1, 1))
    assert association([*rows[:3], row("age", 1, 1)], FLIPS)["p_rho"] == pytest.approx(2 / 4)


def test_p_of_the_rank_correlation_counts_every_pattern() -> None:
    rows = [row("a", 1, 2), row("a", -3, 1), row("b", 2, 3), row("c", 5, -0.5), row("d", 4, 5)]
    found = association(rows, FLIPS)
    # |x| ranks 1 3 2 5 4, |y| ranks 3 2 4 1 5, minus 1/2
    products = np.array([0.5 * 2.5 - 2.5 * 1.5, 1.5 * 3.5, -4.5 * 0.5, 3.5 * 4.5])
    patterns = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T @ products
    assert found["p_rho"] == pytest.approx(np.mean(np.abs(patterns) >= products.sum() - 1e-9))


@pytest.mark.parametrize(
    "rows",
    [
        [row("gender", 2.0, 1.0)],
        [row("gender", 2.0, 1.0), row("pronoun", 1.0, 1.0), row("gender & age", 1.0, -1.0)],
        [row("gender", 2.0, 0.0), row("age", 1.0, 0.0)],
    ],
)
def test_one_family_or_no_drift_has_no_test(rows: list[dict[str, Any]]) -> None:
    found = association(rows, FLIPS)
    assert found["contrasts"] == len(rows)
    keys = ("p_agree", "p_rho", "rho_low", "rho_high")
    assert all(math.isnan(found[key]) for key in keys)
    assert math.isnan(found["rho"]) == (rows[0]["drift"]["value"] == 0)


def test_a_preference_is_clear_by_its_own_q_alone() -> None:
    def tested(p: float, drift: float, *, control: bool = False) -> dict[str, Any]:
        found = row("age", 1.0, drift, control=control)
        return found | {"preference": {"value": 1.0, "p": p}}

    rows = [tested(0.02, -9), tested(0.03, 0), tested(0.06, 9), tested(0.0, 1, control=True)]
    # q of .02, .03, .06 among three: .045, .045, .06
    assert clear_rows(rows) == rows[:2]
    assert clear_rows(rows[2:]) == []
    nothing = association([], FLIPS)
    assert (nothing["contrasts"], nothing["families"], nothing["signed"]) == (0, 0, 0)
    assert math.isnan(nothing["rho"])
    assert math.isnan(nothing["p_agree"])


def test_attributes_that_share_a_part_are_one_family() -> None:
    names = families(["gender", "age", "origin", "gender & origin", "pronoun", "age"])
    assert names["gender"] == names["origin"] == names["gender & origin"] == names["pronoun"]
    assert names["gender"] == "gender & origin"
    assert names["age"] == "age"
    assert families(["gender", "origin"]) == {"gender": "gender", "origin": "origin"}


def simulated(rng: np.random.Generator, follow: float) -> list[dict[str, Any]]:
    """Ten families of four contrasts that hang together; drift is real even where follow is 0."""
    rows = []
    for family in range(10):
        base = rng.normal(size=2)
        for _ in range(4):
            x, own = base + 0.5 * rng.normal(size=2)
            rows.append(row(f"a{family}", x, follow * x + own))
    return rows


def test_false_alarms_are_rare_where_contrasts_alone_would_raise_many() -> None:
    rng = np.random.default_rng(1)
    found = [association(simulated(rng, 0.0), FLIPS) for _ in range(400)]
    # binomial(400, .05): 9 to 33 with 99.9 %; the sign's steps let it stay below 5 %
    assert 9 <= sum(f["p_rho"] <= 0.05 for f in found) <= 33
    assert sum(f["p_agree"] <= 0.05 for f in found) <= 33
    naive = [stats.binomtest(f["agree"], f["signed"]).pvalue for f in found]
    assert sum(p <= 0.05 for p in naive) > 45


def test_drift_that_follows_the_preference_is_found() -> None:
    rng = np.random.default_rng(2)
    found = [association(simulated(rng, 1.5), FLIPS) for _ in range(60)]
    assert sum(f["p_rho"] <= 0.05 for f in found) >= 50
    assert all(f["rho"] > 0 for f in found)
    against = association(simulated(rng, -3.0), FLIPS)
    assert against["rho"] < 0
    assert against["p_rho"] <= 0.05, "two-sided"


@pytest.mark.parametrize(("follow", "least", "most"), [(0.0, 4, 32), (0.5, 200, 300)])
def test_within_an_attribute_templates_are_the_unit(follow: float, least: int, most: int) -> None:
    rng, alarms = np.random.default_rng(3), 0
    contrasts = [OLD._replace(group_a=f"g{i}") for i in range(5)]
    for _ in range(300):
        rows = []
        for template in range(10):
            base = rng.normal(size=2)  # groups of one template share its pair of terms
            for contrast in contrasts:
                x, own = base + 0.5 * rng.normal(size=2)
                rows.append((contrast, f"t{template}", x, follow * x + 0.5 * own))
        (found,) = attribute_rows(items(rows), FLIPS)
        alarms += found["p"] <= 0.05
    assert least <= alarms <= most
