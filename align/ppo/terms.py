"""A score made of several reward functions: the terms of a weighted sum, each on its own scale.

    s = sum_i w_i z_i * (sum_i |w_i|) / (sum of |w_i| over the terms that speak)

z_i is what function i said, normalised and then clipped. A function that says None is left out, and
the others stand for it: 0 in its place would be a verdict. TRL adds 0 there (`nansum`). Where every
function says None there is no score (NaN), and the response is not trained on, as in TRL.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from align.errors import UserError
from align.ppo.advantages import Reduce, local
from align.ppo.scale import Normalisation, ScoreScale

RewardFunction = Callable[..., Sequence[float | None]]
"""`(prompts, completions, **columns) -> list[float | None]`, one number a response."""


class Moments(NamedTuple):
    """A fixed scale: the mean and standard deviation to normalise with."""

    mean: float
    std: float


@dataclass(frozen=True)
class RewardTerm:
    """A reward function with its place in the sum.

    Attributes:
        function: What scores.
        weight: Factor of the score; 0 only watches it.
        clip: The score is clipped to +- this, after normalisation.
        normalise: `none`; `reference` (mean 0, std 1 by the first update's responses), `running`
            (by all so far), or constants.
        name: In metrics and messages; default: the function's.
    """

    function: RewardFunction
    weight: float = 1.0
    clip: float | None = None
    normalise: Normalisation | Moments = "none"
    name: str = ""

    def scale(self) -> ScoreScale:
        """The scale this term starts with."""
        if isinstance(self.normalise, Moments):
            return ScoreScale.fixed(*self.normalise)
        return ScoreScale(self.normalise)

    @property
    def plain(self) -> bool:
        """Whether the score enters the sum as the function gave it."""
        return (self.weight, self.clip, self.normalise) == (1.0, None, "none")


def as_terms(
    functions: Sequence[RewardFunction | RewardTerm], weights: Sequence[float] | None = None
) -> list[RewardTerm]:
    """Terms under different names; functions become terms of weight 1.

    Args:
        functions: Reward functions and terms.
        weights: Factors of the terms' own weights; default 1.

    Raises:
        UserError: Every weight is 0.
    """
    terms: list[RewardTerm] = []
    for function, factor in zip(functions, weights or [1.0] * len(functions), strict=True):
        term = function if isinstance(function, RewardTerm) else RewardTerm(function)
        taken = {other.name for other in terms}
        name = _free(term.name or name_of(term.function), taken)
        terms.append(replace(term, weight=term.weight * factor, name=name))
    if not any(term.weight for term in terms):
        raise UserError("every reward function has weight 0", remedy="give one a weight")
    return terms


def combine(
    parts: Mapping[str, Tensor], terms: Sequence[RewardTerm], scales: Mapping[str, ScoreScale]
) -> Tensor:
    """The weighted sum of what the functions said.

    Args:
        parts: Name of each term -> (B,) raw scores, NaN where its function said nothing.
        terms: Weights and limits.
        scales: Name of each term -> its scale, which is only read.

    Returns:
        (B,) scores; NaN where no term with a weight says anything.
    """
    said = torch.stack([_on_scale(parts[term.name], term, scales[term.name]) for term in terms])
    weights = torch.tensor([term.weight for term in terms]).to(said)[:, None]
    there = torch.where(said.isnan(), 0.0, weights.abs())
    total = (weights * said.nan_to_num(0.0)).sum(0)
    # where all speak the factor is 1 exactly; where none does it is infinite, and 0 * inf is NaN
    return total * (weights.abs().sum() / there.sum(0))


def measure(
    parts: Mapping[str, Tensor], scales: Mapping[str, ScoreScale], reduce: Reduce = local
) -> None:
    """Let the scales that still learn see raw scores (B,) of this process."""
    for name, scale in scales.items():
        scale(parts[name], reduce)


def name_of(function: RewardFunction) -> str:
    """What a reward function is called in metrics and messages."""
    return str(getattr(function, "__name__", type(function).__name__))


def signature_of(term: RewardTerm) -> dict[str, Any]:
    """What a run records of a term: name, signature of the function, weight, clip, normalise."""
    written = term.normalise._asdict() if isinstance(term.normalise, Moments) else term.normalise
    return {
        "name": term.name,
        "signature": str(getattr(term.function, "signature", name_of(term.function))),
        "weight": term.weight,
        "clip": term.clip,
        "normalise": written,
    }


def _on_scale(scores: Tensor, term: RewardTerm, scale: ScoreScale) -> Tensor:
    """Scores (B,) normalised and clipped."""
    scores = scale.normalised(scores)
    limit = math.inf if term.clip is None else term.clip
    return scores.clamp(-limit, limit)


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where another function has the same."""
    names = (name if i == 1 else f"{name}_{i}" for i in itertools.count(1))
    return next(candidate for candidate in names if candidate not in taken)
