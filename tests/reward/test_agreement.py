"""Agreement of two models against scikit-learn's kappa and scipy's correlation."""

import numpy as np
import pytest
from scipy import stats as distributions
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from evals.stats import Resampling
from reward.agreement import agreement, kappa, verdict_rows

RNG = np.random.default_rng(3)
BASE = RNG.normal(0.5, 1, 300)
A = np.round(BASE + RNG.normal(0, 0.6, 300), 1)
B = np.round(BASE + RNG.normal(0, 0.6, 300), 1)
FEW = Resampling(resamples=400)


def test_share_and_kappa_are_scikit_learns() -> None:
    found = agreement(A, B, FEW)
    verdicts = np.sign(A), np.sign(B)
    assert 0 in verdicts[0]
    assert found["kappa"]["value"] == pytest.approx(cohen_kappa_score(*verdicts))
    same = int((verdicts[0] == verdicts[1]).sum())
    assert found["share"]["value"] == pytest.approx(same / 300)
    ends = proportion_confint(same, 300, method="wilson")
    assert (found["share"]["low"], found["share"]["high"]) == pytest.approx(ends)


def test_the_interval_is_near_that_of_theory() -> None:
    # Fleiss, Cohen and Everitt's asymptotic error, as statsmodels has it.
    found = agreement(A, B, Resampling(resamples=2000))["kappa"]
    theory = cohens_kappa(verdict_rows(A, B).sum(axis=0).reshape(3, 3))
    assert found["low"] == pytest.approx(theory.kappa_low, abs=0.03)
    assert found["high"] == pytest.approx(theory.kappa_upp, abs=0.03)


def test_correlation_is_scipys_and_has_no_unit() -> None:
    found = agreement(A, B, FEW)["correlation"]
    assert found["value"] == pytest.approx(distributions.pearsonr(A, B).statistic)
    scaled = agreement(A, 40 * B + 7, FEW)["correlation"]
    assert scaled["value"] == pytest.approx(found["value"])


def test_a_model_agrees_with_itself_and_its_opposite_does_not() -> None:
    assert agreement(A, A, FEW)["kappa"]["value"] == pytest.approx(1.0)
    assert agreement(A, A, FEW)["share"]["value"] == 1.0
    balanced = np.array([1.0, -1.0] * 10)
    assert agreement(balanced, -balanced, FEW)["kappa"]["value"] == pytest.approx(-1.0)


def test_kappa_is_undefined_where_chance_explains_everything() -> None:
    always = np.ones(7)
    assert np.isnan(kappa(verdict_rows(always, always).sum(axis=0)))
    many = np.stack([verdict_rows(A, B).sum(axis=0), verdict_rows(always, always).sum(axis=0)])
    assert np.isnan(kappa(many)).tolist() == [False, True]
