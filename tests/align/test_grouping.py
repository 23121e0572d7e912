"""Batches of like lengths: every row once, little padding, orders that can be repeated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.grouping import GroupedBatches, LengthGrouped


def padded(lengths: list[int], order: list[int], batch: int) -> int:
    """Tokens of the batches with padding."""
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    return sum(len(part) * max(lengths[index] for index in part) for part in parts)


@given(st.lists(st.integers(1, 99), max_size=300), st.integers(1, 9), st.integers(0, 5))
def test_every_row_comes_once_and_the_longest_first(
    lengths: list[int], batch: int, seed: int
) -> None:
    order = list(LengthGrouped(lengths, batch, seed))
    assert sorted(order) == list(range(len(lengths)))
    if len(lengths) >= batch:
        longest = max(lengths[index] for index in order[: batch * (len(order) // batch)])
        assert max(lengths[index] for index in order[:batch]) == longest


def test_little_is_padding() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 1001).tolist()
    real = sum(lengths)
    shuffled = np.random.default_rng(1).permutation(1001).tolist()
    assert padded(lengths, shuffled, 8) > 1.5 * real
    # 50 batches of 8 sorted from 10 to 200: 190 / 50 = 4 between a batch's ends, so 2 of 105 each.
    assert padded(lengths, list(LengthGrouped(lengths, 8, 0)), 8) < 1.04 * real


def test_batches_are_not_in_the_order_of_their_lengths() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 800).tolist()
    order = list(LengthGrouped(lengths, 8, 0))
    means = [np.mean([lengths[i] for i in order[k : k + 8]]) for k in range(8, 800, 8)]
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3


def test_orders_belong_to_seed_and_epoch() -> None:
    lengths = [1 + index % 17 for index in range(90)]
    sampler = LengthGrouped(lengths, 4, seed=3)
    first = list(sampler)
    assert list(sampler) == first == list(LengthGrouped(lengths, 4, seed=3))
    assert list(LengthGrouped(lengths, 4, seed=7)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert len(sampler) == 90


@pytest.mark.parametrize("batch", [3, 4])
def test_an_incomplete_batch_is_the_last(batch: int) -> None:
    lengths = [5, 1, 9, 3, 7, 2, 8]
    order = list(LengthGrouped(lengths, batch, 0))
    # One window: sorted 9 8 7 5 3 2 1; what is left over are the shortest.
    left = len(lengths) % batch
    assert sorted(lengths[index] for index in order[-left:]) == [1, 2, 3][:left]


class Plain:
    """A trainer as far as the mixin knows it."""

    def __init__(self, strategy: str = "random", data_seed: int | None = None) -> None:
        self.args = SimpleNamespace(
            train_sampling_strategy=strategy,
            data_seed=data_seed,
            seed=3,
            per_device_train_batch_size=4,
        )

    def _get_train_sampler(self, rows: Any = None) -> Any:
        return ("own", rows)


class Grouped(GroupedBatches, Plain):
    pass


def test_a_trainer_groups_its_rows_unless_told_otherwise() -> None:
    lengths = [1 + index % 17 for index in range(90)]
    trainer = Grouped()
    assert trainer._get_train_sampler("rows") == ("own", "rows")
    trainer.lengths = lengths
    assert list(trainer._get_train_sampler()) == list(LengthGrouped(lengths, 4, 3))
    trainer = Grouped(data_seed=5)
    trainer.lengths = lengths
    assert list(trainer._get_train_sampler()) == list(LengthGrouped(lengths, 4, 5))
    trainer = Grouped(strategy="sequential")
    trainer.lengths = lengths
    assert trainer._get_train_sampler("rows") == ("own", "rows")
