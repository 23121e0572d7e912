"""Advantages and the masked statistics they need, as pure functions.

Shapes: B batch, T response length. Every mask is (B, T) bool, True on the response's tokens up to
and including EOS; it travels with the data and nothing here looks at token ids. What stands in
padding never matters and comes back as 0. Sums over all processes go through `reduce`, the identity
by default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]


def local(total: Tensor) -> Tensor:
    """The reduction of a single process: the identity."""
    return total


class Advantages(NamedTuple):
    """Advantages and the returns they came from, both (B, T) and 0 in padding."""

    advantages: Tensor
    returns: Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the masked entries; what stands elsewhere (even NaN) does not count."""
    return torch.where(
        mask, values, torch.zeros((), dtype=values.dtype, device=values.device)
    ).sum()


def masked_mean(values: Tensor, mask: Tensor, reduce: Reduce = local) -> Tensor:
    """Mean over the masked entries of all processes.

    Args:
        values: (B, T).
        mask: (B, T) bool.
        reduce: Sums a tensor over all processes.

    Returns:
        Scalar; 0 where the mask is empty.
    """
    sums = reduce(torch.stack([masked_sum(values, mask), mask.sum().to(values.dtype)]))
    return sums[0] / sums[1].clamp_min(1)


def masked_moments(values: Tensor, mask: Tensor, reduce: Reduce) -> tuple[Tensor, Tensor]:
    """Mean and population variance over the masked entries of all processes, two scalars."""
    mean = masked_mean(values, mask, reduce)
    return mean, masked_mean((values - mean) ** 2, mask, reduce)


def whiten(values: Tensor, mask: Tensor, reduce: Reduce = local) -> Tensor:
    """Shift and scale to mean 0 and variance 1: (x - mean) * rsqrt(var + 1e-8).

    The variance is the population's (divided by n) over all processes (2403.17031, detail 15).

    Returns:
        (B, T), 0 in padding.
    """
    mean, variance = masked_moments(values, mask, reduce)
    return torch.where(mask, (values - mean) * torch.rsqrt(variance + 1e-8), 0.0)


def scale_to_unit_variance(values: Tensor, mask: Tensor, reduce: Reduce = local) -> Tensor:
    """Scale to variance 1 and keep the mean: (x - mean) * rsqrt(var + 1e-8) + mean.

    Meant for rewards, whose sign carries meaning (Ziegler 2019, "whiten with shift_mean=False").

    Returns:
        (B, T), 0 in padding.
    """
    mean, variance = masked_moments(values, mask, reduce)
    return torch.where(mask, (values - mean) * torch.rsqrt(variance + 1e-8) + mean, 0.0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation (Schulman 2016, 1506.02438, eq. 16).

        delta_t = r_t + gamma * V_{t+1} - V_t          with V = 0 after the last token
        A_t     = delta_t + gamma * lam * A_{t+1}
        R_t     = A_t + V_t

    Args:
        rewards: (B, T) reward a token.
        values: (B, T) value of the state before each token.
        mask: (B, T) bool, a prefix of every row.
        gamma: Discount.
        lam: 1 gives the Monte-Carlo return minus V, 0 the one-step TD error.

    Returns:
        Advantages (not whitened) and returns, (B, T) each.
    """
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    rewards, values = torch.where(mask, rewards, zero), torch.where(mask, values, zero)
    advantages = torch.zeros_like(values)
    following_value = torch.zeros_like(values[:, 0])
    following_advantage = torch.zeros_like(values[:, 0])
    for t in range(values.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        following_advantage = torch.where(
            mask[:, t], delta + gamma * lam * following_advantage, zero
        )
        advantages[:, t] = following_advantage
        following_value = values[:, t]
    return Advantages(advantages, torch.where(mask, advantages + values, zero))
