"""PPO's losses (Schulman 2017, 1707.06347) as pure functions.

Each loss is a sum over the masked tokens divided by `tokens`, the number of valid tokens of the
whole optimizer batch over all processes, so that micro-batches and processes add up to the gradient
of one large batch. Shapes: B batch, T response length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from align.ppo.advantages import Reduce, local, masked_moments, masked_sum


class PolicyLoss(NamedTuple):
    """The policy's loss and, detached, sums over the masked tokens of what is watched."""

    loss: Tensor
    clipped: Tensor
    approx_kl: Tensor
    ratio: Tensor
    ratio_max: Tensor


class ValueLoss(NamedTuple):
    """The critic's loss and, detached, the number of clipped tokens."""

    loss: Tensor
    clipped: Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    tokens: Tensor | float,
    clip: float,
) -> PolicyLoss:
    """Clipped surrogate objective, eq. 7 of the paper with the sign of a loss.

        ratio = exp(log pi - log pi_old)
        loss  = sum max(-A * ratio, -A * clip(ratio, 1 - clip, 1 + clip)) / tokens

    Args:
        logprobs: (B, T) of the policy being trained.
        old_logprobs: (B, T) of the policy that sampled, no gradient.
        advantages: (B, T), no gradient.
        mask: (B, T) bool.
        tokens: Valid tokens of the whole optimizer batch.
        clip: Half width of the trust interval around ratio 1.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    ratio = torch.exp(log_ratio)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    loss = masked_sum(torch.maximum(unclipped, clipped), mask) / tokens
    with torch.no_grad():
        return PolicyLoss(
            loss,
            clipped=((clipped > unclipped) & mask).sum(),
            # k2 of the old policy's tokens: a cheap measure of how far the policy has moved
            approx_kl=masked_sum(log_ratio**2 / 2, mask),
            ratio=masked_sum(ratio, mask),
            ratio_max=torch.where(mask, ratio, 0.0).max(),
        )


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    tokens: Tensor | float,
    clip: float,
) -> ValueLoss:
    """Squared error with the new value kept near the old one.

        loss = sum 0.5 * max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2) / tokens

    Args:
        values: (B, T) of the critic being trained.
        old_values: (B, T) when the responses were sampled, no gradient.
        returns: (B, T), no gradient.
        mask: (B, T) bool.
        tokens: Valid tokens of the whole optimizer batch.
        clip: Most a value may move from the old one before its gradient stops.
    """
    near = torch.maximum(torch.minimum(values, old_values + clip), old_values - clip)
    # masked before the square, whose gradient at NaN is NaN
    unclipped = torch.where(mask, values - returns, 0.0) ** 2
    clipped = torch.where(mask, near - returns, 0.0) ** 2
    loss = masked_sum(0.5 * torch.maximum(unclipped, clipped), mask) / tokens
    return ValueLoss(loss, ((clipped > unclipped) & mask).sum())


def explained_variance(
    values: Tensor, returns: Tensor, mask: Tensor, reduce: Reduce = local
) -> Tensor:
    """1 - Var(R - V) / Var(R) over the masked tokens; 0 where the returns do not vary."""
    _, variance = masked_moments(returns, mask, reduce)
    _, error = masked_moments(returns - values, mask, reduce)
    return torch.where(variance > 1e-12, 1 - error / variance.clamp_min(1e-12), 0.0)
