"""Scores from reward functions that follow TRL's convention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from align.errors import UserError
from align.ppo.prompts import Prompt, PromptBatch

RewardFunction = Callable[..., Sequence[float | None]]
"""`(prompts, completions, **columns) -> list[float]`, one number a response."""


def as_completions(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Any]:
    """Completions in the form of their prompts: text, or one assistant message."""
    return [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def score_responses(
    functions: Sequence[RewardFunction], batch: PromptBatch, texts: Sequence[str]
) -> Tensor:
    """The sum of all reward functions: (B,) float32.

    Args:
        functions: Reward functions.
        batch: The prompts with their columns.
        texts: One response a prompt.

    Raises:
        UserError: A function returns the wrong number of scores or one that is not finite.
    """
    total = torch.zeros(len(texts))
    completions = as_completions(batch.prompts, texts)
    for function in functions:
        scores = function(prompts=batch.prompts, completions=completions, **batch.columns)
        total += _checked(scores, len(texts), name_of(function))
    return total


def sample_rows(
    batch: PromptBatch, texts: Sequence[str], scores: Tensor, update: int, n: int = 4
) -> list[dict[str, Any]]:
    """The first `n` responses of the policy after `update` updates, for people to read."""
    return [
        {"update": update, "prompt": prompt, "response": text, "score": float(score)}
        for prompt, text, score in zip(batch.prompts[:n], texts, scores, strict=False)
    ]


def name_of(function: RewardFunction) -> str:
    """What a reward function is called in metrics and messages."""
    return str(getattr(function, "__name__", type(function).__name__))


def _checked(scores: Sequence[float | None], expected: int, name: str) -> Tensor:
    """Scores as a tensor, after checking their number and that each is finite."""
    if len(scores) != expected:
        raise UserError(
            f"reward function {name} gave {len(scores)} scores for {expected} responses"
        )
    for row, score in enumerate(scores):
        if score is None or not math.isfinite(score):
            raise UserError(f"reward function {name} gave {score!r} for response {row}")
    return torch.tensor([float(score) for score in scores if score is not None])
