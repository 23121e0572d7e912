"""The prompts of PPO: encoded once, drawn by a schedule that needs no state to resume."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from transformers import PreTrainedTokenizerBase

from align.data.encoding import encode_prompt
from align.errors import UserError
from align.generation import Response

Prompt = str | list[dict[str, str]]
SAMPLE, SHUFFLE, EVALUATE = 1, 2, 3
"""Purposes of the random streams."""


@dataclass(frozen=True)
class PromptBatch:
    """Some prompts: as given, as token ids, and their other columns for reward functions."""

    prompts: list[Prompt]
    ids: list[list[int]]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.ids)

    def answered(self, responses: Sequence[Response]) -> Self:
        """With the responses' tokens, the stop token included, in the column `completion_ids`.

        As in TRL, a column of that name in the rows gives way.
        """
        ids = [list(response.ids) for response in responses]
        return replace(self, columns=self.columns | {"completion_ids": ids})


class PromptSet:
    """Encoded prompts with their columns.

    Args:
        rows: Mappings with `prompt` (text or messages) and any other columns.
        tokenizer: Encodes the prompts.
        max_length: Longest prompt in tokens; longer ones are left out and counted.

    Attributes:
        dropped: Number of prompts left out because they are too long.

    Raises:
        UserError: A row without `prompt`, or no prompt short enough.
    """

    def __init__(
        self, rows: Iterable[Any], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self.ids: list[list[int]] = []
        self.dropped = 0
        for number, row in enumerate(rows):
            if "prompt" not in row:
                raise UserError(f"row {number} has no `prompt` (it has {sorted(row)})")
            ids = encode_prompt(tokenizer, row["prompt"])
            if len(ids) > max_length:
                self.dropped += 1
            else:
                self.rows.append(dict(row))
                self.ids.append(ids)
        if not self.ids:
            raise UserError(
                f"no prompt has at most {max_length} tokens", remedy="raise max_prompt_length"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> PromptBatch:
        """The prompts at `indices`."""
        names = [name for name in self.rows[0] if name != "prompt"]
        return PromptBatch(
            prompts=[self.rows[i]["prompt"] for i in indices],
            ids=[self.ids[i] for i in indices],
            columns={name: [self.rows[i].get(name) for i in indices] for name in names},
        )


def scheduled_indices(size: int, start: int, count: int, seed: int) -> list[int]:
    """Entries `start` to `start + count` of an endless concatenation of seeded permutations.

    Args:
        size: Number of prompts.
        start: How many were drawn before, over all processes.
        count: How many to draw.
        seed: Seed of the permutations.
    """
    indices: list[int] = []
    while len(indices) < count:
        position = start + len(indices)
        generator = torch.Generator().manual_seed(_mix(seed, position // size))
        order = torch.randperm(size, generator=generator).tolist()
        offset = position % size
        indices += order[offset : offset + count - len(indices)]
    return indices


def _mix(*numbers: int) -> int:
    """A seed (63 bits) that depends on every number and its place (splitmix64's finaliser)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & (2**64 - 1))) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        state = (state ^ (state >> 29)) * 0x94D049BB133111EB & (2**64 - 1)
        state ^= state >> 32
    return state >> 1


def stream(seed: int, *place: int) -> torch.Generator:
    """An independent random stream for a place such as (purpose, rank, update)."""
    return torch.Generator().manual_seed(_mix(seed, *place))
