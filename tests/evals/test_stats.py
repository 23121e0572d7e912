"""Intervals against definitions, statsmodels, sacrebleu's own bootstrap, and by coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from evals.jackknife import effective_units, jackknife_error, positive_estimate
from evals.stats import (
    Resampling,
    bca_interval,
    bootstrap,
    check_rows,
    cluster_sums,
    mean_error,
    mean_estimate,
    proportion_estimate,
    resample_sums,
    wilson,
)

MANY = np.tile([1.0, 3], 50_000)
"""Jackknife values of so many units that nothing is expanded; not skewed."""


def share(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def pairs(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], axis=1)


@pytest.mark.parametrize(("hits", "n"), [(0, 9), (9, 9), (1, 10), (37, 250)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_equals_statsmodels(hits: int, n: int, confidence: float) -> None:
    expected = proportion_confint(hits, n, alpha=1 - confidence, method="wilson")
    assert wilson(hits, n, confidence) == pytest.approx(expected, abs=1e-12)


def test_wilson_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_cluster_sums_by_hand() -> None:
    rows = np.array([[1.0, 1], [2, 1], [4, 1]])
    # b holds rows 0 and 2: 1 + 4 = 5 of 2 items; a holds row 1.
    assert cluster_sums(rows, ["b", "a", "b"]).tolist() == [[2, 1], [5, 2]]


def test_resamples_draw_n_units_each_and_pair_columns() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 1))
    stacked = np.concatenate([rows, rows * 3, np.ones((40, 1))], axis=1)
    sums = resample_sums(stacked, Resampling(resamples=50))
    assert sums.shape == (50, 3)
    np.testing.assert_allclose(sums[:, 2], 40)
    np.testing.assert_allclose(sums[:, 1], 3 * sums[:, 0])
    assert len(np.unique(sums[:, 0])) == 50


def test_resamples_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 2))
    whole = resample_sums(rows, Resampling(resamples=20, seed=3))
    monkeypatch.setattr("evals.stats._BLOCK", 30 * 7)
    np.testing.assert_allclose(resample_sums(rows, Resampling(resamples=20, seed=3)), whole)


def test_bootstrap_spread_equals_the_analytic_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=200)
    sums = resample_sums(pairs(values), Resampling(resamples=20_000))
    # SE of a mean under resampling: sd (divisor n) / sqrt n. 20,000 draws know it to 0.5 %.
    expected = values.std() / math.sqrt(200)
    assert np.std(share(sums)) == pytest.approx(expected, rel=0.02)


def test_bca_equals_scipy() -> None:
    values = np.random.default_rng(2).exponential(size=60)
    ours = bootstrap(pairs(values), share, None, Resampling(resamples=20_000))
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    # Two sets of draws: the ends' Monte Carlo error is about 1 % of the width.
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)
    assert ours.value == pytest.approx(values.mean())
    # A skewed sample: the interval must reach further to the right than to the left.
    assert ours.high - ours.value > ours.value - ours.low


def test_bca_corrects_bias_by_hand() -> None:
    # Replicates 0..999 and the value 300, no skewness: z0 = ppf(0.3005) = -0.522965. For 4 units
    # the quantile is sqrt(4/3) t(3) = 1.154701 * 3.182446 = 3.674772, at 0.95. The ends are the
    # quantiles cdf(2 z0 -+ 3.674772) = cdf(-4.720702) = 1.2e-6 and cdf(2.628842) = 0.995716.
    replicates = np.arange(1000.0)
    ends = bca_interval(300.0, replicates, np.array([1.0, 3, 2, 2]), 0.95)
    assert ends.low == pytest.approx(1.2e-6 * 999, abs=0.01)
    assert ends.high == pytest.approx(0.995716 * 999, abs=0.01)


def test_bca_is_efrons_for_many_units() -> None:
    # As above with 100,000 units: t is z up to 3e-5, cdf(2 z0 -+ 1.959964) = cdf(-3.0060) =
    # 0.0013236 and cdf(0.9140) = 0.81964.
    ends = bca_interval(300.0, np.arange(1000.0), MANY, 0.95)
    assert ends.low == pytest.approx(0.0013236 * 999, abs=0.01)
    assert ends.high == pytest.approx(0.81964 * 999, abs=0.05)


def test_bca_counts_ties_half() -> None:
    # 40 below, 20 equal, 40 above: no bias, so the ends are the plain percentiles.
    replicates = np.concatenate([np.linspace(0, 1, 40), np.full(20, 2.0), np.linspace(3, 4, 40)])
    ends = bca_interval(2.0, replicates, MANY, 0.9)
    expected = np.quantile(replicates, [0.05, 0.95])
    assert (ends.low, ends.high) == pytest.approx(tuple(expected), abs=1e-4)


def test_bca_without_defined_jackknife_or_overlap_falls_back_to_percentiles() -> None:
    # Every replicate lies above the value: no finite bias correction.
    above = bca_interval(0.0, np.arange(1.0, 102), MANY, 0.9)
    assert (above.low, above.high) == pytest.approx((6, 96), abs=0.01)
    # No leave-one-out value is defined: no acceleration, so median and value agree as here.
    undefined = bca_interval(50.0, np.arange(101.0), np.full(100_000, np.nan), 0.9)
    assert (undefined.low, undefined.high) == pytest.approx((5, 95), abs=0.01)


def test_labels_must_match_the_rows() -> None:
    with pytest.raises(ValueError, match="1 cluster labels for 2 rows"):
        cluster_sums(np.ones((2, 1)), ["a"])


def test_clustered_bootstrap_is_wider_when_items_repeat() -> None:
    values = np.random.default_rng(3).normal(size=50)
    repeated, labels = np.repeat(values, 4), [str(i) for i in range(50) for _ in range(4)]
    draws = Resampling(resamples=5000)
    single = bootstrap(pairs(values), share, None, draws)
    clustered = bootstrap(pairs(repeated), share, labels, draws)
    naive = bootstrap(pairs(repeated), share, None, draws)
    # Four copies carry no information: the clustered interval is the single one, up to the order
    # in which the clusters' names sort; treating the copies as items halves the width.
    width = single.high - single.low
    assert clustered.high - clustered.low == pytest.approx(width, rel=0.06)
    assert naive.high - naive.low == pytest.approx(width / 2, rel=0.06)
    assert clustered.n == 200


def test_bootstrap_needs_two_units_and_a_defined_value() -> None:
    one = bootstrap(np.array([[3.0, 4.0]]), share, None, Resampling(100))
    assert one.value == 0.75
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    # Half of the replicates of [1 of 1, 0 of 0]... a rate per rare event: undefined in
    # (1/2)^2 = 25 % of the draws, more than the 5 % that may be left out.
    rare = bootstrap(
        np.array([[1.0, 1.0], [0.0, 0.0]]),
        lambda sums: np.divide(
            sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0
        ),
        None,
        Resampling(500),
    )
    assert rare.value == 1.0
    assert math.isnan(rare.low)


def test_all_equal_items_have_a_bootstrap_interval_of_no_width() -> None:
    same = bootstrap(np.tile([0.1, 1.0], (20, 1)), share, None, Resampling(200))
    assert same.low == pytest.approx(0.1, abs=1e-12)
    assert same.high == pytest.approx(0.1, abs=1e-12)


@pytest.mark.parametrize("bad", [np.empty((0, 2)), np.array([[np.nan, 1.0]])])
def test_rows_that_are_missing_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"at least one row|missing"):
        check_rows(bad)


def test_clustered_error_equals_statsmodels() -> None:
    import statsmodels.api as sm

    generator = np.random.default_rng(4)
    labels = generator.integers(0, 12, size=100)
    values = generator.normal(size=100) + labels * 0.2
    fit = sm.OLS(values, np.ones(100)).fit(
        cov_type="cluster", cov_kwds={"groups": labels, "use_correction": False}
    )
    mean, error, units = mean_error(values, [str(label) for label in labels])
    assert (mean, units) == (pytest.approx(values.mean()), 12)
    # statsmodels without its correction is Miller's formula; ours has C/(C-1) in the variance.
    assert error == pytest.approx(fit.bse[0] * math.sqrt(12 / 11), rel=1e-9)


def test_mean_interval_without_clusters_is_students() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    estimate = mean_estimate(values)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    assert estimate.n == 4


def test_a_single_cluster_has_a_mean_but_no_interval() -> None:
    estimate = mean_estimate(np.array([1.0, 3.0]), ["a", "a"])
    assert estimate.value == 2.0
    assert math.isnan(estimate.low)


def test_jackknife_error_of_a_mean_is_its_standard_error() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    left_out = (values.sum() - values) / 3
    assert jackknife_error(left_out) == pytest.approx(scipy_stats.sem(values))
    assert math.isnan(jackknife_error(np.array([1.0, np.nan, 2.0])))
    assert math.isnan(jackknife_error(np.array([1.0])))


def test_positive_estimate_of_a_geometric_mean_is_students_of_the_logarithms() -> None:
    logs = np.random.default_rng(6).normal(3, 1, size=12)
    estimate = positive_estimate(pairs(logs), lambda sums: np.exp(share(sums)), None)
    expected = np.exp(scipy_stats.ttest_1samp(logs, 0).confidence_interval(0.95))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected))
    assert estimate.value == pytest.approx(scipy_stats.gmean(np.exp(logs)))


def test_few_long_documents_leave_few_degrees_of_freedom() -> None:
    # (4 + 4 x 1)^2 / (16 + 4 x 1) = 3.2 units that weigh alike: t(2) = 4.302653 instead of t(4).
    rows = np.array([[8.0, 4], [3, 1], [1, 1], [2, 1], [3, 1]])
    found = positive_estimate(rows, lambda sums: np.exp(share(sums)), None)
    left_out = (17 - rows[:, 0]) / (8 - rows[:, 1])
    half = 4.302653 * np.sqrt(4 / 5 * np.sum((left_out - left_out.mean()) ** 2))
    assert found.units == 3
    assert np.log([found.low, found.high]) == pytest.approx([17 / 8 - half, 17 / 8 + half])


@pytest.mark.parametrize(("lengths", "units"), [([5.0] * 7, 7), ([99.0, 1.0], 2), ([3.0, 1, 1], 2)])
def test_effective_units(lengths: list[float], units: int) -> None:
    # 25/11 = 2.3 of the last ones; two are the least that an interval needs.
    assert effective_units(np.array(lengths)) == units


def test_positive_estimate_without_an_interval() -> None:
    def infinite(sums: np.ndarray) -> np.ndarray:
        return np.full(sums.shape[:-1], np.inf)

    one = positive_estimate(np.array([[2.0, 1.0]]), share, None)
    overflown = positive_estimate(np.ones((3, 2)), infinite, None)
    assert (one.value, overflown.value) == (2.0, math.inf)
    assert math.isnan(one.low)
    assert math.isnan(overflown.high)


def test_clustered_proportion_stays_inside_and_keeps_a_width() -> None:
    high = proportion_estimate(np.array([1.0, 1, 1, 0]), ["a", "a", "b", "b"])
    # Cluster shares 1 and 1/2: SE = sqrt(2 (0.5^2 + 0.5^2)) / 4 = 0.25. t(1) = 12.7062 and t(3) =
    # 3.18245, so 3/16 / (0.25 12.7062 / 3.18245)^2 = 0.188196 items, 3/4 of them hits.
    expected = proportion_confint(0.75 * 0.188196, 0.188196, method="beta")
    assert high.value == 0.75
    assert (high.low, high.high) == pytest.approx(expected, abs=2e-6)
    assert 0 < high.low < 0.01
    sure = proportion_estimate(np.ones(40), ["a", "b"] * 20)
    # Two of two: low^2 = 0.025.
    assert sure.low == pytest.approx(0.025**0.5)
    assert sure.high == 1.0
    none = proportion_estimate(np.zeros(40), ["a", "b"] * 20)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025**0.5))


def test_clusters_that_vary_less_than_chance_are_not_worth_more_than_their_items() -> None:
    # Ten clusters of four: two hits each, and one of three. By the errors alone 250 items.
    hits = np.array([1.0, 1, 0, 0] * 9 + [1, 1, 1, 0])
    found = proportion_estimate(hits, [str(number // 4) for number in range(40)])
    expected = proportion_confint(21, 40, method="beta")
    assert found.value == 21 / 40
    assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize("method", ["wilson", "t", "bootstrap"])
def test_intervals_cover_the_truth_at_their_rate(method: str) -> None:
    generator, covered, repeats = np.random.default_rng(5), 0, 400
    for _ in range(repeats):
        if method == "wilson":
            truth, estimate = 0.2, proportion_estimate((generator.random(60) < 0.2) * 1.0)
        elif method == "t":
            shared = np.repeat(generator.normal(size=12), 5)
            values = shared + generator.normal(size=60)
            truth, estimate = 0.0, mean_estimate(values, [str(i // 5) for i in range(60)])
        else:
            rows = pairs(generator.exponential(size=80))
            truth, estimate = 1.0, bootstrap(rows, share, None, Resampling(500))
        covered += estimate.low <= truth <= estimate.high
    # Binomial(400, 0.95): mean 380, sd 4.4; +-3.5 sd. A 31-fold too small SE covers about 5 %.
    # BCa on 80 skewed items is known to cover 93 %, hence the lower allowance.
    assert 360 <= covered <= 396
