"""Scores from reward functions that follow TRL's convention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from align.errors import UserError
from align.ppo.prompts import Prompt, PromptBatch
from align.ppo.scale import ScoreScale
from align.ppo.terms import RewardFunction, RewardTerm, as_terms, combine


def as_completions(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Any]:
    """Completions in the form of their prompts: text, or one assistant message."""
    return [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, texts, strict=True)
    ]


class Scores(NamedTuple):
    """Combined scores (B,), and what each function said (B,); NaN where nothing was said.

    `spread` holds, for functions that keep one, how far its own judges disagreed (B,).
    """

    total: Tensor
    parts: dict[str, Tensor]
    spread: dict[str, Tensor]


def score_responses(
    functions: Sequence[RewardFunction | RewardTerm],
    batch: PromptBatch,
    texts: Sequence[str],
    weights: Sequence[float] | None = None,
    scales: Mapping[str, ScoreScale] | None = None,
) -> Scores:
    """Score responses.

    Args:
        functions: Reward functions and terms; a function that has nothing to say of a response
            returns None for it and is left out of that response's sum (`align.ppo.terms`).
        batch: The prompts with their columns.
        texts: One response a prompt.
        weights: Weight of each function; default 1.
        scales: Name of each term -> its scale; default: those the terms start with.

    Raises:
        UserError: A function fails, returns the wrong number of scores or one that is not a finite
            number, or no function scores any response.
    """
    terms = as_terms(functions, weights)
    scales = scales or {term.name: term.scale() for term in terms}
    parts = {term.name: ask(term, batch, texts) for term in terms}
    total = combine(parts, terms, scales)
    if total.isnan().all():
        raise UserError(f"no reward function scored any response, such as {texts[0]!r}")
    return Scores(total, parts, spread_of(terms))


def ask(term: RewardTerm, batch: PromptBatch, texts: Sequence[str]) -> Tensor:
    """What one function says (B,), NaN for None.

    Raises:
        UserError: It fails, or what it returns is not one finite number or None a response.
    """
    completions = as_completions(batch.prompts, texts)
    try:
        found = term.function(prompts=batch.prompts, completions=completions, **batch.columns)
    except UserError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise _failure(term, batch, completions, error) from error
    return _checked(found, texts, term.name)


def spread_of(terms: Sequence[RewardTerm]) -> dict[str, Tensor]:
    """How far the judges of each function that keeps a `spread` disagreed when last asked (B,)."""
    found = {term.name: getattr(term.function, "spread", None) for term in terms}
    return {name: torch.tensor(own) for name, own in found.items() if isinstance(own, list)}


def sample_rows(
    batch: PromptBatch, texts: Sequence[str], scores: Tensor, update: int, n: int = 4
) -> list[dict[str, Any]]:
    """The first `n` responses of the policy after `update` updates, for people to read."""
    return [
        {"update": update, "prompt": prompt, "response": text, "score": score}
        for prompt, text, score in zip(batch.prompts[:n], texts, said(scores), strict=False)
    ]


def said(scores: Tensor) -> list[float | None]:
    """Scores as a list, None where nothing was said."""
    return [None if math.isnan(score) else score for score in scores.tolist()]


def _failure(
    term: RewardTerm, batch: PromptBatch, completions: Sequence[Any], error: Exception
) -> UserError:
    """The error that names the function and the first sample on which it fails by itself."""
    where, reason = f"all {len(completions)} responses together", error
    for row, completion in enumerate(completions):
        columns = {name: values[row : row + 1] for name, values in batch.columns.items()}
        try:
            term.function(prompts=batch.prompts[row : row + 1], completions=[completion], **columns)
        except Exception as alone:  # as above
            where = f"response {row} {completion!r} to the prompt {batch.prompts[row]!r}"
            reason = alone
            break
    return UserError(
        f"reward function {term.name} failed on {where} ({type(reason).__name__}: {reason})"
    )


def _checked(scores: Any, texts: Sequence[str], name: str) -> Tensor:
    """Scores as a tensor with NaN for None, after checking their number and that all are finite."""
    if not hasattr(scores, "__len__") or len(scores) != len(texts):
        count = len(scores) if hasattr(scores, "__len__") else type(scores).__name__
        raise UserError(f"reward function {name} gave {count} scores for {len(texts)} responses")
    for row, score in enumerate(scores):
        if score is not None and not _is_finite(score):
            raise UserError(
                f"reward function {name} gave {score!r} for response {row} {texts[row]!r}",
                allowed="finite numbers, or None",
            )
    return torch.tensor([math.nan if score is None else float(score) for score in scores])


def _is_finite(score: Any) -> bool:
    """Whether something is a finite number."""
    try:
        return math.isfinite(score)
    except (TypeError, ValueError):
        return False
