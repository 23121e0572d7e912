"""Normalised scores: a scale of mean 0 and standard deviation 1 that PPO keeps for itself.

A raw score's zero and unit are arbitrary; the weight of the KL penalty means the same for every
reward only on a fixed scale (Ziegler 2019; 2403.17031, detail 4). Raw scores are what is logged.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from align.ppo.advantages import Reduce, local

Normalisation = Literal["none", "reference", "running"]


@dataclass
class ScoreScale:
    """Mean and standard deviation of the scores seen.

    Attributes:
        kind: `none` leaves scores alone. `reference` measures the first update's responses, which
            the reference wrote because the policy still equals it, and stays. `running` measures
            all responses so far.
        n: Number of scores measured.
        mean: Their mean.
        squares: Sum of their squared differences from the mean.
    """

    kind: Normalisation = "none"
    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def fixed(cls, mean: float, std: float) -> Self:
        """A scale that was measured elsewhere and stays."""
        return cls("reference", 1, mean, std**2)

    def __call__(self, scores: Tensor, reduce: Reduce = local) -> Tensor:
        """Measure scores (B,) if this kind still does, and normalise them.

        Args:
            scores: (B,) raw scores of this process; NaN where there is none.
            reduce: Sums a tensor over all processes.
        """
        if self.kind == "running" or (self.kind == "reference" and self.n == 0):
            self._measure(scores, reduce)
        return self.normalised(scores)

    def normalised(self, scores: Tensor) -> Tensor:
        """Scores (B,) on the scale as it stands; as they are where nothing was measured yet."""
        if self.kind == "none" or self.n == 0:
            return scores
        std: float = math.sqrt(self.squares / self.n)
        # scores that were all equal have no unit: the next ones are shifted, not blown up
        return (scores - self.mean) / (std if std > 1e-8 else 1.0)

    def state(self) -> dict[str, float | int | str]:
        """What a checkpoint holds."""
        return asdict(self)

    def _measure(self, scores: Tensor, reduce: Reduce) -> None:
        """Join the moments of all processes' scores to those seen (Chan 1979, eq. 2.1)."""
        exact = scores[~scores.isnan()].double()
        n, total = reduce(torch.stack([torch.ones_like(exact).sum(), exact.sum()])).tolist()
        mean = total / max(n, 1)
        squares = float(reduce(((exact - mean) ** 2).sum()))
        if n == 0:
            return
        both = self.n + n
        self.squares += squares + (mean - self.mean) ** 2 * self.n * n / both
        self.mean += (mean - self.mean) * n / both
        self.n = int(both)
