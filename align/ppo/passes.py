"""Forward passes of policy, reference and critic over the responses of a rollout."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from align.ppo.rollout import Rollout
from align.ppo.vocabulary import TokenStatistics, token_statistics
from align.shared import SharedBase


class PolicyPass(NamedTuple):
    """What one pass of the policy says about a rollout, float32.

    `logprobs` and `entropy` (nats) are (B, T) and 0 in padding; `values` (B, T + 1) are there where
    the critic is a head on the policy's trunk.
    """

    logprobs: Tensor
    entropy: Tensor
    values: Tensor | None


@dataclass(frozen=True)
class Passes:
    """The parts at work on given responses; every pass puts its own part in force.

    Attributes:
        shared: Base with the parts `policy`, `critic` and perhaps `reference`.
        temperature: Of every log-probability, as in sampling.
        autocast: Context of the passes (mixed precision).
    """

    shared: SharedBase
    temperature: float
    autocast: Callable[[], AbstractContextManager[None]]

    @property
    def critic_on_policy(self) -> bool:
        """Whether the critic is only a head, which reads the policy's trunk."""
        return not self.shared.has_part("critic")

    def policy(
        self, rollout: Rollout, *, train_entropy: bool = False, train_trunk: bool = True
    ) -> PolicyPass:
        """The policy's pass; with `train_trunk` off, the critic's head alone gets its gradient."""

        def work() -> PolicyPass:
            hidden = response_hidden(self.shared, rollout)
            found = response_statistics(
                self.shared, hidden, rollout, self.temperature, train_entropy=train_entropy
            )
            values = None
            if self.critic_on_policy:
                values = state_values(self.shared, hidden if train_trunk else hidden.detach())
            return PolicyPass(found.logprobs, found.entropy, values)

        with self.shared.active("policy"), self.autocast():
            return self.shared(work)  # type: ignore[no-any-return]

    def reference(self, rollout: Rollout) -> Tensor:
        """The reference's log-probabilities (B, T)."""

        def work() -> Tensor:
            hidden = response_hidden(self.shared, rollout)
            return response_statistics(self.shared, hidden, rollout, self.temperature).logprobs

        with self.shared.active(self.shared.reference), self.autocast():
            return self.shared(work)  # type: ignore[no-any-return]

    def critic(self, rollout: Rollout) -> Tensor:
        """Values (B, T + 1) of a critic that is a part of its own."""

        def work() -> Tensor:
            return state_values(self.shared, response_hidden(self.shared, rollout))

        with self.shared.active("critic"), self.autocast():
            return self.shared(work)  # type: ignore[no-any-return]


def response_hidden(shared: SharedBase, rollout: Rollout) -> Tensor:
    """Hidden states of the prompt's last and all response positions under the active part.

    Returns:
        (B, T + 1, H): entry t is the state before response token t; the last one is the state
        after the whole response.
    """
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)
    mask = torch.cat([rollout.prompt_mask, rollout.mask], dim=1)
    return shared.hidden(ids, mask.long())[:, rollout.prompt_ids.shape[1] - 1 :]


def response_statistics(
    shared: SharedBase,
    hidden: Tensor,
    rollout: Rollout,
    temperature: float,
    *,
    train_entropy: bool = False,
) -> TokenStatistics:
    """Log-probability and entropy of each response token at the sampling temperature.

    The vocabulary head, which can cost more than the trunk, runs on the masked tokens alone.

    Args:
        shared: The base whose vocabulary head is applied.
        hidden: (B, T + 1, H) of `response_hidden`.
        rollout: Response ids and mask.
        temperature: Divides the logits, as in sampling.
        train_entropy: Whether the entropy has a gradient.

    Returns:
        (B, T) each, 0 in padding.
    """
    mask = rollout.mask
    found = token_statistics(
        shared.vocabulary_head,
        hidden[:, :-1][mask],
        rollout.response_ids[mask],
        temperature,
        train_entropy=train_entropy,
    )
    return TokenStatistics(*(_on_mask(values, mask) for values in found))


def state_values(shared: SharedBase, hidden: Tensor) -> Tensor:
    """The critic's value of every state: (B, T + 1) float32 from hidden (B, T + 1, H)."""
    with torch.autocast(hidden.device.type, enabled=False):
        # a sum over one column: FSDP wants no views from what it wraps
        values: Tensor = shared.heads["critic"](hidden.float()).sum(-1)
    return values


def _on_mask(values: Tensor, mask: Tensor) -> Tensor:
    """Values (N,) put back to their masked places (B, T), 0 elsewhere."""
    return torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values)
