"""What one round of sampling produced.

Shapes: B batch, P prompt length (left padded), T response length (right padded), S = P + T,
H hidden, V vocabulary. `mask` is made once, from the lengths of the sampled responses, and travels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from align.generation import Response, pad_left


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
        sampler_values: (B, T) of the critic's head while sampling; 0 where it has its own trunk.
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
    sampler_values: Tensor
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def by_length(self, size: int) -> list[Tensor]:
        """Indices of all rows in micro-batches of `size`; those of like length together."""
        lengths = self.prompt_mask.sum(-1) + self.mask.sum(-1)
        return list(lengths.argsort(descending=True, stable=True).split(size))

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


def start_rollout(
    prompts: list[list[int]], responses: list[Response], pad_id: int, device: torch.device
) -> Rollout:
    """Pad sampled responses to a rollout whose measured parts are still zeros."""
    prompt_ids, prompt_mask = pad_left(prompts, pad_id)
    lengths = torch.tensor([len(response.ids) for response in responses])
    width = int(lengths.max())
    response_ids = torch.full((len(responses), width), pad_id)
    sampler, values = torch.zeros(2, len(responses), width)
    for row, response in enumerate(responses):
        response_ids[row, : len(response.ids)] = torch.tensor(response.ids)
        sampler[row, : len(response.ids)] = torch.tensor(response.logprobs)
        values[row, : len(response.values)] = torch.tensor(response.values)
    zeros = torch.zeros(len(responses), width)
    parts = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask.bool(),
        "response_ids": response_ids,
        "mask": torch.arange(width)[None] < lengths[:, None],
        "finished": torch.tensor([response.finished for response in responses]),
        "sampler_logprobs": sampler,
        "sampler_values": values,
        "scores": torch.zeros(len(responses)),
    }
    measured = dict.fromkeys(_MEASURED, zeros) | {"values": torch.zeros(len(responses), width + 1)}
    return Rollout(**{key: value.clone().to(device) for key, value in (parts | measured).items()})


_MEASURED = ("logprobs", "reference", "values", "advantages", "returns")
