"""Detectable effects and needed items against statsmodels, and by the power they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from evals.power import detectable, items_needed, pairs_needed
from evals.significance import mcnemar


def test_detectable_effect_has_the_promised_power() -> None:
    effect = detectable(1.0)
    # With a standard error of 1 the two-sided 5 % test rejects with probability 0.8.
    assert scipy_stats.norm.sf(1.959964 - effect) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("effect", "power"), [(0.1, 0.8), (-0.03, 0.9)])
def test_items_needed_equals_statsmodels(effect: float, power: float) -> None:
    from statsmodels.stats.power import NormalIndPower

    # One sample (ratio 0) with standard deviation 0.6, known from 50 items.
    expected = NormalIndPower().solve_power(abs(effect) / 0.6, alpha=0.05, power=power, ratio=0)
    needed = items_needed(effect, 0.6 / 50**0.5, 50, power=power)
    assert needed == np.ceil(expected)


def test_items_needed_and_detectable_effect_are_inverse() -> None:
    # What 200 items can just detect needs 200 items, up to rounding.
    assert items_needed(detectable(0.02), 0.02, 200) in (200, 201)


def test_pairs_needed_by_hand() -> None:
    # c = .3, d = .1: (1.959964 sqrt(.3) + .841621 sqrt(.29))^2 / .01
    # = (1.073516 + .453225)^2 / .01 = 233.1.
    assert pairs_needed(0.1, 0.3) == 234


def test_needed_items_are_rounded_up() -> None:
    # 100 (2.801585 * .01 / .0277)^2 = 102.3 items are 103.
    assert items_needed(0.0277, 0.01, 100) == 103


def test_pairs_needed_where_every_change_is_a_loss() -> None:
    # c = |d| = .5: (1.959964 sqrt(.5) + .841621 sqrt(.25))^2 / .25 = (1.385904 + .420811)^2 / .25
    # = 13.06.
    assert pairs_needed(-0.5, 0.5) == pairs_needed(0.5, 0.5) == 14


def test_pairs_needed_promise_the_power_of_the_test() -> None:
    effect, changed = 0.1, 0.2
    n = pairs_needed(effect, changed)
    generator = np.random.default_rng(0)
    chances = [(changed + effect) / 2, (changed - effect) / 2, 1 - changed]
    tables = generator.multinomial(n, chances, size=2000)
    exact = np.mean([mcnemar(int(gained), int(lost)) <= 0.05 for gained, lost, _ in tables])
    gained, lost = tables[:, 0], tables[:, 1]
    score = np.mean(np.abs(gained - lost) > 1.959964 * np.sqrt(gained + lost))
    # Standard error .009. The formula is for the score test; the exact one is a little weaker.
    assert score == pytest.approx(0.8, abs=0.03)
    assert 0.72 < exact < score


def test_impossible_effects_are_refused() -> None:
    with pytest.raises(ValueError, match="effect of 0"):
        items_needed(0.0, 0.1, 10)
    with pytest.raises(ValueError, match=r"effect 0\.3 and changed 0\.2"):
        pairs_needed(0.3, 0.2)
