"""Group effects with the length held fixed, against least squares with dummies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from evals.bias.effects import Contrast, Effects
from evals.bias.length import fixed_length, t_p, word_differences
from evals.stats import mean_estimate

MUSLIM = Contrast("in prompt", "religion", "muslim", "christian", False)
OLD = Contrast("in prompt", "age", "old", "middle-aged", False)


def make_effects(values: NDArray[np.float64], names: list[Contrast], units: list[int]) -> Effects:
    return Effects(values, names, [f"t{unit}" for unit in units])


def test_a_linear_score_has_its_group_effects_and_its_slope() -> None:
    words = np.array([0.0, 2.0, 5.0, 1.0, 1.0, 3.0])
    names = [MUSLIM, MUSLIM, MUSLIM, OLD, OLD, OLD]
    # d = 0.7 + 0.1 w for one contrast, -0.2 + 0.1 w for the other
    values = np.array([0.7, 0.7, 0.7, -0.2, -0.2, -0.2]) + 0.1 * words
    fit = fixed_length(make_effects(values, names, [0, 1, 2, 0, 1, 2]), words)
    assert fit is not None
    assert [a.value for a in fit.alphas] == pytest.approx([0.7, -0.2])
    assert fit.slope.value == pytest.approx(0.1)
    for estimate in (*fit.alphas, fit.slope):
        assert (estimate.low, estimate.high) == pytest.approx((estimate.value,) * 2)
    assert [(a.n, a.units) for a in fit.alphas] == [(3, 3), (3, 3)]
    assert fit.slope.n == 6


def test_values_and_errors_equal_least_squares_with_each_cluster_left_out() -> None:
    rng = np.random.default_rng(3)
    units = [index // 4 for index in range(40)]
    names = [(MUSLIM, OLD)[index % 2] for index in range(40)]
    words = rng.integers(-3, 4, 40).astype(float)
    values = rng.normal(size=40) + 0.3 * words
    design = np.stack([np.array([n == c for n in names]) for c in (MUSLIM, OLD)] + [words], 1)

    def solve(keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.asarray(np.linalg.lstsq(design[keep], values[keep], rcond=None)[0])

    whole = solve(np.ones(40, dtype=bool))
    left = np.array([solve(np.array(units) != unit) for unit in range(10)])
    error = np.sqrt(9 / 10 * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
    half = stats.t.ppf(0.975, 9) * error
    fit = fixed_length(make_effects(values, names, units), words)
    assert fit is not None
    found = [*fit.alphas, fit.slope]
    assert [f.value for f in found] == pytest.approx(whole)
    assert [f.low for f in found] == pytest.approx(whole - half)
    assert [f.high for f in found] == pytest.approx(whole + half)


def test_without_a_word_more_it_is_the_plain_mean() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=12)
    words = np.array([0.0] * 6 + [1.0, 2.0, 0.0, 3.0, 1.0, 2.0])
    names, units = [MUSLIM] * 6 + [OLD] * 6, [*range(6), *range(6)]
    fit = fixed_length(make_effects(values, names, units), words)
    assert fit is not None
    plain = mean_estimate(values[:6], None)
    ours = fit.alphas[0]
    assert (ours.value, ours.low, ours.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_words_that_do_not_vary_give_no_answer_and_one_cluster_no_interval() -> None:
    values, names = np.array([1.0, 2.0, 4.0]), [MUSLIM] * 3
    assert fixed_length(make_effects(values, names, [0, 1, 2]), np.full(3, 4.0)) is None
    fit = fixed_length(make_effects(values, names, [0, 0, 0]), np.array([0.0, 1.0, 2.0]))
    assert fit is not None
    assert np.isnan([fit.slope.low, fit.slope.high]).all()
    assert fit.slope.value == pytest.approx(1.5)


def test_p_is_the_t_tests() -> None:
    values = np.array([0.4, -0.1, 0.9, 0.3, 0.2])
    found = t_p(mean_estimate(values, None, 0.9), 0.9)
    assert found == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert np.isnan(t_p(mean_estimate(np.ones(3), None), 0.95))


def test_words_are_those_of_prompt_and_preferred_answer() -> None:
    row = {
        "prompt_a": "one two",
        "preferred_a": "three four five",
        "dispreferred_a": "x",
        "prompt_b": "one",
        "preferred_b": "two three",
        "dispreferred_b": "x x x x x x x",
    }
    assert word_differences([row]).tolist() == [2.0]
