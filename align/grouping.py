"""Rows of similar lengths in a micro-batch, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler


class SortedWithinSteps(Sampler[int]):
    """Indices of rows in the order of training, anew in every epoch.

    Rows are shuffled, and sorted by length within each optimizer step alone, the longest first. A
    step's gradient is a sum over its rows, so that what is learned is what any order would teach;
    memory that does not suffice for a step runs out in its first micro-batch.

    Args:
        lengths: Tokens of each row.
        step: Rows an optimizer step, over all processes.
        seed: Of the first epoch's order.
    """

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        self._lengths, self._step, self._seed = lengths, step, seed
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
        for start in range(0, len(order), self._step):
            rows = order[start : start + self._step]
            yield from sorted(rows, key=self._lengths.__getitem__, reverse=True)


class GroupedMicroBatches:
    """Mixin of a `transformers.Trainer` whose micro-batches hold rows of similar lengths.

    Set `lengths` before training. Where it is None, a step has one micro-batch, or the arguments
    name another way of sampling, the trainer's own order stands.
    """

    lengths: Sequence[int] | None = None
    """Tokens of each training row."""
    args: Any

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The order of the training rows."""
        args = self.args
        several = args.gradient_accumulation_steps > 1
        if self.lengths is None or not several or args.train_sampling_strategy != "random":
            own: Any = super()
            return own._get_train_sampler(train_dataset)
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
        seed = args.seed if args.data_seed is None else args.data_seed
        return SortedWithinSteps(self.lengths, rows * args.world_size, seed)
