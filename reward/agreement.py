"""Do two reward models prefer the same responses of the same pairs?

A verdict is the chosen response, the rejected one, or a tie. Cohen's kappa compares the agreement
with that of two models of the same accuracies whose errors have nothing to do with each other: it
says whether they err on the same pairs. The correlation of margins does not depend on their units.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from evals.stats import Array, Resampling, bootstrap, proportion_estimate
from reward.evaluate import pearson

VERDICTS = 3
"""Rejected, tie, chosen."""


def verdict_rows(a: Array, b: Array) -> Array:
    """One-hot cells of the table of verdicts (a's, then b's), (n, 9), of margins (n,) each."""
    cells = (np.sign(a) + 1) * VERDICTS + np.sign(b) + 1
    return np.asarray(np.eye(VERDICTS**2)[cells.astype(int)])


def kappa(sums: Array) -> Array:
    """Cohen's kappa (1960) of tables (..., 9): (agreed - chance)/(1 - chance); NaN at chance 1."""
    counts = sums.reshape(*sums.shape[:-1], VERDICTS, VERDICTS)
    table = counts / counts.sum(axis=(-2, -1), keepdims=True)
    agreed = np.trace(table, axis1=-2, axis2=-1)
    chance = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1)
    out = np.full(chance.shape, np.nan)
    # An exact 1 - 1 may be off by a rounding error.
    return np.asarray(np.divide(agreed - chance, 1 - chance, out=out, where=1 - chance > 1e-12))


def agreement(a: Array, b: Array, resampling: Resampling) -> dict[str, Any]:
    """Share of equal verdicts, kappa and the correlation of margins, as estimates.

    Args:
        a: Margins (n,) of the first model.
        b: Margins (n,) of the second, on the same pairs.
        resampling: Confidence, draws and seed.
    """
    same = (np.sign(a) == np.sign(b)).astype(np.float64)
    x, y = a - a.mean(), b - b.mean()
    moments = np.stack([np.ones_like(x), x, y, x**2, y**2, x * y], axis=1)
    return {
        "share": asdict(proportion_estimate(same, None, resampling.confidence)),
        "kappa": asdict(bootstrap(verdict_rows(a, b), kappa, None, resampling)),
        "correlation": asdict(bootstrap(moments, pearson, None, resampling)),
    }
