"""What a person watching PPO should be told, and why: pure rules on the logged metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Row = Mapping[str, float]

ENTROPY_LEFT = 0.2
"""Share of its first entropy below which a policy counts as collapsed."""
LENGTH_FACTOR = 2.0
"""Growth or shrinkage of the mean length that counts as drift."""
DISTINCT_LEFT = 0.5
"""Share of different responses, of what the first update had, below which they count as alike."""
GAP = 0.5
"""Nats between sampler and trainer on one token that PPO should not silently accept."""
Z = 1.96


class Evaluated(NamedTuple):
    """Scores and gold rewards of the same held-out prompts at one time, one a prompt.

    None where nothing was said of a response; `gold` is empty without a gold reward.
    """

    scores: list[float | None]
    gold: list[float | None]
    kl: float = 0.0
    """To the reference, nats a response."""
    update: int = 0
    """Updates done."""


def alarms(first: Row, row: Row, kl_budget: float | None = None) -> dict[str, str]:
    """Complaints about an update.

    Args:
        first: Metrics of the first update.
        row: Metrics of the update.
        kl_budget: Most KL to the reference, nats a response.

    Returns:
        A sentence with numbers for each complaint, by a short name.
    """
    found = {}
    if kl_budget is not None and row["kl/k1"] > kl_budget:
        found["kl"] = f"KL {row['kl/k1']:.3g} nats a response exceeds its budget of {kl_budget:g}"
    before, now = first["policy/entropy"], row["policy/entropy"]
    if now < ENTROPY_LEFT * before:
        found["entropy"] = f"entropy fell from {before:.3g} to {now:.3g} nats a token"
    before, now = first["response/length"], row["response/length"]
    if not before / LENGTH_FACTOR <= now <= before * LENGTH_FACTOR:
        found["length"] = f"mean length drifted from {before:.3g} to {now:.3g} tokens"
    before, now = first["response/distinct"], row["response/distinct"]
    if now < DISTINCT_LEFT * before:
        found["alike"] = f"{now:.0%} of the responses differ, at first {before:.0%}"
    if row["sampler/gap_max"] > GAP:
        found["gap"] = f"sampler and trainer differ by {row['sampler/gap_max']:.2g} nats on a token"
    if row["skipped_steps"] > 0:
        found["skipped"] = f"{row['skipped_steps']:.0f} steps skipped: gradients not finite"
    return found


def divergence(history: Sequence[Evaluated]) -> str | None:
    """Complaint when the score rose and the gold reward fell since gold was best.

    Both changes are paired over prompts, and both 95 % normal intervals must exclude 0 (Gao 2022,
    2210.10760, calls the regime over-optimisation).
    """
    if len(history) < 2 or not history[-1].gold:
        return None
    now = history[-1]
    best = max(history[:-1], key=lambda evaluated: _mean(evaluated.gold))
    (score, score_half), (gold, gold_half) = (
        _change(before, after)
        for before, after in ((best.scores, now.scores), (best.gold, now.gold))
    )
    if score - score_half <= 0 or gold + gold_half >= 0:
        return None
    return f"the score rose by {score:.3g} while the gold reward fell by {-gold:.3g}"


def fallen(history: Sequence[Evaluated]) -> int:
    """Number of the latest evaluations in a row whose gold reward lies below the best before them.

    Paired over prompts, and the 95 % normal interval must exclude 0.
    """
    count = 0
    for end in range(len(history) - 1, 0, -1):
        if not history[end].gold:
            break
        best = max(history[:end], key=lambda evaluated: _mean(evaluated.gold))
        change, half = _change(best.gold, history[end].gold)
        if change + half >= 0:
            break
        count += 1
    return count


def _mean(scores: Sequence[float | None]) -> float:
    """Mean of the scores there are; at least one is."""
    there = [score for score in scores if score is not None]
    return sum(there) / len(there)


def _change(before: Sequence[float | None], after: Sequence[float | None]) -> tuple[float, float]:
    """Mean paired change, over prompts scored both times, and half the width of its interval."""
    pairs = zip(before, after, strict=True)
    changes = [b - a for a, b in pairs if a is not None and b is not None]
    n = len(changes)
    if n == 0:
        return 0.0, math.inf
    mean = sum(changes) / n
    variance = sum((c - mean) ** 2 for c in changes) / max(n - 1, 1)
    return mean, Z * math.sqrt(variance / n)
