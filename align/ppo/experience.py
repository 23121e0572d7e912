"""From scores and measurements to the advantages that a rollout is trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from align.ppo.advantages import Reduce, gae, local, scale_to_unit_variance, whiten
from align.ppo.rewards import (
    Truncation,
    bootstrap_rewards,
    kl_estimates,
    token_rewards,
    truncation_scores,
)
from align.ppo.rollout import Rollout
from align.ppo.watch import rollout_metrics


class Shaping(Protocol):
    """The settings that turn scores into advantages; `PPOConfig` has them."""

    gamma: float
    lam: float
    whiten_rewards: bool
    score_clip: float | None
    truncation: Truncation
    truncation_penalty: float


@dataclass(frozen=True)
class PlainShaping:
    """Shaping settings without a trainer's arguments, for tests and other loops."""

    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    score_clip: float | None = None
    truncation: Truncation = "penalty"
    truncation_penalty: float = 1.0


def collect(
    measured: Rollout,
    scores: Tensor,
    beta: float,
    shaping: Shaping,
    reduce: Reduce = local,
    scaled: Tensor | None = None,
) -> tuple[Rollout, dict[str, float]]:
    """Fill in rewards, advantages and returns.

    Args:
        measured: Rollout with log-probabilities, and values (B, T + 1) of every state.
        scores: (B,) raw scores; NaN leaves a response out of training.
        beta: Weight of the KL penalty.
        shaping: Clipping, truncation rule, discount and lambda.
        reduce: Sums a tensor over all processes.
        scaled: (B,) scores to train on, where they are not the raw ones.

    Returns:
        The rollout with values (B, T), and its metrics. Returns are computed before whitening.
    """
    scores = scores.to(measured.mask.device)
    used = (scores if scaled is None else scaled.to(scores)).nan_to_num(0.0)
    # a response without a score teaches nothing: none of its tokens counts
    measured = replace(measured, mask=measured.mask & ~scores.isnan()[:, None])
    rewards = _rewards(measured, used, beta, shaping, reduce)
    values = measured.values[:, :-1]
    advantages, returns = gae(rewards, values, measured.mask, shaping.gamma, shaping.lam)
    rollout = replace(
        measured,
        values=values,
        advantages=whiten(advantages, measured.mask, reduce),
        returns=returns,
        scores=scores,
    )
    return rollout, rollout_metrics(rollout, rewards, reduce)


def _rewards(
    measured: Rollout, scores: Tensor, beta: float, shaping: Shaping, reduce: Reduce
) -> Tensor:
    """Rewards (B, T): clipped and truncation-aware score at the end, minus beta * k1 a token."""
    if shaping.score_clip is not None:
        scores = scores.clamp(-shaping.score_clip, shaping.score_clip)
    scores = truncation_scores(
        scores, measured.finished, shaping.truncation, shaping.truncation_penalty
    )
    k1 = kl_estimates(measured.logprobs, measured.reference).k1
    rewards = token_rewards(scores, k1, measured.mask, beta)
    if shaping.truncation == "bootstrap":
        lengths = measured.mask.sum(-1, keepdim=True)
        cut = measured.values.gather(1, lengths).squeeze(1)
        rewards = bootstrap_rewards(rewards, measured.finished, cut, measured.mask, shaping.gamma)
    if shaping.whiten_rewards:
        rewards = scale_to_unit_variance(rewards, measured.mask, reduce)
    return rewards
