"""Newcombe's intervals against statsmodels, published examples, and by exact coverage."""

from __future__ import annotations

import itertools

import pytest
from scipy import stats as scipy_stats

from evals.proportions import (
    PairedCounts,
    newcombe,
    newcombe_paired,
    tango,
    tango_statistic,
)
from evals.stats import wilson


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((56, 70), (48, 80)),
        ((0, 9), (7, 7)),
        ((3, 5), (1, 4)),
        ((10, 10), (0, 20)),
        ((3, 250), (9, 40)),
    ],
)
def test_newcombe_equals_statsmodels(a: tuple[int, int], b: tuple[int, int]) -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep

    expected = confint_proportions_2indep(*a, *b, method="newcomb")
    assert newcombe(a, b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    # Newcombe 1998, table II, method 10 (score), to its four places.
    [((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090))],
)
def test_newcombe_reproduces_published_examples(
    a: tuple[int, int], b: tuple[int, int], expected: tuple[float, float]
) -> None:
    assert newcombe(a, b) == pytest.approx(expected, abs=5e-5)


def test_newcombe_paired_reproduces_a_published_example() -> None:
    # Cavo 2012, in Fagerland, Lydersen and Laake 2017 (Statistical Analysis of Contingency
    # Tables), chapter 8: 59 both, 6 and 16 one alone, 80 neither: -0.0621 (-0.1186 to -0.0046).
    interval = newcombe_paired(PairedCounts(59, 6, 16, 80))
    assert interval == pytest.approx((-0.1186, -0.0046), abs=5e-5)


def test_newcombe_paired_leaves_a_negative_correlation_as_it_is() -> None:
    # n = 10: 1 both, 4 gained, 3 lost, 2 neither. Margins 5, 5, 4, 6; cross = 1*2 - 4*3 = -10, so
    # phi = -10 / sqrt(600), uncorrected. d = .1.
    phi = -10 / 600**0.5
    (l_a, u_a), (l_b, u_b) = wilson(5, 10), wilson(4, 10)
    x, y = 0.5 - l_a, u_b - 0.4
    low = 0.1 - (x * x - 2 * phi * x * y + y * y) ** 0.5
    x, y = u_a - 0.5, 0.4 - l_b
    high = 0.1 + (x * x - 2 * phi * x * y + y * y) ** 0.5
    assert newcombe_paired(PairedCounts(1, 4, 3, 2)) == pytest.approx((low, high))


def test_newcombe_paired_by_hand() -> None:
    # n = 10: 4 both, 1 gained, 2 lost, 3 neither. Margins 5, 5, 6, 4; cross = 4*3 - 1*2 = 10, less
    # n/2 = 5: phi = 5 / sqrt(600). d = -0.1; x = p_a - l_a, y = u_b - p_b from Wilson's 5 and 6
    # of 10.
    phi = 5 / 600**0.5
    (l_a, u_a), (l_b, u_b) = wilson(5, 10), wilson(6, 10)
    x, y = 0.5 - l_a, u_b - 0.6
    w, z = u_a - 0.5, 0.6 - l_b
    low, high = newcombe_paired(PairedCounts(4, 1, 2, 3))
    assert low == pytest.approx(-0.1 - (x * x - 2 * phi * x * y + y * y) ** 0.5)
    assert high == pytest.approx(-0.1 + (w * w - 2 * phi * w * z + z * z) ** 0.5)


def test_newcombe_paired_of_an_empty_margin_is_the_independent_interval() -> None:
    # Nothing was right before: no correlation can be estimated.
    assert newcombe_paired(PairedCounts(0, 4, 0, 6)) == newcombe((4, 10), (0, 10))


def test_newcombe_paired_covers_by_enumeration_of_all_tables() -> None:
    n, chances = 16, [0.5, 0.2, 0.1, 0.2]
    covered = 0.0
    for both, gained, lost in itertools.product(range(n + 1), repeat=3):
        if both + gained + lost > n:
            continue
        counts = PairedCounts(both, gained, lost, n - both - gained - lost)
        low, high = newcombe_paired(counts)
        chance = scipy_stats.multinomial.pmf(counts, n, chances)
        covered += chance * (low <= 0.2 - 0.1 <= high)
    # The exact coverage. Newcombe's continuity correction errs on the wide side in small samples.
    assert 0.94 <= covered <= 0.985


@pytest.mark.parametrize(("gained", "lost", "n"), [(3, 8, 30), (0, 1, 20), (0, 0, 15), (12, 4, 16)])
@pytest.mark.parametrize("difference", [-0.2, 0.1])
def test_tango_equals_the_restricted_likelihood(
    gained: int, lost: int, n: int, difference: float
) -> None:
    from scipy.optimize import minimize_scalar
    from scipy.special import xlogy

    def surprise(q: float) -> float:
        same = 1 - 2 * q - difference
        parts = (gained, q + difference), (lost, q), (n - gained - lost, same)
        return -sum(float(xlogy(count, max(chance, 0.0))) for count, chance in parts)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    q = minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = (2 * q + difference - difference**2) / n
    expected = ((gained - lost) / n - difference) / variance**0.5
    found = tango_statistic(gained, lost, n, difference)
    # The optimiser finds q to about the root of the machine's precision, 1e-8, or its bound.
    assert found == pytest.approx(expected, rel=1e-4)


def test_tango_of_no_difference_is_mcnemars_statistic() -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    expected = mcnemar([[5, 9], [2, 4]], exact=False, correction=False).statistic
    assert tango_statistic(9, 2, 20, 0.0) ** 2 == pytest.approx(expected)


def test_tangos_interval_ends_where_the_test_does() -> None:
    low, high = tango(3, 8, 30)
    assert tango_statistic(3, 8, 30, low) == pytest.approx(1.959964, abs=1e-5)
    assert tango_statistic(3, 8, 30, high) == pytest.approx(-1.959964, abs=1e-5)
    # Nothing changed in 30 items: n d / (1 - d) = z^2, so d = z^2 / (n + z^2) = 0.113513.
    assert tango(0, 0, 30) == pytest.approx((-0.113513, 0.113513), abs=1e-6)
    assert tango(30, 0, 30).high == 1.0
    assert tango(0, 30, 30).low == -1.0


def test_the_statistic_of_an_impossible_difference_is_infinite() -> None:
    # Nobody changed, so the likeliest chance to lose is 0 under a difference of 1 and 1 under -1:
    # no variance is left, and the observed difference of 0 lies 10 items away.
    assert tango_statistic(0, 0, 10, 1.0) == -float("inf")
    assert tango_statistic(0, 0, 10, -1.0) == float("inf")
    assert tango_statistic(0, 0, 10, 0.0) == 0.0
