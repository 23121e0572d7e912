"""Sampling from a causal language model with a passed generator.

One loop for PPO's rollouts, evaluation and chat: left-padded prompts, key-value cache, positions
that do not depend on padding, the log-probability of every sampled token, and no waiting for
finished rows - they leave the batch once an eighth of it is done. On GPUs the cache is static and a
step is one CUDA graph (`align.static`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from align.cache import roomy_cache
from align.static import FEWEST, StaticSteps, can_be_static

# Part of a batch that must be done before its rows leave: leaving copies the others' keys, and
# with a static cache their graph is recorded anew.
_LEAVING = 0.125
_LEAVING_STATIC = 0.5


@dataclass(frozen=True)
class Sampling:
    """How to draw a response.

    Attributes:
        max_new_tokens: Most tokens of a response, EOS included.
        stop_ids: Token ids that end a response and belong to it.
        temperature: Divides the logits; 0 takes the most likely token.
        pad_id: Filler for left padding; never attended to.
        static: Whether to step over a static cache, where the model can; None: on GPUs.
    """

    max_new_tokens: int
    stop_ids: frozenset[int]
    temperature: float = 1.0
    pad_id: int = 0
    static: bool | None = None


class Response(NamedTuple):
    """One sampled response.

    Attributes:
        ids: Tokens, the stop token included.
        logprobs: Their log-probabilities under the distribution they were drawn from.
        finished: Whether it ended by itself.
        values: What a probe read from the state before each token; empty without one.
    """

    ids: list[int]
    logprobs: list[float]
    finished: bool
    values: list[float] = []  # noqa: RUF012 - never changed


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of token ids as (B, P) ids and (B, P) int64 mask, real tokens on the right."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    draws: Tensor | None = None,
    probe: nn.Module | None = None,
    anyone: Callable[[bool], bool] = bool,
    ended: Callable[[list[int]], bool] | None = None,
    shared: int = 0,
) -> list[Response]:
    """Sample one response to each prompt.

    Args:
        model: Causal LM with the wanted adapter in force.
        prompts: Token ids, at least one token each.
        sampling: Length, stop ids, temperature.
        generator: Source of randomness on the CPU; needed unless the temperature is 0.
        draws: Uniform numbers (B, max_new_tokens) to use instead of a generator's.
        probe: Scalar head (H -> 1, float32) read at every step from the last hidden state; the
            model's logits must then be its vocabulary head on that state.
        anyone: Whether any process has unfinished responses. Where weights are sharded, every
            process must take part in every step; the others wait here and sample on.
        ended: Whether the tokens of a response so far end it, beside the stop ids.
        shared: Leading tokens that all prompts have in common and that run once; fewer than any
            prompt has. For models that keep all keys and values.

    Returns:
        Responses in the order of the prompts. Log-probabilities are those of the distribution
        sampled from, that is at the sampling temperature.
    """
    filled = _Batch(model, prompts, shared, sampling.pad_id, probe)
    static = _is_static(model, sampling)
    state = filled.static(sampling.max_new_tokens) if static else filled
    tokens: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    values: list[list[float]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    done = [False] * len(prompts)
    # every row has draws of its own, so that its response does not depend on its neighbours
    uniform = draws
    if sampling.temperature > 0 and uniform is None:
        uniform = torch.rand(len(prompts), sampling.max_new_tokens, generator=generator)
    for step in range(sampling.max_new_tokens):
        drawn = None if uniform is None else uniform[alive, step]
        chosen, chosen_logprobs = _draw(state.logits, sampling.temperature, drawn)
        read = [] if state.values is None else state.values.tolist()
        for place, (row, token, logprob) in enumerate(
            zip(alive, chosen.tolist(), chosen_logprobs.tolist(), strict=True)
        ):
            if not done[row]:
                tokens[row].append(token)
                logprobs[row].append(logprob)
                values[row] += read[place : place + 1]
                done[row] = token in sampling.stop_ids or (ended is not None and ended(tokens[row]))
        waiting = [i for i, row in enumerate(alive) if not done[row]]
        if not anyone(bool(waiting)) or step + 1 == sampling.max_new_tokens:
            break
        leaving = len(alive) - len(waiting)
        if waiting and leaving >= len(alive) * (_LEAVING_STATIC if static else _LEAVING):
            chosen = chosen[state.keep(waiting)]
            alive = [alive[i] for i in waiting]
        state.step(chosen)
    return [Response(*row) for row in zip(tokens, logprobs, done, values, strict=True)]


def _is_static(model: PreTrainedModel, sampling: Sampling) -> bool:
    """Whether to step over a static cache: wanted, long enough, and the model can."""
    wanted = model.device.type == "cuda" if sampling.static is None else sampling.static
    return wanted and sampling.max_new_tokens >= FEWEST and can_be_static(model)


def _draw(logits: Tensor, temperature: float, draws: Tensor | None) -> tuple[Tensor, Tensor]:
    """Token ids (B,) and their log-probabilities (B,) from logits (B, V).

    Args:
        logits: (B, V).
        temperature: Divides the logits, where there are draws.
        draws: (B,) in [0, 1); None takes the most likely token.
    """
    if draws is None:
        logprobs = logits.float().log_softmax(-1)
        chosen = logprobs.argmax(-1)
    else:
        logprobs = (logits.float() / temperature).log_softmax(-1)
        # inverse of the cumulative distribution: the first token whose sum exceeds the draw
        cumulative = logprobs.exp().cumsum(-1)
        total = cumulative[:, -1:]
        below = torch.nextafter(total, torch.zeros_like(total))
        target = torch.minimum(draws.to(logits.device)[:, None] * total, below)
        chosen = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return chosen, logprobs.gather(-1, chosen[:, None]).squeeze(-1)


class _Batch:
    """The rows still being sampled: cache, mask, logits of the next token, values of a probe."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        shared: int,
        pad_id: int,
        probe: nn.Module | None,
    ) -> None:
        self.model, self.probe = model, probe
        self.cache = roomy_cache(model)
        if shared:
            self.mask = torch.ones(1, shared, dtype=torch.int64, device=model.device)
            first = torch.tensor([prompts[0][:shared]], device=model.device)
            self._forward(first, self.mask.cumsum(-1) - 1)
            self.keep([0] * len(prompts))
        else:
            self.mask = torch.ones(len(prompts), 0, dtype=torch.int64, device=model.device)
        ids, own = (x.to(model.device) for x in pad_left([p[shared:] for p in prompts], pad_id))
        self.mask = torch.cat([self.mask, own], dim=1)
        self._forward(ids, (self.mask.cumsum(-1) - 1).clamp_min(0)[:, shared:])

    def static(self, steps: int) -> StaticSteps:
        """The same rows over a static cache, for so many steps."""
        return StaticSteps(self.read, self.cache, self.mask, self.logits, self.values, steps)

    def step(self, chosen: Tensor) -> None:
        """Append one token (B,) to every row."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self._forward(chosen[:, None], self.mask.sum(-1, keepdim=True) - 1)

    def keep(self, rows: list[int]) -> Tensor:
        """Drop all rows but these; returns their indices."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]
        return index

    def read(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
    ) -> tuple[Tensor, Tensor | None]:
        """The last logits (B, V) and the probe's values (B,) of new tokens (B, n)."""
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "past_key_values": cache,
            "use_cache": True,
        }
        if self.probe is None:
            return self.model(**inputs, logits_to_keep=1).logits[:, -1], None
        hidden = self.model.base_model(**inputs).last_hidden_state[:, -1]
        logits = self.model.get_output_embeddings()(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            return logits, self.probe(hidden.float()).squeeze(-1)

    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        """Run new tokens (B, n) over the cache."""
        self.logits, self.values = self.read(ids, self.mask, positions, self.cache)
