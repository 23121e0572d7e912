"""Policy and critic as they learn: losses of a micro-batch, gradients of an optimizer batch."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from align.ppo.config import PPOConfig
from align.ppo.losses import policy_loss, value_loss
from align.ppo.parts import PARTS
from align.ppo.passes import Passes, PolicyPass
from align.ppo.pretraining import TextSet, text_loss
from align.ppo.processes import Processes
from align.ppo.prompts import SHUFFLE, stream
from align.ppo.rollout import Rollout
from align.ppo.watch import Watch

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class Learner:
    """Gradients of all losses, on the micro-batches of a rollout.

    Attributes:
        passes: Policy and critic.
        args: PPO's arguments.
        accelerator: Runs backward passes and mixed precision.
        texts: Pretraining text for the PTX loss.
        stopped: Whether the rest of this update is left out (`early_stop_kl`).
    """

    passes: Passes
    args: PPOConfig
    accelerator: Accelerator
    texts: TextSet | None = None
    stopped: bool = field(default=False, init=False)

    @property
    def processes(self) -> Processes:
        """The processes that learn together."""
        return Processes(self.accelerator)

    def micro_batch(self, rollout: Rollout, update: int, within: int) -> tuple[Rollout, Tensor]:
        """A micro-batch, and the valid tokens of the optimizer batch it is part of.

        Every epoch has another order; within an optimizer batch, responses of like length share a
        micro-batch, which changes the padding and not the gradient.

        Args:
            rollout: This process's responses.
            update: Number of the update.
            within: Number of the micro-batch in the update.
        """
        args = self.args
        micro, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
        epoch, position = divmod(within, args.num_mini_batches * accumulation)
        place = (SHUFFLE, args.process_index, update, epoch)
        order = torch.randperm(len(rollout), generator=stream(args.seed, *place))
        index = order.to(rollout.mask.device).split(micro * accumulation)[position // accumulation]
        batch = rollout.rows(index)
        tokens = self.processes.sum(batch.mask.sum()).clamp_min(1)
        return batch.rows(batch.by_length(micro)[position % accumulation]), tokens

    def backward(self, part: Rollout, tokens: Tensor, update: int, watch: Watch) -> Tensor:
        """Add the gradients of one micro-batch; returns its loss.

        Args:
            part: The micro-batch.
            tokens: Valid tokens of the optimizer batch, over all processes.
            update: Number of the update; the first ones may train the critic alone.
            watch: Is told what happened.
        """
        if self.stopped:
            return torch.zeros((), device=part.mask.device)
        warming = update < self.args.critic_warmup_updates
        total = self._policy_step(part, tokens, watch, warming=warming)
        if not self.passes.critic_on_policy:
            with self.passes.shared.active("critic"), self.passes.shared.recomputing():
                values = self.passes.critic(part)
                total += self._backward(self._value_loss(values, part, tokens, watch))
        return total

    def text_step(self, micro_step: int, watch: Watch) -> None:
        """Add the gradient of the PTX loss on one micro-batch of pretraining text.

        Args:
            micro_step: Number of the micro-step in the whole training.
            watch: Is told the loss.
        """
        if self.texts is None or self.stopped:
            return
        size = self.args.per_device_train_batch_size
        accumulation = self.args.gradient_accumulation_steps
        place = (
            self.args.process_index,
            self.processes.count,
            micro_step - micro_step % accumulation,
        )
        parts = [
            self.texts.batch(place[2] + i, size, place[0], place[1], self.args.seed)
            for i in range(accumulation)
        ]
        counted = sum(len(ids) - 1 for part in parts for ids in part)
        device = self.passes.shared.device
        tokens = self.processes.sum(torch.tensor(counted, device=device))
        with self.passes.shared.active("policy"), self.passes.shared.recomputing():
            loss = text_loss(self.passes, parts[micro_step % accumulation], tokens)
            watch.text(self._backward(self.args.ptx_coef * loss) / self.args.ptx_coef)

    def end_gradients(self, limit: float, watch: Watch) -> Tensor:
        """Sum the gradients of all processes, clip them, drop them if one is not finite.

        Policy and critic are clipped apart, so that a large value error cannot shrink the
        policy's step. Where the policy has moved too far on these very responses
        (`early_stop_kl`), this step and the rest of the update are dropped.

        Args:
            limit: Largest norm of each part's gradient.
            watch: Is told the norms.

        Returns:
            The norm of the policy's gradient before clipping.
        """
        shared = self.passes.shared
        parts = {part: shared.trainable_parameters(part) for part in PARTS}
        learning = [p for p in (*parts["policy"], *parts["critic"]) if p.grad is not None]
        if self.args.early_stop_kl is not None and not self.stopped:
            self.stopped = watch.moved(self.processes.sum) > self.args.early_stop_kl
        if self.stopped:
            shared.zero_grad(set_to_none=True)
            watch.stop()
            return torch.zeros(())
        self.processes.sum_gradients(learning)
        self.accelerator.unscale_gradients()
        norms = {part: _whole(nn.utils.clip_grad_norm_(parts[part], limit)) for part in PARTS}
        finite = all(bool(norm.isfinite()) for norm in norms.values())
        if not finite and self.accelerator.scaler is None:  # a scaler skips such steps itself
            shared.zero_grad(set_to_none=True)
        watch.step({part: float(norm) for part, norm in norms.items()})
        return norms["policy"]

    def _policy_step(self, part: Rollout, tokens: Tensor, watch: Watch, *, warming: bool) -> Tensor:
        """Gradients of the policy's pass: its loss, its entropy, and a value head on its trunk."""
        shared, args = self.passes.shared, self.args
        on_policy = self.passes.critic_on_policy
        # while the critic warms up, only a head on the policy's trunk has anything to learn here
        idle = warming and not on_policy
        with shared.active("policy"), shared.recomputing():
            with torch.no_grad() if idle else nullcontext():
                found = self.passes.policy(
                    part, train_entropy=args.entropy_coef > 0, train_trunk=not warming
                )
            loss = self._policy_loss(found, part, tokens, watch)
            if warming:
                loss = torch.zeros_like(loss)
            if found.values is not None:
                loss = loss + self._value_loss(found.values, part, tokens, watch)
            return loss.detach() if idle else self._backward(loss)

    def _policy_loss(
        self, found: PolicyPass, part: Rollout, tokens: Tensor, watch: Watch
    ) -> Tensor:
        args, mask = self.args, part.mask
        loss = policy_loss(
            found.logprobs, part.logprobs, part.advantages, mask, tokens, args.cliprange
        )
        entropy = found.entropy.sum()  # 0 in padding
        watch.policy(loss, entropy, mask.sum())
        watch.sampler_gap(found.logprobs.detach(), part)
        return loss.loss - args.entropy_coef * entropy / tokens

    def _value_loss(self, values: Tensor, part: Rollout, tokens: Tensor, watch: Watch) -> Tensor:
        loss = value_loss(
            values[:, :-1], part.values, part.returns, part.mask, tokens, self.args.cliprange_value
        )
        watch.value(loss)
        return self.args.vf_coef * loss.loss

    def _backward(self, loss: Tensor) -> Tensor:
        self.accelerator.backward(loss)
        return loss.detach()


def _whole(norm: Tensor) -> Tensor:
    """A norm as a plain tensor, also where gradients are sharded over processes."""
    gather = getattr(norm, "full_tensor", None)
    return norm if gather is None else gather()
