"""The pretraining (PTX) loss against the alignment tax.

Source: Ouyang 2022 (2203.02155), eq. 2: PPO's gradients are mixed with those of the language
model's own objective on text, weighted by gamma (`ptx_coef`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from align.errors import UserError
from align.ppo.config import PPOConfig
from align.ppo.passes import Passes
from align.ppo.prompts import scheduled_indices
from align.ppo.vocabulary import token_statistics

TEXTS = 4
"""Purpose of the texts' random stream, beside those of `align.ppo.prompts`."""


class TextSet:
    """Encoded texts.

    Args:
        rows: Mappings with `text`.
        tokenizer: Encodes them.
        max_length: Most tokens of a text; the rest is left out.

    Raises:
        UserError: A row without `text`, or no text of two tokens.
    """

    def __init__(
        self, rows: Iterable[Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> None:
        self.ids: list[list[int]] = []
        for number, row in enumerate(rows):
            if "text" not in row:
                raise UserError(f"row {number} has no `text` (it has {sorted(row)})", where="ptx")
            ids = tokenizer(row["text"], truncation=True, max_length=max_length)["input_ids"]
            if len(ids) > 1:
                self.ids.append(ids)
        if not self.ids:
            raise UserError("no text has two tokens", where="ptx")

    def batch(
        self, micro_step: int, size: int, rank: int, processes: int, seed: int
    ) -> list[list[int]]:
        """The texts of one micro-step on one process."""
        start = micro_step * size * processes
        drawn = scheduled_indices(len(self.ids), start, size * processes, seed + TEXTS)
        return [self.ids[i] for i in drawn[rank::processes]]


def text_set(rows: Any, tokenizer: PreTrainedTokenizerBase, args: PPOConfig) -> TextSet | None:
    """Texts of the PTX loss; None without one.

    Raises:
        UserError: A weight without texts, or texts without a weight.
    """
    if (rows is not None) != (args.ptx_coef > 0):
        raise UserError("ptx_coef and ptx_dataset go together", remedy="give both or neither")
    return None if rows is None else TextSet(rows, tokenizer, args.ptx_max_length)


def text_loss(passes: Passes, texts: list[list[int]], tokens: Tensor | float) -> Tensor:
    """Mean negative log-likelihood a token of texts under the part in force.

        loss = -sum_t log p(x_t | x_<t) / tokens

    Args:
        passes: The model.
        texts: Token ids, at least two each.
        tokens: Predicted tokens of the whole optimizer batch.
    """
    shared = passes.shared
    width = max(map(len, texts))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in texts], device=shared.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in texts])
    mask = mask.to(shared.device)

    def work() -> Tensor:
        hidden = shared.hidden(ids, mask)[:, :-1][mask[:, 1:].bool()]
        chosen = ids[:, 1:][mask[:, 1:].bool()]
        return token_statistics(shared.vocabulary_head, hidden, chosen, 1.0).logprobs

    with passes.autocast():
        logprobs: Tensor = shared(work)
    return -logprobs.sum() / tokens
