"""Paired tests against statsmodels, scipy and sacrebleu, enumeration, and known power."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from evals.significance import (
    Pair,
    bonett_price,
    change_error,
    compare_functions,
    compare_means,
    compare_proportions,
    mcnemar,
    paired_bootstrap,
    permutation,
    sign_flip,
)
from evals.stats import Resampling


def mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


DRAWS = Resampling(200)


def _rate(sums: np.ndarray) -> np.ndarray:
    """A mean that is undefined over nothing."""
    with np.errstate(invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


def rows_of(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], axis=1)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (3, 12), (7, 7), (40, 21)])
def test_mcnemar_equals_statsmodels(gained: int, lost: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar as theirs

    if gained + lost == 0:
        assert mcnemar(0, 0) == 1.0
        return
    expected = theirs([[9, gained], [lost, 9]], exact=True).pvalue
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=1e-12)


def test_bonett_price_by_hand() -> None:
    # n = 8, gained 3, lost 1: p = 4/10, q = 2/10, SE = sqrt((0.6 - 0.04) / 10) = 0.2366432.
    low, high, error = bonett_price(3, 1, 8)
    assert error == pytest.approx(0.2366432, abs=1e-7)
    assert (low, high) == pytest.approx((0.2 - 1.959964 * error, 0.2 + 1.959964 * error))


def test_bonett_price_reproduces_a_published_example() -> None:
    # Cavo 2012, in Fagerland, Lydersen and Laake 2017, chapter 8: 6 and 16 of 161 changed.
    low, high, _ = bonett_price(6, 16, 161)
    assert (low, high) == pytest.approx((-0.1195, -0.0032), abs=5e-5)


def test_bonett_price_covers_by_enumeration_of_all_outcomes() -> None:
    n, gain, loss = 30, 0.15, 0.05
    covered = 0.0
    for gained, lost in itertools.product(range(n + 1), repeat=2):
        if gained + lost > n:
            continue
        counts = [gained, lost, n - gained - lost]
        chance = scipy_stats.multinomial.pmf(counts, n, [gain, loss, 1 - gain - loss])
        interval = bonett_price(gained, lost, n)
        covered += chance * (interval.low <= gain - loss <= interval.high)
    # The exact coverage; the paper reports 0.94 to 0.98 for such tables.
    assert 0.93 <= covered <= 0.985


def test_proportions_are_compared_item_by_item() -> None:
    before = np.array([1.0, 1, 0, 0, 0, 0, 1, 0])
    after = np.array([1.0, 0, 1, 1, 1, 0, 1, 0])
    result = compare_proportions(before, after)
    assert result.difference == pytest.approx(5 / 8 - 3 / 8)
    # Three gained, one lost: p = 2 * (C(4,0) + C(4,1)) / 16 = 0.625.
    assert result.p == pytest.approx(0.625)
    assert result.low < 0 < result.difference < result.high


def test_no_change_at_all_still_has_a_width() -> None:
    result = compare_proportions(np.ones(30), np.ones(30))
    assert (result.difference, result.p) == (0.0, 1.0)
    assert result.high > 0.05
    assert result.mde > 0.05


def test_sign_flip_is_exact_for_few_items() -> None:
    # |sum| of +-1 +-2 +-4 is 7 for two of the eight sign patterns; observed |1+2+4| = 7.
    assert sign_flip(np.array([1.0, 2, 4]), None, Resampling()) == pytest.approx(2 / 8)
    # One cluster of the first two: patterns +-3 +-4; 7 again for two of four.
    clusters = ["a", "a", "b"]
    assert sign_flip(np.array([1.0, 2, 4]), clusters, Resampling()) == pytest.approx(2 / 4)


def test_sign_flip_equals_scipys_permutation_test() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, size=40)
    theirs = scipy_stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).pvalue
    ours = sign_flip(values, None, Resampling(resamples=20_000))
    # Both know p to about sqrt(p (1 - p) / 20000) = 0.002.
    assert ours == pytest.approx(theirs, abs=0.008)
    assert 0.001 < ours < 0.3


def test_permutation_of_identical_models_is_one() -> None:
    rows = rows_of(np.random.default_rng(0).normal(size=30))
    assert permutation(rows, rows, mean, Resampling(200)) == 1.0


def test_undefined_and_single_units_have_no_interval() -> None:
    nothing = np.zeros((3, 2))
    assert math.isnan(permutation(nothing, nothing, _rate, Resampling(200)))
    one = compare_functions(
        Pair(rows_of(np.ones(2)), rows_of(np.zeros(2)), ["a", "a"]), mean, DRAWS
    )
    assert one.difference == -1.0
    assert math.isnan(one.low)
    # One unit can be swapped or not, and both give a difference of one.
    assert one.p == 1.0


def test_means_are_compared_as_students_paired_interval() -> None:
    generator = np.random.default_rng(1)
    before = generator.normal(size=25)
    after = before + 0.4 + generator.normal(size=25)
    result = compare_means(before, after, None, Resampling())
    expected = scipy_stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.difference == pytest.approx(np.mean(after) - np.mean(before))


def test_functions_are_paired_not_independent() -> None:
    generator = np.random.default_rng(2)
    before = generator.normal(10, 5, size=200)
    after = before + 0.2 + generator.normal(0, 0.5, size=200)
    pair = Pair(rows_of(before), rows_of(after))
    result = compare_functions(pair, mean, Resampling(4000))
    # Only the changes matter: SE = sd of the changes / sqrt n, ten times below the unpaired one.
    expected = scipy_stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert result.p == pytest.approx(1 / 4001)
    error = np.std(after - before, ddof=1) / math.sqrt(200)
    assert result.mde == pytest.approx((1.959964 + 0.841621) * error, rel=1e-6)
    resampled = paired_bootstrap(pair, mean, Resampling(4000))
    assert resampled.high - resampled.low == pytest.approx(2 * 1.972 * error, rel=0.05)
    assert resampled.n == 200


def test_error_of_a_clustered_function_equals_the_linearised_one() -> None:
    import statsmodels.api as sm

    # A difference of ratios of sums over 400 clusters: the jackknife agrees with the delta method,
    # whose influence of a cluster is (y - ratio x) / total x.
    generator = np.random.default_rng(7)
    sizes = generator.integers(1, 6, size=400)
    labels = np.repeat(np.arange(400), sizes)
    shared = generator.normal(size=400)[labels]
    before, after = (shared + generator.normal(size=len(labels)) for _ in range(2))
    pair = Pair(rows_of(before), rows_of(after), [str(label) for label in labels])
    fit = sm.OLS(after - before, np.ones(len(labels))).fit(
        cov_type="cluster", cov_kwds={"groups": labels, "use_correction": False}
    )
    found = change_error(pair, mean)
    assert (found.mean, found.units) == (pytest.approx(fit.params[0]), 400)
    assert found.error == pytest.approx(fit.bse[0], rel=0.01)


def test_pairs_whose_order_is_lost_are_found_wider() -> None:
    generator = np.random.default_rng(3)
    before = generator.normal(10, 5, size=200)
    pair = Pair(rows_of(before), rows_of(generator.permutation(before)))
    result = compare_functions(pair, mean, Resampling(1000))
    assert result.difference == pytest.approx(0, abs=1e-12)
    assert result.high - result.low > 1.5


def test_bootstrap_of_bleu_equals_sacrebleus_paired_bootstrap() -> None:
    from sacrebleu.metrics import BLEU
    from sacrebleu.significance import PairedTest

    from evals.metrics import bleu_metric, bleu_rows

    generator = np.random.default_rng(4)
    words = np.array(["the", "a", "cat", "dog", "sat", "ran", "on", "by", "mat", "hat"])
    references = [" ".join(generator.choice(words, 9)) for _ in range(80)]

    def corrupt(rate: float) -> list[str]:
        mask = [generator.random(9) < rate for _ in references]
        pieces = [np.array(line.split()) for line in references]
        return [
            " ".join(np.where(m, generator.choice(words, 9), p))
            for m, p in zip(mask, pieces, strict=True)
        ]

    weak, strong = corrupt(0.5), corrupt(0.3)
    systems = [("weak", weak), ("strong", strong)]
    _, scores = PairedTest(systems, {"BLEU": BLEU()}, [references], "bs", n_samples=2000)()
    theirs = scores["BLEU"][1]
    pair = Pair(bleu_rows(weak, references), bleu_rows(strong, references))
    from evals.stats import bootstrap

    metric = bleu_metric()
    ours = bootstrap(pair.after, metric.combine, None, Resampling(2000))
    compared = compare_functions(pair, metric.combine, Resampling(2000))
    paired = paired_bootstrap(pair, metric.combine, Resampling(2000))
    assert ours.value == pytest.approx(theirs.score, abs=1e-9)
    # sacrebleu reports half the percentile interval; ours is BCa, moved by the bias correction.
    assert (ours.high - ours.low) / 2 == pytest.approx(theirs.ci, rel=0.08)
    assert compared.difference == pytest.approx(theirs.score - scores["BLEU"][0].score, abs=1e-9)
    assert paired.value == compared.difference
    # Two standard errors of the same difference: by resampling and by leaving one out.
    assert paired.high - paired.low == pytest.approx(compared.high - compared.low, rel=0.1)
    # Both find the difference at the smallest p that 2000 draws allow.
    assert theirs.p_value == pytest.approx(1 / 2001)
    assert compared.p == pytest.approx(1 / 2001)


def test_permutation_of_bleu_equals_sacrebleus_randomization() -> None:
    from sacrebleu.metrics import BLEU
    from sacrebleu.significance import PairedTest

    from evals.metrics import bleu_metric, bleu_rows

    generator = np.random.default_rng(5)
    words = np.array(["one", "two", "three", "four", "five", "six"])
    references = [" ".join(generator.choice(words, 8)) for _ in range(40)]
    first, second = (
        [" ".join(generator.permutation(line.split())) for line in references] for _ in range(2)
    )
    _, scores = PairedTest(
        [("first", first), ("second", second)], {"BLEU": BLEU()}, [references], "ar", 4000
    )()
    ours = permutation(
        bleu_rows(first, references),
        bleu_rows(second, references),
        bleu_metric().combine,
        Resampling(4000),
    )
    # Monte Carlo error of each: sqrt(0.25 / 4000) = 0.008.
    assert ours == pytest.approx(scores["BLEU"][1].p_value, abs=0.035)


def test_false_alarms_come_at_the_nominal_rate() -> None:
    generator, alarms = np.random.default_rng(6), 0
    for _ in range(400):
        changes = generator.exponential(size=20) * generator.choice([-1, 1], size=20)
        alarms += sign_flip(changes, None, Resampling(199)) <= 0.05
    # Binomial(400, 0.05): mean 20, sd 4.4.
    assert 7 <= alarms <= 35
