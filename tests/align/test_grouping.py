"""Micro-batches of like lengths: steps as drawn by chance, little padding, repeatable orders."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.grouping import GroupedMicroBatches, SortedWithinSteps


def parts(order: list[int], size: int) -> list[list[int]]:
    """The order cut into batches."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def padded(lengths: list[int], order: list[int], batch: int) -> int:
    """Tokens of the batches with padding."""
    return sum(len(rows) * max(lengths[row] for row in rows) for rows in parts(order, batch))


@given(st.lists(st.integers(1, 99), max_size=100), st.integers(1, 9), st.integers(0, 5))
def test_steps_hold_the_rows_that_chance_gives_them_the_longest_first(
    lengths: list[int], step: int, seed: int
) -> None:
    order = list(SortedWithinSteps(lengths, step, seed))
    # Rows of one length keep the order of chance: it does not depend on the lengths.
    shuffled = list(SortedWithinSteps([1] * len(lengths), step, seed))
    assert sorted(order) == list(range(len(lengths)))
    for rows, drawn in zip(parts(order, step), parts(shuffled, step), strict=True):
        assert sorted(rows) == sorted(drawn)
        sizes = [lengths[row] for row in rows]
        assert sizes == sorted(sizes, reverse=True)


def test_less_is_padding() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 1000).tolist()
    shuffled = list(SortedWithinSteps([1] * 1000, 8, 0))
    # Of 8 uniform on 10 to 200 the largest is expected at 10 + 190 * 8/9 = 179. In fours the
    # second batch has the 4th smallest, 10 + 190 * 4/9 = 94: on average 137.
    assert padded(lengths, shuffled, 8) / 1000 == pytest.approx(179, abs=5)
    order = list(SortedWithinSteps(lengths, 8, 0))
    assert padded(lengths, order, 4) / 1000 == pytest.approx(137, abs=5)


def test_rows_are_drawn_by_chance() -> None:
    order = list(SortedWithinSteps([1] * 800, 8, 0))
    assert abs(np.corrcoef(order, range(800))[0, 1]) < 0.2
    assert order != list(range(800))


def test_orders_belong_to_seed_and_epoch() -> None:
    lengths = [1 + index % 17 for index in range(90)]
    sampler = SortedWithinSteps(lengths, 4, seed=3)
    first = list(sampler)
    assert list(sampler) == first == list(SortedWithinSteps(lengths, 4, seed=3))
    assert list(SortedWithinSteps(lengths, 4, seed=7)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert len(sampler) == 90


class Plain:
    """A trainer as far as the mixin knows it."""

    def __init__(self, **changed: Any) -> None:
        usual = {
            "train_sampling_strategy": "random",
            "data_seed": None,
            "seed": 3,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "world_size": 1,
        }
        self.args = SimpleNamespace(**(usual | changed))

    def _get_train_sampler(self, rows: Any = None) -> Any:
        return ("own", rows)


class Grouped(GroupedMicroBatches, Plain):
    pass


LENGTHS = [1 + index % 17 for index in range(90)]


@pytest.mark.parametrize(
    ("changed", "step", "seed"),
    [
        ({}, 8, 3),
        ({"data_seed": 5}, 8, 5),
        ({"world_size": 3}, 24, 3),
        ({"gradient_accumulation_steps": 5}, 20, 3),
    ],
)
def test_a_trainer_sorts_the_rows_of_a_step(changed: dict[str, Any], step: int, seed: int) -> None:
    trainer = Grouped(**changed)
    trainer.lengths = LENGTHS
    assert list(trainer._get_train_sampler()) == list(SortedWithinSteps(LENGTHS, step, seed))


@pytest.mark.parametrize(
    ("changed", "lengths"),
    [
        ({}, None),
        ({"gradient_accumulation_steps": 1}, LENGTHS),
        ({"train_sampling_strategy": "sequential"}, LENGTHS),
    ],
)
def test_a_trainers_own_order_stands(changed: dict[str, Any], lengths: list[int] | None) -> None:
    trainer = Grouped(**changed)
    trainer.lengths = lengths
    assert trainer._get_train_sampler("rows") == ("own", "rows")
