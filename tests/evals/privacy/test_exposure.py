"""Exposure against enumerated ranks, by hand, and against the uniform law of chance."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats as distributions

from evals.privacy.exposure import BY_CHANCE, chance_p, exposure, extrapolated, rank


def test_a_tie_ranks_before_the_canary_and_a_missing_secret_not_at_all() -> None:
    others = np.array([-1.0, -2.0, -2.0, -3.0, np.nan])
    # likelier or equal to -2: -1, -2, -2
    assert rank(-2.0, others) == 4
    assert rank(-0.5, others) == 1
    assert rank(-9.0, others) == 5


def test_exposure_by_hand() -> None:
    # the likeliest of 1024: log2 1024; the last: 0; place 4 of 8: 3 - 2
    assert exposure(1, 1024) == 10
    assert exposure(7, 7) == 0
    assert exposure(4, 8) == 1
    for place in (0, 9):
        with pytest.raises(ValueError, match=f"place {place} of 8"):
            exposure(place, 8)


def test_the_mean_over_all_ranks_is_that_of_chance() -> None:
    # log2 N - log2(N!) / N over the N ranks; by Stirling 1/ln 2 - O(log N / N)
    total = 1000
    every = [exposure(place, total) for place in range(1, total + 1)]
    by_hand = math.log2(total) - math.lgamma(total + 1) / math.log(2) / total
    assert np.mean(every) == pytest.approx(by_hand)
    assert pytest.approx(1.4427, abs=1e-4) == BY_CHANCE
    assert BY_CHANCE - 0.01 < np.mean(every) < BY_CHANCE


def test_p_of_two_canaries_is_the_share_of_all_pairs_of_ranks() -> None:
    # Fisher's p is that of continuous ranks: the share of pairs with r s <= 40, r and s of 1..400,
    # is a little below it.
    observed = exposure(10, 400) + exposure(4, 400)
    pairs = sum(r * s <= 40 for r, s in product(range(1, 41), repeat=2)) / 400**2
    p = chance_p([exposure(10, 400), exposure(4, 400)])
    # P(U V <= c) = c (1 - ln c) with c = 40 / 400^2
    c = 40 / 400**2
    assert p == pytest.approx(c * (1 - math.log(c)))
    assert pairs <= p
    assert observed == pytest.approx(-math.log2(c))


def test_p_of_unseen_canaries_is_uniform() -> None:
    generator = np.random.default_rng(3)
    ranks = generator.integers(1, 1001, size=(2000, 8))
    p = [chance_p([exposure(int(r), 1000) for r in some]) for some in ranks]
    assert 0.035 < np.mean(np.array(p) <= 0.05) < 0.065


def test_the_extrapolation_agrees_with_the_normal_and_with_scipys_skew_normal() -> None:
    generator = np.random.default_rng(1)
    normal = generator.normal(40, 3, size=200_000)
    # three sd below the mean: -log2 0.00135 = 9.53
    assert extrapolated(-31.0, -normal, 99) == pytest.approx(9.53, abs=0.2)
    skewed = distributions.skewnorm.rvs(4, 20, 5, size=200_000, random_state=2)
    chance = distributions.skewnorm.cdf(21.0, 4, 20, 5)
    assert extrapolated(-21.0, -skewed, 99) == pytest.approx(-math.log2(chance), abs=0.15)
    mirrored = 40 - skewed
    chance = 1 - distributions.skewnorm.cdf(28.0, 4, 20, 5)
    assert extrapolated(-12.0, -mirrored, 99) == pytest.approx(-math.log2(chance), abs=0.4)


@pytest.mark.parametrize("shape", [4.0, -2.0])
def test_moments_of_a_skew_normal_give_back_its_own_chances(shape: float) -> None:
    # quantiles in place of a sample: its moments are those of the distribution
    own = distributions.skewnorm(shape, 20, 5)
    surprise = own.ppf((np.arange(20_000) + 0.5) / 20_000)
    for x in (own.ppf(0.01), own.ppf(0.3), own.ppf(0.9)):
        assert extrapolated(-x, -surprise, 99) == pytest.approx(-math.log2(own.cdf(x)), abs=0.02)


def test_the_extrapolation_never_passes_what_a_rank_can_say() -> None:
    others = -np.random.default_rng(0).normal(40, 3, size=500)
    assert extrapolated(-20.0, others, 13.3) == 13.3
    assert extrapolated(1e6, others, 13.3) == 13.3
    assert math.isnan(extrapolated(-1.0, np.array([-2.0, -2.0, -2.0]), 9))
    assert math.isnan(extrapolated(-1.0, np.array([-2.0, np.nan, -3.0]), 9))
