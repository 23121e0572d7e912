"""Whether two evaluations of the same items found the same, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from workers.eval_work import Outcome

NATS = 1e-4
"""Most that two log-likelihoods may differ by."""
RELATIVE = 1e-6
"""Most that two metrics may differ by, as a part of them; and the log-likelihoods of documents,
sums of thousands of tokens that the harness takes in float32."""
PERPLEXITY = 1e-5
"""The same for perplexities: their logarithm is a mean of log-likelihoods, which float32 moves."""


class Parity(NamedTuple):
    """What two outcomes of the same part have in common."""

    items: int
    prompts: int
    """Items asked differently."""
    texts: int
    """Generated answers that differ."""
    nats: float
    """Largest difference of two log-likelihoods."""
    beyond: int
    """Log-likelihoods that differ by more than is allowed."""
    metrics: float
    """Largest difference of a metric, as a part of the peer's."""
    wrong: int
    """Metrics that differ by more than is allowed."""

    @property
    def equal(self) -> bool:
        """Nothing differs by more than is allowed."""
        return not (self.prompts or self.texts or self.beyond or self.wrong)


def parity(ours: Outcome, peer: Outcome) -> Parity:
    """Compare two outcomes; metrics that one side alone has are not compared.

    Raises:
        ValueError: They have other items, or no metric in common.
    """
    common = ours.metrics.keys() & peer.metrics.keys()
    if not common:
        raise ValueError(f"no metric in common: {list(ours.metrics)}, {list(peer.metrics)}")
    a, b = _flat(ours.loglikelihoods), _flat(peer.loglikelihoods)
    gaps = np.abs(a - b)
    moved = {name: _part(ours.metrics[name], peer.metrics[name]) for name in common}
    return Parity(
        items=max(len(ours.loglikelihoods), len(ours.texts)),
        prompts=_unequal(ours.prompts, peer.prompts),
        texts=_unequal(ours.texts, peer.texts),
        nats=float(gaps.max(initial=0)),
        beyond=int((gaps > np.maximum(NATS, RELATIVE * np.abs(b))).sum()),
        metrics=max(moved.values()),
        wrong=sum(gap > _allowed(name) for name, gap in moved.items()),
    )


def together(parts: Sequence[Parity]) -> Parity:
    """Parts of one task: counts add up, of differences the largest counts."""
    items, prompts, texts, nats, beyond, metrics, wrong = zip(*parts, strict=True)
    counts = (sum(items), sum(prompts), sum(texts), max(nats), sum(beyond))
    return Parity(*counts, max(metrics), sum(wrong))


def mean_metrics(sizes: Sequence[int], metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metrics of parts as one, weighted by items: right for means, so only those have parts."""
    return {
        name: sum(n * found[name] for n, found in zip(sizes, metrics, strict=True)) / sum(sizes)
        for name in metrics[0]
    }


def _unequal(ours: Sequence[str], peer: Sequence[str]) -> int:
    """Texts that differ."""
    return sum(a != b for a, b in zip(ours, peer, strict=True))


def _allowed(metric: str) -> float:
    """Most that a metric may differ by."""
    return PERPLEXITY if "perplexity" in metric else RELATIVE


def _flat(rows: Sequence[Sequence[float]]) -> Any:
    """All numbers in a row."""
    return np.array([value for row in rows for value in row], dtype=np.float64)


def _part(ours: float, peer: float) -> float:
    """Difference as a part of the peer's; 0 for equal numbers, 0 and 0 among them."""
    return abs(ours - peer) / max(abs(peer), 1e-12) if ours != peer else 0.0
