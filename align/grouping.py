"""Batches of similar lengths, so that little of them is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch.utils.data import Sampler

_WINDOW = 50
"""Batches' worth of rows, drawn by chance, among which like lengths are put together."""


class LengthGrouped(Sampler[int]):
    """Indices of rows in the order of training, anew in every epoch.

    Rows are shuffled, sorted by length among some `_WINDOW` batches, and the batches shuffled. The
    longest row is in the first batch, so that memory which does not suffice runs out at once.

    Args:
        lengths: Tokens of each row.
        batch: Rows a batch.
        seed: Of the first epoch's order.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed = lengths, batch, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; accelerate calls this, also where training goes on."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        """All indices once."""
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        whole, rest = self._batches(order)
        if whole:
            first = max(range(len(whole)), key=lambda i: max(map(self._length, whole[i])))
            ranks = torch.randperm(len(whole), generator=generator).tolist()
            ranks.remove(first)
            whole = [whole[rank] for rank in [first, *ranks]]
        return chain(*whole, rest)

    def _batches(self, order: Sequence[int]) -> tuple[list[list[int]], list[int]]:
        """Whole batches of like lengths, and the shortest rows of the last window that are left."""
        size = _WINDOW * self._batch
        batches: list[list[int]] = []
        for start in range(0, len(order), size):
            rows = sorted(order[start : start + size], key=self._length, reverse=True)
            batches += [rows[i : i + self._batch] for i in range(0, len(rows), self._batch)]
        rest = batches.pop() if batches and len(batches[-1]) < self._batch else []
        return batches, rest

    def _length(self, index: int) -> int:
        return self._lengths[index]


class GroupedBatches:
    """Mixin of a `transformers.Trainer` whose batches hold rows of similar lengths.

    Set `lengths` before training; where it is None, or the arguments name another way of sampling,
    the trainer's own order stands.
    """

    lengths: Sequence[int] | None = None
    """Tokens of each training row."""
    args: Any

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The order of the training rows."""
        if self.lengths is None or self.args.train_sampling_strategy != "random":
            own: Any = super()
            return own._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGrouped(self.lengths, self.args.per_device_train_batch_size, seed)
