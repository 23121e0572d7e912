"""Adjusted p-values against statsmodels and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evals.multiplicity import benjamini_hochberg, holm

P = [0.04, 0.001, 0.03, 0.5, 0.012, 0.03, 0.9]


def test_holm_equals_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    assert holm(P) == pytest.approx(list(multipletests(P, method="holm")[1]))


def test_benjamini_hochberg_equals_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    assert benjamini_hochberg(P) == pytest.approx(list(multipletests(P, method="fdr_bh")[1]))


def test_benjamini_hochberg_by_hand() -> None:
    # m p / rank: .04 is third of 3 -> .04; .03 second -> .045, but no more than its successor's
    # .04; .01 first -> .03.
    assert benjamini_hochberg([0.04, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])


def test_holm_by_hand() -> None:
    # (m - j + 1) p: .4 first of 3 -> 1.2, no probability; the others are no less.
    assert holm([0.6, 0.4, 0.5]) == [1.0, 1.0, 1.0]
    assert holm([0.2, 0.1]) == pytest.approx([0.2, 0.2])


def test_nothing_to_adjust() -> None:
    assert holm([]) == benjamini_hochberg([]) == []


def test_false_discoveries_stay_at_their_rate() -> None:
    generator, shares = np.random.default_rng(0), []
    for _ in range(400):
        # 15 true nulls and 5 effects of three standard errors, one-sided.
        from scipy.stats import norm

        p = norm.sf(generator.normal(size=20) + np.repeat([0.0, 3.0], [15, 5]))
        found = np.array(benjamini_hochberg(p.tolist())) <= 0.2
        shares.append(found[:15].sum() / max(1, found.sum()))
    # The expectation is exactly 15/20 of 0.2 for independent tests; its standard error is .007.
    assert np.mean(shares) == pytest.approx(0.15, abs=0.025)
