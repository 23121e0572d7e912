"""Calibration by hand, and against scikit-learn's calibration curve."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from evals.calibration import BINS, ECE, brier, ece, ece_rows, probabilities
from evals.stats import Resampling, bootstrap


def test_probabilities_do_not_depend_on_the_scores_level() -> None:
    scores = np.log([0.1, 0.2, 0.3]) - 900
    assert probabilities(scores).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_ece_by_hand() -> None:
    # Probabilities of the chosen ones: .9, .9 (bin 14 of 15: (.867, .933]), .6, .8 apart.
    scores = [np.log([0.9, 0.1]), np.log([0.1, 0.9]), np.log([0.6, 0.4]), np.log([0.2, 0.8])]
    rows = ece_rows(scores, [(0,), (0,), (0,), (1, 0)])
    # Bin of .9: one of two right, |1 - 1.8| = .8; .6 is right: .4; .8 is right: .2. Of 4 items.
    assert ece(rows.sum(axis=0)) == pytest.approx((0.8 + 0.4 + 0.2) / 4)
    assert rows[0, 13] == pytest.approx(0.1)
    assert rows[1, 13] == pytest.approx(-0.9)


def test_a_bin_holds_its_upper_end_and_not_its_lower() -> None:
    # Five equal choices: 1/5 = 3/15, the end of the third bin; a bit more is in the fourth.
    equal, above = ece_rows([np.zeros(5), np.array([1e-6, 0, 0, 0, 0])], [(0,), (0,)])
    assert np.flatnonzero(equal).tolist() == [2, BINS]
    assert np.flatnonzero(above).tolist() == [3, BINS]
    certain = ece_rows([np.array([0.0, -2000.0])], [(1,)])[0]
    assert certain[BINS - 1] == -1
    half = ece_rows([np.array([-3.0, -3.0])], [(1,)])[0]  # 7.5 bins: the eighth; first choice
    assert half[7] == -0.5


def test_ece_and_brier_equal_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    scores = list(generator.normal(size=(400, 2)) * 2)
    gold = [(int(label),) for label in generator.integers(0, 2, 400)]
    sure = np.array([probabilities(own).max() for own in scores])
    hits = np.array([own.argmax() in right for own, right in zip(scores, gold, strict=True)])
    right, mean = calibration_curve(hits, sure, n_bins=15, strategy="uniform")
    counts, _ = np.histogram(sure, bins=np.linspace(0, 1, 16))
    expected = np.sum(counts[counts > 0] * np.abs(right - mean)) / 400
    assert ece(ece_rows(scores, gold).sum(axis=0)) == pytest.approx(expected)
    second = [probabilities(own)[1] for own in scores]
    truth = [right[0] for right in gold]
    # scikit-learn counts one of the two choices.
    ours = np.mean([brier(*item) for item in zip(scores, gold, strict=True)])
    assert ours == pytest.approx(2 * brier_score_loss(truth, second))


def test_the_bootstrap_draws_items() -> None:
    generator = np.random.default_rng(5)
    rows = ece_rows(list(generator.normal(size=(60, 3))), [(0,)] * 60)
    found = bootstrap(rows, ECE.combine, None, Resampling(300))
    drawn = np.stack([rows[generator.integers(0, 60, 60)].sum(axis=0) for _ in range(5)])
    assert found.low < found.value < found.high
    # One call for many resamples, each as by itself.
    assert ECE.combine(drawn).tolist() == pytest.approx([float(ece(one)) for one in drawn])
