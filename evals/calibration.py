"""Calibration of choices: does the probability that a model gives its answers come true?

Probabilities are the softmax of the choices' summed log-probabilities. The expected calibration
error is that of Guo 2017 (1706.04599): 15 bins of equal width over the probability of the chosen
choice. Of a few items it lies above the truth, as each bin's chance counts as an error.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from evals.metrics import mean_metric
from evals.task import Array, Metric

BINS = 15


def probabilities(scores: Array) -> Array:
    """exp(ll) / sum of exp(ll) over the choices (C,)."""
    shifted = np.exp(scores - scores.max())
    shares: Array = shifted / shifted.sum()
    return shares


def brier(scores: Array, gold: Collection[int]) -> float:
    """Sum over the choices (C,) of (probability - 1 if right else 0) squared."""
    truth = np.zeros(len(scores))
    truth[list(gold)] = 1
    return float(np.square(probabilities(scores) - truth).sum())


def ece_rows(scores: Sequence[Array], gold: Sequence[Collection[int]]) -> Array:
    """Rows [hit - probability in the bin of the chosen choice, else 0; 1], (n, BINS + 1).

    Bin m of M holds the probabilities in ((m - 1)/M, m/M].
    """
    rows = np.zeros((len(scores), BINS + 1))
    rows[:, BINS] = 1
    for index, (own, right) in enumerate(zip(scores, gold, strict=True)):
        confidence = float(probabilities(own).max())
        place = min(BINS, max(1, int(np.ceil(confidence * BINS)))) - 1
        rows[index, place] = float(int(own.argmax()) in right) - confidence
    return rows


def ece(sums: Array) -> Array:
    """Sum over the bins of |hits - sum of probabilities|, over the number of items."""
    total: Array = np.abs(sums[..., :BINS]).sum(axis=-1) / sums[..., BINS]
    return total


BRIER = mean_metric(
    "brier_score",
    "brier_score",
    "lower",
    "mean of sum over choices of (softmax(ll) - right)^2",
)
ECE = Metric(
    "ece",
    "ece",
    ece,
    "lower",
    f"sum over {BINS} bins of equal width of items/n |share of right answers - mean probability of "
    "the chosen choice|, probability = softmax(ll); too high for few items, so without interval",
    kind="biased",
    signature=f"{BINS} bins of equal width",
)
