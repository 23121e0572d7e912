"""Scores from reward functions that follow TRL's convention."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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


class Scores(NamedTuple):
    """Weighted sum of all reward functions (B,), and what each said (B,), NaN where nothing.

    `spread` holds, for functions that keep one, how far its own judges disagreed (B,).
    """

    total: Tensor
    parts: dict[str, Tensor]
    spread: dict[str, Tensor]


def score_responses(
    functions: Sequence[RewardFunction],
    batch: PromptBatch,
    texts: Sequence[str],
    weights: Sequence[float] | None = None,
) -> Scores:
    """Score responses.

    Args:
        functions: Reward functions; one that has nothing to say of a response returns None for it
            and is left out of that response's sum.
        batch: The prompts with their columns.
        texts: One response a prompt.
        weights: Weight of each function; default 1.

    Raises:
        UserError: A function returns the wrong number of scores or one that is not finite, or no
            function scores a response.
    """
    completions = as_completions(batch.prompts, texts)
    parts: dict[str, Tensor] = {}
    spread: dict[str, Tensor] = {}
    for function in functions:
        scores = function(prompts=batch.prompts, completions=completions, **batch.columns)
        name = _free(name_of(function), parts)
        parts[name] = _checked(scores, len(texts), name_of(function))
        if isinstance(found := getattr(function, "spread", None), list):
            spread[name] = torch.tensor(found)
    each = torch.stack(list(parts.values()))
    silent = each.isnan().all(0).nonzero().flatten().tolist()
    if silent:
        raise UserError(f"no reward function scored response {silent[0]}: {texts[silent[0]]!r}")
    factors = torch.ones(len(functions)) if weights is None else torch.tensor(list(weights))
    return Scores((each.nan_to_num(0.0) * factors[:, None]).sum(0), parts, spread)


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


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """The name, with a number behind it where another function has the same."""
    names = (name if i == 1 else f"{name}_{i}" for i in itertools.count(1))
    return next(candidate for candidate in names if candidate not in taken)


def _checked(scores: Sequence[float | None], expected: int, name: str) -> Tensor:
    """Scores as a tensor with NaN for None, after checking their number and that all are finite."""
    if len(scores) != expected:
        raise UserError(
            f"reward function {name} gave {len(scores)} scores for {expected} responses"
        )
    for row, score in enumerate(scores):
        if score is not None and not math.isfinite(score):
            raise UserError(f"reward function {name} gave {score!r} for response {row}")
    return torch.tensor([math.nan if score is None else float(score) for score in scores])
