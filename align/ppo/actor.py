"""Policy, reference and critic of one shared base at work: responding and measuring."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from align.data.encoding import decode_response
from align.errors import UserError
from align.generation import Response, Sampling, generate
from align.ppo.config import PPOConfig
from align.ppo.prompts import PromptBatch
from align.ppo.rollout import (
    Rollout,
    response_hidden,
    start_rollout,
    state_values,
    token_logprobs,
)
from align.shared import SharedBase


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
    )


@dataclass(frozen=True)
class Actor:
    """The parts of PPO that only look: nothing here leaves a gradient.

    Attributes:
        shared: Base with the adapters `policy` and `critic` and the critic's head.
        tokenizer: Decodes responses.
        sampling: How to draw responses.
        at_once: Most responses sampled together.
        micro_batch: Sequences a forward pass.
        autocast: Context of the passes through the trunk (mixed precision).
    """

    shared: SharedBase
    tokenizer: PreTrainedTokenizerBase
    sampling: Sampling
    at_once: int
    micro_batch: int
    autocast: Callable[[], AbstractContextManager[None]]

    def respond(self, batch: PromptBatch, generator: torch.Generator) -> list[Response]:
        """One response of the policy to each prompt."""
        responses: list[Response] = []
        with self.shared.active("policy"), self.autocast():
            for first in range(0, len(batch), self.at_once):
                prompts = batch.ids[first : first + self.at_once]
                responses += generate(self.shared.causal, prompts, self.sampling, generator)
        return responses

    def texts(self, responses: list[Response]) -> list[str]:
        """The responses as reward functions see them."""
        return [decode_response(self.tokenizer, response.ids) for response in responses]

    @torch.no_grad()
    def measure(self, batch: PromptBatch, responses: list[Response]) -> Rollout:
        """The rollout with log-probabilities of policy and reference, and values (B, T + 1)."""
        rollout = start_rollout(batch.ids, responses, self.sampling.pad_id, self.shared.device)
        indices = torch.arange(len(rollout), device=self.shared.device).split(self.micro_batch)
        parts = [rollout.rows(index) for index in indices]
        for adapter, name in (("policy", "logprobs"), (None, "reference"), ("critic", "values")):
            with self.shared.active(adapter):
                for index, part in zip(indices, parts, strict=True):
                    measured = self._values(part) if adapter == "critic" else self._logprobs(part)
                    getattr(rollout, name)[index, : measured.shape[1]] = measured
        return rollout

    def _logprobs(self, part: Rollout) -> Tensor:
        with self.autocast():
            hidden = response_hidden(self.shared, part)
            return token_logprobs(self.shared, hidden, part, self.sampling.temperature)

    def _values(self, part: Rollout) -> Tensor:
        with self.autocast():
            hidden = response_hidden(self.shared, part)
        return state_values(self.shared, hidden)
