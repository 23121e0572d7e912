"""P-values of limits: equal to other libraries' tests, and never at odds with the interval."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as distributions
from statsmodels.stats.proportion import proportions_ztest

from evals.evidence import Evidence
from evals.jackknife import positive_estimate
from evals.limits import p_not_above, p_not_below
from evals.metrics import macro_f1, perplexity_metrics, ratio
from evals.non_inferiority import non_inferior_means, non_inferior_proportions
from evals.significance import Pair, compare_functions, compare_means, compare_proportions
from evals.stats import (
    Resampling,
    bootstrap,
    mean_estimate,
    proportion_estimate,
)

DRAWS = Resampling(200)
LIMITS = st.integers(-1_100_000, 1_100_000).map(lambda millionths: millionths / 1e6)
CONFIDENCES = st.sampled_from([0.8, 0.9, 0.95, 0.99])


def stored(found: Any) -> Evidence:
    """A number as the gate reads it from the ledger."""
    row = asdict(found)
    value = row.get("value", row.get("difference"))
    return Evidence("x", value, row["low"], row["high"], row["n"], row=row)


def agree(found: Any, limit: float, confidence: float) -> None:
    """The p-values decide as the ends of the interval do."""
    evidence, level = stored(found), (1 - confidence) / 2
    assume(min(abs(evidence.low - limit), abs(evidence.high - limit)) > 1e-9)
    assert (p_not_above(evidence, limit, confidence) <= level) == (evidence.low >= limit)
    assert (p_not_below(evidence, limit, confidence) <= level) == (evidence.high <= limit)


@given(st.integers(0, 60), st.integers(1, 60), st.floats(-0.2, 1.2), CONFIDENCES)
def test_wilson_agrees(hits: int, n: int, limit: float, confidence: float) -> None:
    assume(hits <= n)
    values = np.array([1.0] * hits + [0.0] * (n - hits))
    agree(proportion_estimate(values, None, confidence), limit, confidence)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30), LIMITS, CONFIDENCES)
def test_tango_agrees(gained: int, lost: int, same: int, limit: float, confidence: float) -> None:
    assume(gained + lost + same > 0)
    before = np.array([0.0] * gained + [1.0] * (lost + same))
    after = np.array([1.0] * gained + [0.0] * lost + [1.0] * same)
    agree(compare_proportions(before, after, confidence), limit, confidence)


VALUES = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=3, max_size=20)


@given(VALUES, st.floats(-5, 5), CONFIDENCES)
def test_means_and_their_differences_agree(
    values: list[float], limit: float, confidence: float
) -> None:
    assume(np.std(values) > 1e-3)
    column = np.array(values)
    agree(mean_estimate(column, None, confidence), limit, confidence)
    half = [str(index // 2) for index in range(len(values))]
    found = mean_estimate(column, half, confidence)
    assume(found.high > found.low)
    agree(found, limit, confidence)
    draws = Resampling(100, confidence)
    agree(compare_means(np.zeros(len(values)), column, None, draws), limit, confidence)


@given(st.integers(0, 2**20), st.floats(0.01, 3.0), CONFIDENCES)
def test_bootstraps_perplexities_and_clusters_agree(
    seed: int, limit: float, confidence: float
) -> None:
    generator, draws = np.random.default_rng(seed), Resampling(200, confidence)
    rows = np.stack([generator.exponential(size=12), np.ones(12)], axis=1)
    agree(bootstrap(rows, ratio, None, draws), limit, confidence)
    words = generator.integers(1, 9, size=12).astype(float)
    documents = np.stack([words * generator.uniform(0.1, 1, 12), words, words, 4 * words], axis=1)
    combine = perplexity_metrics()[0].combine
    agree(positive_estimate(documents, combine, None, confidence), limit, confidence)
    hits = generator.integers(0, 2, 12).astype(float)
    clusters = list("aabbccddeeff")
    agree(proportion_estimate(hits, clusters, confidence), limit, confidence)
    pair = Pair(rows, rows + np.array([[0.1, 0.0]]) * generator.normal(size=(12, 1)))
    agree(compare_functions(pair, ratio, draws), limit - 1, confidence)


def test_a_proportion_s_p_is_the_score_test_s() -> None:
    evidence = stored(proportion_estimate(np.array([1.0] * 41 + [0.0] * 12)))
    for limit in (0.5, 0.7, 0.9):
        above = proportions_ztest(41, 53, limit, "larger", prop_var=limit)[1]
        assert p_not_above(evidence, limit, 0.95) == pytest.approx(above)
        assert p_not_below(evidence, limit, 0.95) == pytest.approx(1 - above)


def test_paired_p_values_are_those_of_non_inferiority() -> None:
    generator = np.random.default_rng(2)
    before, after = generator.integers(0, 2, (2, 80)).astype(float)
    evidence = stored(compare_proportions(before, after))
    expected = non_inferior_proportions(before, after, 0.2).p
    assert p_not_above(evidence, -0.2, 0.95) == pytest.approx(expected)
    old, new = generator.normal(size=(2, 30))
    evidence = stored(compare_means(old, new, None, DRAWS))
    expected = non_inferior_means(old, new, None, 0.3).p
    assert p_not_above(evidence, -0.3, 0.95) == pytest.approx(expected)
    t = distributions.ttest_rel(new, old, alternative="greater")
    assert p_not_above(evidence, 0.0, 0.95) == pytest.approx(t.pvalue)
    rows = np.zeros((2, 40, 6))
    for index, side in enumerate(generator.integers(0, 2, (2, 40))):
        rows[index, np.arange(40), 3 * side] = 1
    assert compare_functions(Pair(*rows), macro_f1, DRAWS).units == 40


def test_a_perplexity_is_tested_on_its_logarithm() -> None:
    words = np.array([4.0, 4, 4, 4])
    nll = words * np.log([2.0, 3, 4, 5])
    rows = np.stack([nll, words, words, words], axis=1)
    evidence = stored(positive_estimate(rows, perplexity_metrics()[0].combine, None))
    # Equal lengths: the logarithm is the plain mean of the documents' logarithms.
    expected = distributions.ttest_1samp(np.log([2, 3, 4, 5]), math.log(2), alternative="greater")
    assert p_not_above(evidence, 2.0, 0.95) == pytest.approx(expected.pvalue)
    assert p_not_above(evidence, 0.0, 0.95) == 0


def test_without_a_width_there_is_no_p() -> None:
    assert math.isnan(p_not_above(Evidence("x", 0.5, 0.5, 0.5, 40), 0.4, 0.95))
    assert math.isnan(p_not_below(Evidence("x", 0.5, 0.4, 0.6, 1), 0.4, 0.95))
