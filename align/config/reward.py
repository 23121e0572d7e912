"""What a reward model's section may hold besides training: swaps, reference samples, ensembles."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from align.config.base import Positive, Section
from align.config.data import SourceConfig


class SwapConfig(Section):
    """Counterfactual augmentation: every pair again with words exchanged, label kept."""

    world: Literal["gender"] | None = None
    """Men's and women's names of the generated world."""
    path: str | None = None
    """File of two columns `a` and `b`, one exchange a row, relative to `data.root`."""
    words: tuple[tuple[str, str], ...] | None = None
    """The exchanges themselves, such as [[he, she], [man, woman]]."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [key for key in ("world", "path", "words") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"name exactly one of world, path, words (given: {given or 'none'})")
        return self


class ReferenceConfig(Section):
    """Samples whose scores are to have mean 0 and standard deviation 1."""

    data: SourceConfig | None = None
    """Dialogues or prompts with responses; the last answer of each is scored."""
    sampled: Positive | None = None
    """Instead: that many held-out prompts, answered by the model that the stage starts from."""
    max_new_tokens: Positive = 32
    """Longest sampled answer; best as `ppo.response_length`."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Of the sampling; best as `ppo.temperature`."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.data is None) == (self.sampled is None):
            raise ValueError("give exactly one of data and sampled")
        return self


class EnsembleConfig(Section):
    """Several reward models on one base that differ in the upper layers (see docs/rewards.md)."""

    k: Annotated[int, Field(ge=2, le=16)] = 4
    """Number of members."""
    combine: Literal["mean", "min", "mean_minus_std"] = "mean"
    """One score from the members': their mean, the lowest, or mean - coefficient * std."""
    coefficient: Annotated[float, Field(ge=0)] | None = None
    """Weight of the standard deviation; only with mean_minus_std, default 1."""
    layers: Positive | None = None
    """Upper layers that each member has for itself; default: as many as add at most 40 % to the
    layers computed, but at least 1."""
    bootstrap: bool = False
    """Train each member on a bootstrap sample of the pairs instead of all of them."""

    @model_validator(mode="after")
    def _coefficient_is_read(self) -> Self:
        if self.coefficient is not None and self.combine != "mean_minus_std":
            raise ValueError("coefficient is read with combine: mean_minus_std only")
        return self
