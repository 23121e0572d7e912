"""Best of n against brute force over all subsets, and against a large simulation."""

import math
from itertools import combinations

import numpy as np
import pytest

from evals.best_of import best_of, best_of_kl, rank_weights, sizes


def brute_force(proxy: np.ndarray, values: np.ndarray, n: int) -> float:
    """Mean over all subsets of n: the value of the best by proxy, ties shared."""
    found = []
    for chosen in combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in chosen)
        found.append(np.mean([values[i] for i in chosen if proxy[i] == top]))
    return float(np.mean(found))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_equals_the_mean_over_all_subsets(n: int) -> None:
    rng = np.random.default_rng(n)
    proxy, gold = rng.normal(size=(4, 7)), rng.normal(size=(4, 7))
    for values in (proxy, gold):
        expected = [brute_force(*row, n) for row in zip(proxy, values, strict=True)]
        assert best_of(proxy, values, n) == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_of_equal_scores_one_is_taken_at_random(n: int) -> None:
    proxy = np.array([[1.0, 2.0, 2.0, 0.0, 2.0, 1.0]])
    gold = np.array([[5.0, -1.0, 4.0, 0.5, 9.0, 2.0]])
    assert best_of(proxy, gold, n)[0] == pytest.approx(brute_force(proxy[0], gold[0], n))


def test_one_is_the_mean_and_all_is_the_best() -> None:
    proxy, gold = np.array([[3.0, 1.0, 2.0]]), np.array([[10.0, 20.0, 60.0]])
    assert best_of(proxy, gold, 1)[0] == pytest.approx(30.0)
    assert best_of(proxy, gold, 3)[0] == 10.0
    # pairs (3, 1), (3, 2), (1, 2): 10, 10, 60
    assert best_of(proxy, gold, 2)[0] == pytest.approx(80 / 3)


def test_weights_are_binomial_coefficients() -> None:
    for samples, n in ((5, 2), (8, 8), (16, 1), (40, 7)):
        expected = [math.comb(i - 1, n - 1) / math.comb(samples, n) for i in range(1, samples + 1)]
        assert rank_weights(samples, n) == pytest.approx(expected)
    with pytest.raises(ValueError, match="the best of 6 needs 1 to 5"):
        rank_weights(5, 6)
    with pytest.raises(ValueError, match="the best of 0"):
        rank_weights(5, 0)


def test_kl_by_hand_and_by_its_definition() -> None:
    assert best_of_kl(1) == 0.0
    assert best_of_kl(2) == pytest.approx(0.6931471805599453 - 0.5)
    # Of a uniform score u the best of n has density n u^(n - 1): KL = integral of p log p.
    n = 5
    u = (np.arange(200_000) + 0.5) / 200_000
    density = n * u ** (n - 1)
    assert best_of_kl(n) == pytest.approx(float(np.mean(density * np.log(density))), abs=1e-5)


def test_sizes_double_and_end_with_all() -> None:
    assert sizes(1) == (1,)
    assert sizes(8) == (1, 2, 4, 8)
    assert sizes(12) == (1, 2, 4, 8, 12)
