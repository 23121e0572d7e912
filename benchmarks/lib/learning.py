"""How two systems learn the same thing: score after equal episodes, and time to a score.

A run is the mean score of each update's responses and the seconds at which the update ended. Curves
are smoothed by a trailing mean over an eighth of the updates, the same for both sides. A score
counts as reached when the smoothed curve first reaches it, also where that is the peer's own last
score and the peer was there before its end.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

Run = Mapping[str, Any]
"""A worker's report; `scores` and `ended` are read."""


def smoothed(scores: Sequence[float]) -> list[float]:
    """Trailing means over an eighth of the updates (n,), from the first full window on."""
    window = max(1, len(scores) // 8)
    starts = range(len(scores) - window + 1)
    return [statistics.fmean(scores[start : start + window]) for start in starts]


def seconds_to(run: Run, score: float) -> float | None:
    """Seconds of training after which a run's smoothed score was reached; None: never."""
    curve = smoothed(run["scores"])
    ended = run["ended"][-len(curve) :]
    return next((end for value, end in zip(curve, ended, strict=True) if value >= score), None)


def time_ratio(ours: Run, peer: Run) -> float:
    """Peer's seconds over ours to the peer's own last score; 0 if ours never reaches it."""
    target = smoothed(peer["scores"])[-1]
    needed, reference = seconds_to(ours, target), seconds_to(peer, target)
    assert reference is not None
    return 0.0 if needed is None else reference / needed


def learning(pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    """Compare runs (ours, peer) that share a seed.

    Returns:
        Last scores of both; their difference (ours minus peer) with its paired t interval over
        seeds; the ratios of time to the peer's last score, their median, and how many of our
        runs reached it. `common` has the same for one target of all seeds, the mean of the peer's
        last scores: that of one seed is partly luck.
    """
    import numpy as np

    from evals.stats import mean_estimate

    last = [[smoothed(run["scores"])[-1] for run in pair] for pair in pairs]
    ratios = [time_ratio(ours, peer) for ours, peer in pairs]
    difference = mean_estimate(np.array([ours - peer for ours, peer in last]))
    return {
        "first_score": statistics.fmean(run["scores"][0] for pair in pairs for run in pair),
        "last_score_ours": [ours for ours, _ in last],
        "last_score_peer": [peer for _, peer in last],
        "difference": asdict(difference),
        "time_ratio": statistics.median(ratios),
        "time_ratios": ratios,
        "reached": sum(value > 0 for value in ratios),
        "common": to_target(pairs, statistics.fmean(peer for _, peer in last)),
        "seeds": len(pairs),
    }


def to_target(pairs: Sequence[tuple[Run, Run]], target: float) -> dict[str, Any]:
    """Seconds that runs (ours, peer) needed to one score; None where it was not reached.

    `time_ratio` is the ratio of the medians of the peer's seconds and ours, a run that never
    reaches the score counting as infinitely long; None where that leaves it undefined.
    """
    ours, peer = ([seconds_to(pair[side], target) for pair in pairs] for side in (0, 1))
    middle = [
        statistics.median(math.inf if second is None else second for second in seconds)
        for seconds in (ours, peer)
    ]
    return {
        "target": target,
        "seconds_ours": ours,
        "seconds_peer": peer,
        "time_ratio": middle[1] / middle[0] if all(map(math.isfinite, middle)) else None,
    }


def paired(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """Held-out scores (ours, peer): means, their paired difference, KL.

    The difference's t interval is over seeds, whose prompts are averaged; of one seed it is over
    prompts, and says nothing about another seed. Empty without held-out scores.
    """
    import numpy as np

    from evals.stats import mean_estimate

    if not pairs or not pairs[0][0]:
        return {}
    scores = np.array([[side["score"] for side in pair] for pair in pairs])  # seed, side, prompt
    ours, peer = scores.mean(axis=2).T
    several = len(pairs) > 1
    differences = ours - peer if several else scores[0, 0] - scores[0, 1]
    return {
        "ours": float(ours.mean()),
        "peer": float(peer.mean()),
        "ours_by_seed": ours.tolist(),
        "peer_by_seed": peer.tolist(),
        "difference": asdict(mean_estimate(differences)),
        "over": "seeds" if several else "prompts",
        "kl_ours": float(np.mean([pair[0]["kl"] for pair in pairs])),
        "kl_peer": float(np.mean([pair[1]["kl"] for pair in pairs])),
    }
