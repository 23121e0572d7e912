"""What one round of sampling produced, and the model passes over it.

Shapes: B batch, P prompt length (left padded), T response length (right padded), S = P + T,
H hidden, V vocabulary. `mask` is made once, from the lengths of the sampled responses, and travels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from align.generation import Response, pad_left
from align.ppo.losses import entropy
from align.shared import SharedBase


@dataclass(frozen=True)
class Rollout:
    """Prompts, sampled responses and everything measured on them while sampling.

    Attributes:
        prompt_ids: (B, P) left padded.
        prompt_mask: (B, P) bool.
        response_ids: (B, T) right padded, EOS included.
        mask: (B, T) bool, from lengths.
        finished: (B,) bool, ended with a stop token.
        sampler_logprobs: (B, T) of the sampler.
        logprobs: (B, T) of the policy before the update ("old").
        reference: (B, T) log-probabilities of the reference.
        values: (B, T) of the critic before the update; (B, T + 1) until rewards are known, the last
            entry of a row's response being the state after it.
        advantages: (B, T) whitened.
        returns: (B, T).
        scores: (B,) raw scores.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    mask: Tensor
    finished: Tensor
    sampler_logprobs: Tensor
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def rows(self, index: Tensor) -> Rollout:
        """The rows `index` (n,), with padding columns that none of them needs cut off."""
        part = replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})
        prompt = int(part.prompt_mask.sum(-1).max())
        response = max(int(part.mask.sum(-1).max()), 1)
        cut = {f.name: getattr(part, f.name) for f in fields(self)}
        for name, value in cut.items():
            if name.startswith("prompt_"):
                cut[name] = value[:, value.shape[1] - prompt :]
            elif value.dim() == 2:
                cut[name] = value[:, :response]
        return Rollout(**cut)


class TokenStatistics(NamedTuple):
    """Log-probabilities and entropies (nats) of response tokens, (B, T) each, float32."""

    logprobs: Tensor
    entropy: Tensor


def start_rollout(
    prompts: list[list[int]], responses: list[Response], pad_id: int, device: torch.device
) -> Rollout:
    """Pad sampled responses to a rollout whose measured parts are still zeros."""
    prompt_ids, prompt_mask = pad_left(prompts, pad_id)
    lengths = torch.tensor([len(response.ids) for response in responses])
    width = int(lengths.max())
    response_ids = torch.full((len(responses), width), pad_id)
    sampler = torch.zeros(len(responses), width)
    for row, response in enumerate(responses):
        response_ids[row, : len(response.ids)] = torch.tensor(response.ids)
        sampler[row, : len(response.ids)] = torch.tensor(response.logprobs)
    zeros = torch.zeros(len(responses), width)
    parts = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask.bool(),
        "response_ids": response_ids,
        "mask": torch.arange(width)[None] < lengths[:, None],
        "finished": torch.tensor([response.finished for response in responses]),
        "sampler_logprobs": sampler,
        "scores": torch.zeros(len(responses)),
    }
    measured = dict.fromkeys(_MEASURED, zeros) | {"values": torch.zeros(len(responses), width + 1)}
    return Rollout(**{key: value.clone().to(device) for key, value in (parts | measured).items()})


_MEASURED = ("logprobs", "reference", "values", "advantages", "returns")


def response_hidden(shared: SharedBase, rollout: Rollout) -> Tensor:
    """Hidden states of the prompt's last and all response positions under the active adapter.

    Returns:
        (B, T + 1, H): entry t is the state before response token t; the last one is the state
        after the whole response.
    """
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)
    mask = torch.cat([rollout.prompt_mask, rollout.mask], dim=1)
    return shared.hidden(ids, mask.long())[:, rollout.prompt_ids.shape[1] - 1 :]


def token_statistics(
    shared: SharedBase, hidden: Tensor, rollout: Rollout, temperature: float
) -> TokenStatistics:
    """Log-probability and entropy of each response token at the sampling temperature.

    The vocabulary head, which can cost more than the trunk, runs on the masked tokens alone.

    Args:
        shared: The base whose vocabulary head is applied.
        hidden: (B, T + 1, H) of `response_hidden`.
        rollout: Response ids and mask.
        temperature: Divides the logits, as in sampling.

    Returns:
        (B, T) each, 0 in padding.
    """
    every = _vocabulary_logprobs(shared, hidden, rollout.mask, temperature)
    return TokenStatistics(_chosen(every, rollout), _on_mask(entropy(every.detach()), rollout.mask))


def token_logprobs(
    shared: SharedBase, hidden: Tensor, rollout: Rollout, temperature: float
) -> Tensor:
    """The log-probabilities of `token_statistics` alone, (B, T)."""
    return _chosen(_vocabulary_logprobs(shared, hidden, rollout.mask, temperature), rollout)


def _vocabulary_logprobs(
    shared: SharedBase, hidden: Tensor, mask: Tensor, temperature: float
) -> Tensor:
    """Log-probabilities (N, V), float32, of every token at the N masked places."""
    logits = shared.logits(hidden[:, :-1][mask]).float()
    return (logits if temperature == 1 else logits / temperature).log_softmax(-1)


def _chosen(every: Tensor, rollout: Rollout) -> Tensor:
    """Log-probabilities (B, T) of the response's tokens from those of all (N, V)."""
    chosen = every.gather(-1, rollout.response_ids[rollout.mask][:, None]).squeeze(-1)
    return _on_mask(chosen, rollout.mask)


def _on_mask(values: Tensor, mask: Tensor) -> Tensor:
    """Values (N,) put back to their masked places (B, T), 0 elsewhere."""
    return torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values)


def state_values(shared: SharedBase, hidden: Tensor) -> Tensor:
    """The critic's value of every state: (B, T + 1) float32 from hidden (B, T + 1, H)."""
    values: Tensor = shared.heads["critic"](hidden.float()).squeeze(-1)
    return values
