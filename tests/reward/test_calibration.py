"""Calibration of preferences by hand, and on outcomes drawn from known probabilities."""

import math

import numpy as np
import pytest
from scipy import stats as distributions
from sklearn.metrics import brier_score_loss, log_loss
from statsmodels.stats.proportion import proportion_confint

from evals.stats import Resampling
from reward import calibration


def logit(p: float) -> float:
    return math.log(p / (1 - p))


# .52 right, .58 wrong, .93 right, .98 right, .97 wrong, and a tie
MARGINS = np.array([logit(0.52), -logit(0.58), logit(0.93), logit(0.98), -logit(0.97), 0.0])


def test_error_by_hand() -> None:
    # bins of width .05 from .5: .52 and the tie, .58, .93, .98 and .97
    first = abs((1 + 0.5) - (0.52 + 0.5))
    last = abs((1 + 0) - (0.98 + 0.97))
    expected = (first + 0.58 + (1 - 0.93) + last) / 6
    sums = calibration.ece_rows(MARGINS).sum(axis=0)
    assert float(calibration.ece(sums)) == pytest.approx(expected)
    assert calibration.bins_of(MARGINS).tolist() == [0, 1, 8, 9, 9, 0]
    assert calibration.hits(MARGINS).tolist() == [1, 0, 1, 1, 0, 0.5]


def test_ends_of_the_bins() -> None:
    # (.5, .55] is the first bin; what is certain is in the last
    margins = np.array([logit(0.55) - 1e-9, logit(0.55) + 1e-9, 800.0, -800.0])
    assert calibration.bins_of(margins).tolist() == [0, 1, 9, 9]


def test_losses_are_scikit_learns() -> None:
    p = 1 / (1 + np.exp(-MARGINS))
    right = np.ones(len(p))
    assert calibration.brier(MARGINS).mean() == pytest.approx(brier_score_loss(right, p))
    assert calibration.log_loss(MARGINS).mean() == pytest.approx(log_loss(right, p, labels=[0, 1]))
    assert calibration.log_loss(np.array([-800.0]))[0] == pytest.approx(800.0)
    assert calibration.brier(np.array([0.0]))[0] == 0.25


def test_the_diagram_by_hand() -> None:
    table = calibration.reliability(MARGINS)
    assert [row["n"] for row in table] == [2, 1, 1, 2]
    assert [row["value"] for row in table] == [0.75, 0.0, 1.0, 0.5]
    assert table[3]["probability"] == pytest.approx(0.975)
    low, high = proportion_confint(1, 2, method="wilson")
    assert (table[3]["low"], table[3]["high"]) == pytest.approx((low, high))


def test_the_expected_error_is_that_of_exact_counting() -> None:
    # Three pairs of one bin at p: k of 3 hits have error |k - 3 p|/3, with binomial chances.
    p = 0.7
    margins = np.array([logit(p), logit(p), -logit(p)])
    chances = distributions.binom.pmf(range(4), 3, p)
    errors = [abs(k - 3 * p) / 3 for k in range(4)]
    found = calibration.expected(margins, Resampling(resamples=20_000, seed=1))
    assert found.ece == pytest.approx(float(np.dot(chances, errors)), abs=0.003)
    extreme = sum(c for c, e in zip(chances, errors, strict=True) if e >= errors[2] - 1e-9)
    assert found.p == pytest.approx(extreme, abs=0.01)
    assert calibration.expected(margins, Resampling(50, seed=1)) != found


def test_a_calibrated_model_passes_and_a_sure_one_does_not() -> None:
    rng = np.random.default_rng(0)
    sure = rng.normal(scale=1.5, size=2000)
    right = rng.random(2000) < 1 / (1 + np.exp(-np.abs(sure)))
    margins = np.where(right, np.abs(sure), -np.abs(sure))
    few = Resampling(resamples=300)
    assert calibration.expected(margins, few).p > 0.05
    assert calibration.expected(3 * margins, few).p == pytest.approx(1 / 301)
