"""Policy, reference and critic at work without learning: responding and measuring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from align.data.encoding import decode_response
from align.errors import UserError
from align.generation import Response, Sampling, generate
from align.packing import packed
from align.ppo.config import PPOConfig
from align.ppo.passes import Passes
from align.ppo.prompts import PromptBatch
from align.ppo.rollout import Rollout, start_rollout


def ppo_sampling(args: PPOConfig, tokenizer: PreTrainedTokenizerBase | None) -> Sampling:
    """How the policy responds.

    Raises:
        UserError: The tokenizer has no EOS to stop at or no pad token.
    """
    if tokenizer is None:
        raise UserError("no tokenizer", remedy="pass processing_class")
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise UserError("the tokenizer needs an EOS and a pad token", where="processing_class")
    return Sampling(
        max_new_tokens=args.response_length,
        stop_ids=frozenset({int(tokenizer.eos_token_id)}),
        temperature=args.temperature,
        pad_id=int(tokenizer.pad_token_id),
        static=args.static_cache,
    )


@dataclass(frozen=True)
class Actor:
    """The parts of PPO that only look: nothing here leaves a gradient.

    Attributes:
        passes: Policy, reference and critic.
        tokenizer: Decodes responses.
        sampling: How to draw responses.
        at_once: Most responses sampled together.
        micro_batch: Sequences a forward pass.
        exact: Whether the sampler's numbers are those of a pass over the whole response (float32),
            so that the policy needs no second pass.
        anyone: Whether any process still samples; see `generate`.
    """

    passes: Passes
    tokenizer: PreTrainedTokenizerBase
    sampling: Sampling
    at_once: int
    micro_batch: int
    exact: bool = False
    anyone: Callable[[bool], bool] = bool

    def respond(self, batch: PromptBatch, generator: torch.Generator) -> list[Response]:
        """One response of the policy to each prompt; prompts of like length are sampled together.

        Every response has draws of its own, so neither the order nor `at_once` changes it.
        """
        shared = self.passes.shared
        probe = shared.heads["critic"] if self.passes.critic_on_policy else None
        draws = torch.rand(len(batch), self.sampling.max_new_tokens, generator=generator)
        order = sorted(range(len(batch)), key=lambda i: len(batch.ids[i]))
        responses: dict[int, Response] = {}

        def sample(rows: list[int]) -> list[Response]:
            return generate(
                shared.causal,
                [batch.ids[row] for row in rows],
                self.sampling,
                draws=draws[rows],
                probe=probe,
                anyone=self.anyone,
            )

        with shared.active("policy"), self.passes.autocast(), packed(shared.causal):
            for first in range(0, len(batch), self.at_once):
                rows = order[first : first + self.at_once]
                found = shared(lambda rows=rows: sample(rows))
                responses |= dict(zip(rows, found, strict=True))
        return [responses[row] for row in range(len(batch))]

    def texts(self, responses: list[Response]) -> list[str]:
        """The responses as reward functions see them."""
        return [decode_response(self.tokenizer, response.ids) for response in responses]

    @torch.no_grad()
    def measure(
        self, batch: PromptBatch, responses: list[Response], *, last_value: bool = False
    ) -> Rollout:
        """The rollout with log-probabilities of policy and reference, and values (B, T + 1).

        Args:
            batch: The prompts.
            responses: What the policy has just sampled.
            last_value: Whether the value after the last token is needed, which no sampler saw.
        """
        device = self.passes.shared.device
        rollout = start_rollout(batch.ids, responses, self.sampling.pad_id, device)
        reuse = self.exact and not (last_value and self.passes.critic_on_policy)
        if reuse:
            rollout.logprobs.copy_(rollout.sampler_logprobs)
            rollout.values[:, :-1] = rollout.sampler_values
        for index in rollout.by_length(self.micro_batch):
            part = rollout.rows(index)
            _put(rollout.reference, index, self.passes.reference(part))
            if not reuse:
                found = self.passes.policy(part)
                _put(rollout.logprobs, index, found.logprobs)
                if found.values is not None:
                    _put(rollout.values, index, found.values)
            if not self.passes.critic_on_policy:
                _put(rollout.values, index, self.passes.critic(part))
        return rollout


def make_actor(
    passes: Passes,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    args: PPOConfig,
    anyone: Callable[[bool], bool] = bool,
) -> Actor:
    """The actor of a trainer. A cached step and a full pass agree only in full precision."""
    full = passes.shared.base.dtype == torch.float32 and not (args.bf16 or args.fp16)
    return Actor(
        passes,
        tokenizer,
        sampling,
        at_once=args.generation_batch_size or args.local_rollout_size,
        micro_batch=args.per_device_train_batch_size,
        exact=full and not args.recompute_logprobs,
        anyone=anyone,
    )


def _put(whole: Tensor, index: Tensor, part: Tensor) -> None:
    """Write a micro-batch (n, t) into its rows of the whole (B, T)."""
    whole[index, : part.shape[1]] = part
