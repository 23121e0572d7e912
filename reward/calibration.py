"""Calibration of a reward model: is sigmoid(margin) the chance that the annotator agrees?

That is what the Bradley-Terry loss fits. Which response is called chosen says nothing beforehand,
so the probability is that of the response that the model prefers, from 1/2 to 1, and a pair is a
hit where the annotator preferred the same one (a tie: half). The expected calibration error is
that of Guo 2017 (1706.04599) over bins of equal width; of a few pairs it lies above the truth, so
beside it stands what a calibrated model would show on the same margins (consistency resampling,
Broecker and Smith 2007, Weather Forecast. 22:651).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from evals.stats import Array, Resampling, wilson

BINS = 10
"""Of equal width over (1/2, 1]; 1/2 itself counts to the first."""


class Expected(NamedTuple):
    """What a calibrated model with the same margins would show."""

    ece: float
    """Mean calibration error."""
    p: float
    """Share of calibrated data sets with an error at least as large as the one found."""


def sureness(margins: Array) -> Array:
    """Probability of the preferred response, sigmoid(|margin|), (n,)."""
    return np.asarray(expit(np.abs(margins)))


def hits(margins: Array) -> Array:
    """1 where the annotator preferred the same, 1/2 at a tie, else 0, (n,)."""
    return np.asarray((np.sign(margins) + 1) / 2)


def bins_of(margins: Array) -> Any:
    """Index of each pair's bin, (n,) integers."""
    inside = np.ceil((sureness(margins) - 0.5) * 2 * BINS).astype(int)
    return np.clip(inside - 1, 0, BINS - 1)


def ece_rows(margins: Array) -> Array:
    """Rows [hit - probability in the pair's bin, else 0; 1], (n, BINS + 1)."""
    rows = np.zeros((len(margins), BINS + 1))
    rows[np.arange(len(margins)), bins_of(margins)] = hits(margins) - sureness(margins)
    rows[:, BINS] = 1
    return rows


def ece(sums: Array) -> Array:
    """Sum over the bins of |hits - sum of probabilities|, over the number of pairs."""
    return np.asarray(np.abs(sums[..., :BINS]).sum(axis=-1) / sums[..., BINS])


def brier(margins: Array) -> Array:
    """(1 - probability of the chosen response)^2, (n,); 1/4 says nothing."""
    return np.asarray(expit(-margins) ** 2)


def log_loss(margins: Array) -> Array:
    """-log sigmoid(margin), (n,), the loss it was trained with; log 2 says nothing."""
    return np.logaddexp(0.0, -margins)


def expected(margins: Array, resampling: Resampling) -> Expected:
    """Draw outcomes from the model's own probabilities, and see how large the error gets."""
    found = float(ece(ece_rows(margins).sum(axis=0)))
    chance, place = sureness(margins), np.eye(BINS)[bins_of(margins)]
    generator = np.random.default_rng((resampling.seed, 2))
    errors = np.empty(resampling.resamples)
    for index in range(resampling.resamples):
        drawn = (generator.random(len(chance)) < chance) - chance
        errors[index] = np.abs(drawn @ place).sum() / len(chance)
    extreme = int(np.sum(errors >= found - 1e-12))
    return Expected(float(errors.mean()), (1 + extreme) / (1 + resampling.resamples))


def reliability(margins: Array, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Every bin that holds pairs: n, mean probability, share of hits with Wilson's interval."""
    place, chance, hit = bins_of(margins), sureness(margins), hits(margins)
    table = []
    for index in range(BINS):
        inside = place == index
        n, total = int(inside.sum()), float(hit[inside].sum())
        if n:
            ends = wilson(total, n, confidence)
            row = {"n": n, "probability": float(chance[inside].mean()), "value": total / n}
            table.append(row | {"low": ends.low, "high": ends.high})
    return table
