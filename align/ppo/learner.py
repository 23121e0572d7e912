"""Policy and critic as they learn: losses of a micro-batch, gradients of an optimizer batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from align.config import LoraConfig
from align.ppo.config import PPOConfig
from align.ppo.losses import PolicyLoss, ValueLoss, policy_loss, value_loss
from align.ppo.processes import Processes
from align.ppo.prompts import SHUFFLE, stream
from align.ppo.rollout import Rollout, response_hidden, state_values, token_statistics
from align.ppo.watch import Watch
from align.shared import SharedBase

if TYPE_CHECKING:
    from accelerate import Accelerator

PARTS = ("policy", "critic")
"""Adapters that train, each with gradients and a norm of its own."""


def add_parts(shared: SharedBase, args: PPOConfig, lora: LoraConfig) -> None:
    """Add the policy's fresh adapter, and the critic with its zero head."""
    folder = Path(args.critic_adapter) if args.critic_adapter else None
    shared.add_adapter("critic", lora, folder=folder, trainable=True, seed=args.seed + 1)
    shared.add_head("critic", trainable=True)
    shared.add_adapter("policy", lora, trainable=True, seed=args.seed)


@dataclass(frozen=True)
class Learner:
    """Gradients of both losses, on the micro-batches of a rollout.

    Attributes:
        shared: Base with the adapters `policy` and `critic` and the critic's head.
        args: PPO's arguments.
        accelerator: Runs backward passes and mixed precision.
    """

    shared: SharedBase
    args: PPOConfig
    accelerator: Accelerator

    @property
    def processes(self) -> Processes:
        """The processes that learn together."""
        return Processes(self.accelerator)

    def micro_batch(self, rollout: Rollout, update: int, within: int) -> tuple[Rollout, Tensor]:
        """A micro-batch, and the valid tokens of the optimizer batch it is part of.

        Args:
            rollout: This process's responses.
            update: Number of the update.
            within: Number of the micro-batch in the update; every epoch has another order.
        """
        args = self.args
        micro, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        epoch, position = divmod(within, args.num_mini_batches * accumulation)
        place = (SHUFFLE, args.process_index, update, epoch)
        order = torch.randperm(len(rollout), generator=stream(args.seed, *place))
        order = order.to(rollout.mask.device)
        batch = order.split(micro * accumulation)[position // accumulation]
        tokens = self.processes.sum(rollout.mask[batch].sum())
        return rollout.rows(order.split(micro)[position]), tokens

    def backward(self, part: Rollout, tokens: Tensor, watch: Watch) -> Tensor:
        """Add the gradients of one micro-batch; returns its loss.

        Args:
            part: The micro-batch.
            tokens: Valid tokens of the optimizer batch, over all processes.
            watch: Is told what happened.
        """
        with self.shared.active("policy"):
            policy, entropy = self._policy_loss(part, tokens)
            self.accelerator.backward(policy.loss)
        with self.shared.active("critic"):
            value = self._value_loss(part, tokens)
            self.accelerator.backward(self.args.vf_coef * value.loss)
        watch.policy(policy, entropy, part.mask.sum())
        watch.value(value)
        return policy.loss.detach() + self.args.vf_coef * value.loss.detach()

    def end_gradients(self, limit: float, watch: Watch) -> Tensor:
        """Sum the gradients of all processes, clip them, drop them if one is not finite.

        Policy and critic are clipped apart, so that a large value error cannot shrink the
        policy's step.

        Args:
            limit: Largest norm of each part's gradient.
            watch: Is told the norms.

        Returns:
            The norm of the policy's gradient before clipping.
        """
        parts = {part: self.shared.trainable_parameters(part) for part in PARTS}
        self.processes.sum_gradients([*parts["policy"], *parts["critic"]])
        self.accelerator.unscale_gradients()
        norms = {part: nn.utils.clip_grad_norm_(parts[part], limit) for part in PARTS}
        finite = all(bool(norm.isfinite()) for norm in norms.values())
        if not finite and self.accelerator.scaler is None:  # a scaler skips such steps itself
            self.shared.zero_grad(set_to_none=True)
        watch.step({part: float(norm) for part, norm in norms.items()})
        return norms["policy"]

    def _policy_loss(self, part: Rollout, tokens: Tensor) -> tuple[PolicyLoss, Tensor]:
        """The policy's loss and the sum of its entropies."""
        with self.accelerator.autocast():
            hidden = response_hidden(self.shared, part)
            found = token_statistics(self.shared, hidden, part, self.args.temperature)
        loss = policy_loss(
            found.logprobs, part.logprobs, part.advantages, part.mask, tokens, self.args.cliprange
        )
        return loss, found.entropy.sum()

    def _value_loss(self, part: Rollout, tokens: Tensor) -> ValueLoss:
        with self.accelerator.autocast():
            hidden = response_hidden(self.shared, part)
        values = state_values(self.shared, hidden)[:, :-1]
        return value_loss(
            values, part.values, part.returns, part.mask, tokens, self.args.cliprange_value
        )
