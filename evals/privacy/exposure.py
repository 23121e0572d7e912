"""Exposure of a planted secret: how far it stands out from all secrets it could have been.

The secret sharer (Carlini et al. 2019, 1802.08232): the exposure of a canary of rank r by
likelihood among the |R| secrets of its format is log2 |R| - log2 r bits. A model that never saw it
has ranks uniform on 1 to |R|, so that r / |R| is a p-value and the exposure's mean is
integral over u of -log2 u = 1 / ln 2 = 1.44 bits, not 0 (a little less for few secrets).

Where the secrets are too many to enumerate, the rank is that among a sample of them; it cannot pass
log2(sample + 1). The paper's second estimate, a skew-normal fitted to the sample, can, and is an
extrapolation. Departures: ties rank before the canary, so that a model that tells nothing apart has
exposure 0; the skew-normal is fitted by its moments, which need no search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats as distributions

from evals.stats import Array

BY_CHANCE = 1 / math.log(2)
"""Mean exposure, in bits, of a secret that was never seen."""
_MOST_SKEW = 0.995
"""A skew-normal's skewness stays below 0.99527."""


def rank(own: float, others: Array) -> int:
    """Place of a canary's log-likelihood among it and those of other secrets (n,), ties before it.

    1 is the likeliest. A secret that has no log-likelihood (NaN) does not count.
    """
    return 1 + int(np.sum(others >= own))


def exposure(place: int, total: int) -> float:
    """log2 total - log2 place, in bits, of the canary at `place` of `total` secrets.

    Raises:
        ValueError: There is no such place.
    """
    if not 1 <= place <= total:
        raise ValueError(f"place {place} of {total} secrets")
    return math.log2(total) - math.log2(place)


def extrapolated(own: float, others: Array, most: float) -> float:
    """Exposure by a skew-normal with the sample's mean, spread and skewness, in bits.

    -log2 P(X <= x) with x = -own, the canary's surprise, and X that of a secret. With g the
    skewness and h = |g|^(2/3): delta^2 = pi/2 h / (h + ((4 - pi)/2)^(2/3)), scale
    sd / sqrt(1 - 2 delta^2 / pi). At most `most`, log2 |R|, which a rank cannot pass; far out in
    its tail the fit would claim more. NaN for equal values or fewer than 3.
    """
    surprise = -others[np.isfinite(others)]
    if len(surprise) < 3 or not surprise.std() > 0:
        return math.nan
    mean, spread = float(surprise.mean()), float(surprise.std())
    skew = float(np.mean((surprise - mean) ** 3)) / spread**3
    h = min(abs(skew), _MOST_SKEW) ** (2 / 3)
    squared = math.pi / 2 * h / (h + ((4 - math.pi) / 2) ** (2 / 3))
    delta = math.copysign(math.sqrt(squared), skew)
    scale = spread / math.sqrt(1 - 2 * squared / math.pi)
    start = mean - scale * delta * math.sqrt(2 / math.pi)
    shape = delta / math.sqrt(1 - squared)
    chance = float(distributions.skewnorm.cdf(-own, shape, start, scale))
    return min(most, -math.log2(chance)) if chance > 0 else most


def chance_p(exposures: Sequence[float]) -> float:
    """One-sided p of canaries standing out no more than unseen secrets do.

    Fisher's combination: with p_i = rank_i / |R| = 2^-exposure_i, 2 ln 2 sum of exposures has, at
    most, a chi-squared distribution with 2 n degrees of freedom.
    """
    total = 2 * math.log(2) * float(np.sum(exposures))
    return float(distributions.chi2.sf(total, 2 * len(exposures)))
