"""Group effects with the length held fixed: pure arithmetic.

Terms differ in length, and a score may follow length. The differences of all contrasts of one
measure are regressed on the difference in words:

    d_i = alpha_{contrast of i} + beta (words_a - words_b)_i

alpha is the group's effect between texts of equal length, beta the score of a further word. Errors
are the jackknife's over clusters (CV3 of MacKinnon, Nielsen and Webb 2023, J. Appl. Econom. 38:671:
few clusters make the sandwich too small), with t(C - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats as distributions

from evals.bias.effects import Effects
from evals.jackknife import jackknife_error
from evals.stats import Array, Estimate, describe, t_quantile


class Fixed(NamedTuple):
    """Effects at equal length."""

    alphas: list[Estimate]
    """One a contrast, in the order of first appearance."""
    slope: Estimate
    """Score of a further word."""


def fixed_length(effects: Effects, words: Array, confidence: float = 0.95) -> Fixed | None:
    """Fit the regression; None where no contrast has words that vary.

    Args:
        effects: One signed difference an item.
        words: (n,) words of side a minus words of side b.
        confidence: Of the intervals.
    """
    names = list(dict.fromkeys(effects.contrasts))
    codes = np.array([names.index(contrast) for contrast in effects.contrasts])
    units, index = np.unique(np.asarray(effects.clusters, dtype=str), return_inverse=True)
    data = np.stack([effects.values, words, words * effects.values, words**2, words * 0 + 1])
    # (C, contrasts, 5): sums of d, w, wd, w^2 and 1 of each cluster and contrast
    sums = np.zeros((len(units), len(names), 5))
    np.add.at(sums, (index, codes), data.T)
    total = sums.sum(axis=0)
    fits = np.array([_fit(part) for part in (total, *(total - sums))])
    if not np.isfinite(fits[0]).all():
        return None
    counts = total[:, 4].astype(int).tolist()
    method = describe("t, jackknife", effects.clusters, len(units), confidence)
    found = [
        _estimate(fits[:, place], n, method, confidence)
        for place, n in enumerate((*counts, sum(counts)))
    ]
    return Fixed(found[:-1], found[-1])


def _fit(sums: Array) -> Array:
    """The alphas and beta from sums (K, 5) of d, w, wd, w^2, 1; NaN if undefined.

    beta = sum_k (wd - w d / n) / sum_k (w^2 - w^2 / n); alpha_k = mean d - beta mean w.
    """
    d, w, wd, ww, n = sums.T
    if (n < 0.5).any():
        return np.full(len(n) + 1, np.nan)
    spread = float(np.sum(ww - w * w / n))
    # Words are whole numbers: below this only rounding is left.
    if spread < 1e-6:
        return np.full(len(n) + 1, np.nan)
    beta = float(np.sum(wd - w * d / n)) / spread
    return np.append((d - beta * w) / n, beta)


def _estimate(fits: Array, n: int, method: str, confidence: float) -> Estimate:
    """The value on all clusters, and its error from those with one left out."""
    value, units = float(fits[0]), len(fits) - 1
    half = jackknife_error(fits[1:]) * (t_quantile(confidence, units - 1) if units > 1 else np.nan)
    return Estimate(value, value - half, value + half, n, method, units)


def word_differences(rows: Sequence[dict[str, str]]) -> Array:
    """Words of prompt and preferred answer of side a minus those of side b, (n,)."""

    def count(row: dict[str, str], side: str) -> int:
        return len(f"{row[f'prompt_{side}']} {row[f'preferred_{side}']}".split())

    return np.array([count(row, "a") - count(row, "b") for row in rows], dtype=np.float64)


def t_p(estimate: Estimate, confidence: float) -> float:
    """Two-sided p of zero behind a t interval; NaN where it has no width or no ends."""
    half, freedom = estimate.high - estimate.value, estimate.units - 1
    if not half > 0:
        return float("nan")
    value = abs(estimate.value) * t_quantile(confidence, freedom) / half
    return 2 * float(distributions.t.sf(value, freedom))
