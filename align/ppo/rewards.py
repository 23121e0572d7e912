"""From scores to rewards: the KL penalty, cut responses and the adaptive coefficient.

A score is one number a response; a reward is a number a token. The KL penalty is part of the reward
(Ziegler 2019, 1909.08593), with the estimators of Schulman's note "Approximating KL divergence".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Truncation = Literal["penalty", "replace", "bootstrap", "none"]


class KLEstimates(NamedTuple):
    """Per-token estimates of KL(policy || reference), (B, T) each."""

    k1: Tensor
    k2: Tensor
    k3: Tensor


def kl_estimates(logprobs: Tensor, reference: Tensor) -> KLEstimates:
    """Three estimators of the KL divergence from samples of the policy.

        d = log pi - log ref
        k1 = d              unbiased, any sign
        k2 = d^2 / 2        low variance, biased
        k3 = exp(-d) - 1 + d    unbiased, never negative (d clamped to +-20 before exp)

    Args:
        logprobs: (B, T) of the policy that sampled.
        reference: (B, T) of the reference.
    """
    difference = logprobs - reference
    clamped = difference.clamp(-20, 20)
    # expm1: for small d, exp(-d) - 1 + d rounds to less than 0
    k3 = (torch.expm1(-clamped) + clamped).clamp_min(0)
    return KLEstimates(difference, difference**2 / 2, k3)


def token_rewards(scores: Tensor, k1: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards whose sum over a response is score - beta * (sum of k1).

        r_t = -beta * k1_t + [t is the last token] * score

    Args:
        scores: (B,) one score a response.
        k1: (B, T) log pi - log ref of the sampled tokens.
        mask: (B, T) bool, a prefix of every row; a row with no token gets no reward.
        beta: Weight of the KL penalty.

    Returns:
        (B, T), 0 in padding.
    """
    rewards = torch.where(mask, -beta * k1, torch.zeros((), dtype=k1.dtype, device=k1.device))
    lengths = mask.sum(-1)
    rows = torch.nonzero(lengths > 0).squeeze(-1)
    rewards[rows, lengths[rows] - 1] += scores[rows].to(rewards.dtype)
    return rewards


def truncation_scores(
    scores: Tensor, finished: Tensor, policy: Truncation, penalty: float
) -> Tensor:
    """Scores after the rule for responses that were cut off without EOS.

    Args:
        scores: (B,) raw scores.
        finished: (B,) bool, whether the response ended by itself.
        policy: `penalty` subtracts `penalty`; `replace` puts `-penalty` in the score's place;
            `bootstrap` and `none` leave it (bootstrap adds the cut state's value to the rewards).
        penalty: Not negative.
    """
    if policy == "penalty":
        return torch.where(finished, scores, scores - penalty)
    if policy == "replace":
        return torch.where(finished, scores, torch.full_like(scores, -penalty))
    return scores


def bootstrap_rewards(
    rewards: Tensor, finished: Tensor, cut_values: Tensor, mask: Tensor, gamma: float
) -> Tensor:
    """Add gamma * V(state after the cut) to the last reward of every unfinished response.

    Args:
        rewards: (B, T).
        finished: (B,) bool.
        cut_values: (B,) value of the state after the last token.
        mask: (B, T) bool.
        gamma: Discount.
    """
    rows = torch.nonzero(~finished & mask.any(-1)).squeeze(-1)
    rewards = rewards.clone()
    rewards[rows, mask.sum(-1)[rows] - 1] += gamma * cut_values[rows]
    return rewards


@dataclass
class AdaptiveKL:
    """Proportional controller of beta (Ziegler 2019, section 2.2).

        e    = clip((KL - target) / target, -.2, .2)
        beta = beta * (1 + e * n / horizon)

    Attributes:
        beta: Weight of the KL penalty; its state, saved in checkpoints.
        target: Wanted KL in nats a response; None keeps beta fixed.
        horizon: Number of responses over which beta adapts.
    """

    beta: float
    target: float | None = None
    horizon: float = 10_000

    def update(self, kl: float, n: int) -> None:
        """Move beta after `n` responses with mean KL `kl` (nats a response)."""
        if self.target is None:
            return
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.beta *= 1 + error * n / self.horizon
