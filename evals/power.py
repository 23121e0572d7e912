"""What a comparison can find: the minimum detectable effect, and the items an effect needs."""

from __future__ import annotations

import math

from scipy import stats as distributions

from evals.stats import normal_quantile

POWER = 0.8


def detectable(error: float, confidence: float = 0.95, power: float = POWER) -> float:
    """Minimum detectable effect: (z of the level + z of the power) * standard error."""
    return (normal_quantile(confidence) + float(distributions.norm.ppf(power))) * error


def items_needed(
    effect: float, error: float, n: int, confidence: float = 0.95, power: float = POWER
) -> int:
    """Items, or clusters of the same size, that find a true difference of `effect`.

    n ((z of the level + z of the power) SE / effect)^2: a standard error falls with sqrt(n).
    Miller 2024 (2411.00640, section 5) is this for paired means.

    Args:
        effect: True difference, in the metric's unit; not 0.
        error: Standard error of the difference at `n`.
        n: Items, or clusters, behind the standard error.
        confidence: 1 - level of the two-sided test.
        power: Chance to find it.

    Raises:
        ValueError: The effect is 0, which no number of items finds.
    """
    if effect == 0:
        raise ValueError("no number of items finds an effect of 0; state the smallest that matters")
    return math.ceil(n * (detectable(error, confidence, power) / effect) ** 2)


def pairs_needed(
    effect: float, changed: float, confidence: float = 0.95, power: float = POWER
) -> int:
    """Items that find a true paired difference of two proportions by McNemar's test.

    Connor 1987 (Biometrics 43:207):
    (z of the level sqrt(c) + z of the power sqrt(c - d^2))^2 / d^2, with d the effect and c the
    share of items whose outcome changes. The exact test, which is conservative, needs a few more.

    Raises:
        ValueError: Not 0 < |effect| <= changed <= 1.
    """
    if not 0 < abs(effect) <= changed <= 1:
        raise ValueError(
            f"a difference is at most the share of items that change: need 0 < |effect| <= changed "
            f"<= 1, have effect {effect} and changed {changed}"
        )
    level, chance = normal_quantile(confidence), float(distributions.norm.ppf(power))
    root = level * math.sqrt(changed) + chance * math.sqrt(changed - effect**2)
    return math.ceil((root / effect) ** 2)
