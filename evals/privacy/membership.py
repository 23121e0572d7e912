"""Membership inference: can training documents be told from others by their likelihood?

Scores of a document, all higher for a likely member:

* loss: mean log-probability of its tokens (Yeom et al. 2018, 1709.01604);
* min_k: mean over the k share of tokens that are least likely (Shi et al. 2023, 2310.16789);
* min_k_pp: the same of (log p - mean) / sd, mean and sd of log p over the vocabulary at that place
  (Zhang et al. 2024, 2404.02936);
* zlib: mean log-probability by the bytes that zlib needs (Carlini et al. 2021, 2012.07805).

The AUC is the chance that a training document scores above a held-out one, ties counted half. Its
error is DeLong's (1988, Biometrics 44:837); the interval is taken on the logit, so that it stays
inside [0, 1]. Complete separation has a value and no interval.
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import numpy as np
from scipy import stats as distributions

from evals.stats import Array, Estimate, Interval, normal_quantile, wilson

SCORES = ("loss", "min_k", "min_k_pp", "zlib")


class TokenScores(NamedTuple):
    """Of the T tokens of a document."""

    logs: Array
    """Log-probabilities in nats, (T,)."""
    standard: Array
    """The same minus their mean over the vocabulary, by its standard deviation, (T,)."""


class Placements(NamedTuple):
    """Share of the other side that each document is placed above (members) or below (others)."""

    members: Array
    """(m,)."""
    others: Array
    """(n,)."""

    @property
    def auc(self) -> float:
        """The mean of either."""
        return float(self.members.mean())

    @property
    def error(self) -> float:
        """DeLong's standard error; NaN for fewer than two documents of a side."""
        if min(len(self.members), len(self.others)) < 2:
            return math.nan
        parts = (side.var(ddof=1) / len(side) for side in self)
        return math.sqrt(sum(map(float, parts)))


class Change(NamedTuple):
    """AUC after minus before on the same documents."""

    difference: float
    low: float
    high: float
    p: float
    """Two-sided; NaN where no document changes its place."""


def document_scores(tokens: TokenScores, text: str, share: float) -> dict[str, float]:
    """Every score of one document.

    Args:
        tokens: Of its tokens; at least one.
        text: What those tokens say.
        share: Of the tokens that min_k takes, at least one token.
    """
    lowest = max(1, int(share * len(tokens.logs)))
    loss = float(tokens.logs.mean())
    return {
        "loss": loss,
        "min_k": float(np.sort(tokens.logs)[:lowest].mean()),
        "min_k_pp": float(np.sort(tokens.standard)[:lowest].mean()),
        "zlib": loss / len(zlib.compress(text.encode())),
    }


def placements(members: Array, others: Array) -> Placements:
    """Placements of scores (m,) and (n,); a tie is half above.

    With R the rank among all and r that among its own side, (R - r) / (size of the other side)
    documents of the other side stand below (Sun and Xu 2014, 10.1109/LSP.2014.2337313).
    """
    ranks = distributions.rankdata(np.concatenate([members, others]))
    m, n = len(members), len(others)
    above = (ranks[:m] - distributions.rankdata(members)) / n
    below = (ranks[m:] - distributions.rankdata(others)) / m
    return Placements(above, 1 - below)


def auc_estimate(members: Array, others: Array, confidence: float = 0.95) -> Estimate:
    """AUC of members against others with DeLong's interval on the logit.

    logit A +- z SE / (A (1 - A)). The ends are NaN at A = 0 or 1, and for one document of a side.
    """
    found, n = placements(members, others), len(members) + len(others)
    value, error = found.auc, found.error
    if not error > 0 or not 0 < value < 1:
        return Estimate(value, math.nan, math.nan, n, "no interval: no spread", n)
    half = normal_quantile(confidence) * error / (value * (1 - value))
    centre = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-end)) for end in (centre - half, centre + half))
    return Estimate(value, low, high, n, f"DeLong on the logit, {confidence:.4g}", n)


def auc_p(members: Array, others: Array) -> float:
    """Two-sided p of equal scores on both sides (Mann and Whitney)."""
    return float(distributions.mannwhitneyu(members, others).pvalue)


def auc_change(before: Placements, after: Placements, confidence: float = 0.95) -> Change:
    """Change of the AUC of the same documents between two models (DeLong, paired)."""
    moved = Placements(after.members - before.members, after.others - before.others)
    difference, error = after.auc - before.auc, moved.error
    half = normal_quantile(confidence) * error
    p = 2 * float(distributions.norm.sf(abs(difference) / error)) if error > 0 else math.nan
    return Change(difference, difference - half, difference + half, p)


class Caught(NamedTuple):
    """Members found at a threshold that few others pass."""

    share: float
    interval: Interval
    """Wilson's, the threshold taken as given."""
    hits: int
    false: float
    """Share of the others that do pass, at most what was asked."""


def caught(members: Array, others: Array, allowed: float, confidence: float = 0.95) -> Caught:
    """True positive rate at a false positive rate of at most `allowed`.

    The threshold is the highest score of the others that leaves no more than `allowed` of them
    above it; a document has to pass it. Below 1 / allowed others, none may pass.
    """
    ordered = np.sort(others)[::-1]
    threshold = ordered[min(int(allowed * len(others) + 1e-9), len(others) - 1)]
    hits = int(np.sum(members > threshold))
    false = float(np.mean(others > threshold))
    n = len(members)
    return Caught(hits / n, wilson(hits, n, confidence), hits, false)
