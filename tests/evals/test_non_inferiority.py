"""Non-inferiority: against scipy and statsmodels, as the other side of the interval, its level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from evals.metrics import confusion_rows, macro_f1, value_rows
from evals.non_inferiority import (
    non_inferior_functions,
    non_inferior_means,
    non_inferior_proportions,
)
from evals.significance import Pair, compare_functions, compare_means, compare_proportions
from evals.stats import Array, Resampling


def answers(seed: int, n: int = 60) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    return (generator.random(n) < 0.7) * 1.0, (generator.random(n) < 0.7) * 1.0


def test_means_equal_scipys_shifted_paired_test() -> None:
    generator = np.random.default_rng(0)
    before = generator.normal(size=40)
    after = before - 0.1 + generator.normal(size=40)
    expected = scipy_stats.ttest_rel(after, before - 0.5, alternative="greater").pvalue
    found = non_inferior_means(before, after, None, 0.5)
    assert found.p == pytest.approx(expected, rel=1e-9)
    assert found.difference == pytest.approx(np.mean(after - before))
    # The jackknife's standard error of a mean is its standard error.
    pair = Pair(value_rows(before), value_rows(after))
    by_function = non_inferior_functions(pair, lambda sums: sums[..., 0] / sums[..., 1], 0.5)
    assert by_function.p == pytest.approx(expected, rel=1e-9)


def test_clusters_are_the_units() -> None:
    import statsmodels.api as sm

    generator = np.random.default_rng(1)
    labels = generator.integers(0, 8, size=60)
    before = generator.normal(size=60)
    after = before + generator.normal(size=60) + 0.3 * labels - 1
    options = {"groups": labels, "use_correction": False}
    fit = sm.OLS(after - before, np.ones(60)).fit(cov_type="cluster", cov_kwds=options)
    error = fit.bse[0] * math.sqrt(8 / 7)
    expected = scipy_stats.t.sf((fit.params[0] + 0.4) / error, 7)
    found = non_inferior_means(before, after, [str(label) for label in labels], 0.4)
    assert found.p == pytest.approx(expected, rel=1e-9)


def test_proportions_by_hand() -> None:
    # 10 items, gained 1, lost 2, margin .4: b = (20 - 1 + 2) (-.4) - 3 = -11.4, and
    # 20 q^2 - 11.4 q + 2 * .4 * 1.4 = 0 has q = (11.4 + sqrt(129.96 - 89.6)) / 40 = .443824.
    # z = (-1 + 4) / sqrt(10 (2 * .443824 - .4 * 1.4)) = 3 / 1.810106 = 1.657362.
    before = np.array([1.0, 1, 0, 1, 1, 1, 0, 0, 1, 0])
    after = np.array([0.0, 0, 1, 1, 1, 1, 0, 0, 1, 0])
    found = non_inferior_proportions(before, after, 0.4)
    assert found.p == pytest.approx(scipy_stats.norm.sf(1.657362), abs=1e-6)
    assert not found.holds
    assert found.difference == pytest.approx(-0.1)


@pytest.mark.parametrize("seed", range(6))
def test_the_test_holds_where_the_interval_clears_the_margin(seed: int) -> None:
    before, after = answers(seed)
    interval = compare_proportions(before, after)
    means = compare_means(before, after, None, Resampling(100))
    labels = (np.arange(60) % 2).tolist()
    pair = Pair(*(confusion_rows(labels, x.astype(int).tolist(), 2) for x in (before, after)))
    f1 = compare_functions(pair, macro_f1, Resampling(100))
    for margin in (0.05, 0.1, 0.15, 0.2, 0.3):
        found = non_inferior_proportions(before, after, margin)
        assert (found.bound, found.holds) == (interval.low, interval.low >= -margin)
        found = non_inferior_means(before, after, None, margin)
        assert (found.bound, found.holds) == (pytest.approx(means.low), means.low >= -margin)
        found = non_inferior_functions(pair, macro_f1, margin)
        assert (found.bound, found.holds) == (pytest.approx(f1.low), f1.low >= -margin)
        assert found.holds == (found.p <= 0.025)


def test_a_loss_of_the_margin_passes_at_the_level() -> None:
    generator, passed = np.random.default_rng(2), 0
    for _ in range(1000):
        outcome = generator.choice(3, size=200, p=[0.05, 0.15, 0.8])  # gain, loss, same
        before, after = (outcome == 1) * 1.0, (outcome == 0) * 1.0
        passed += non_inferior_proportions(before, after, 0.1).holds
    # Binomial(1000, .025): mean 25, sd 4.9.
    assert 10 <= passed <= 42


def test_without_an_interval_nothing_is_shown() -> None:
    one = non_inferior_means(np.ones(3), np.ones(3), ["a", "a", "a"], 0.5)
    assert not one.holds
    assert math.isnan(one.p)
    same = non_inferior_means(np.ones(3), np.ones(3), None, 0.5)
    assert (same.holds, same.p, same.bound) == (True, 0.0, 0.0)
    worse = non_inferior_means(np.ones(3), np.zeros(3), None, 0.5)
    assert (worse.holds, worse.p) == (False, 1.0)


@pytest.mark.parametrize("margin", [0.0, -0.1, math.nan])
def test_a_margin_must_be_positive(margin: float) -> None:
    with pytest.raises(ValueError, match="largest acceptable loss"):
        non_inferior_proportions(np.ones(3), np.ones(3), margin)


def test_a_margin_of_proportions_is_below_one() -> None:
    with pytest.raises(ValueError, match="fall by more than 1"):
        non_inferior_proportions(np.ones(3), np.ones(3), 1.0)
