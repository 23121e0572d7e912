"""The roomy key-value cache against transformers' own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.cache_utils import DynamicSlidingWindowLayer

from align import cache
from align.cache import Layer, roomy_cache

SHAPE = {
    "vocab_size": 20, "hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
Change = Callable[[DynamicCache], None]


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for three tokens, so that a few steps grow out of it."""
    monkeypatch.setattr(cache, "ROOM", 3)


def numbers(seed: int, rows: int, tokens: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, tokens, 4, generator=generator)


def steps(held: DynamicCache, *changes: Change) -> list[Tensor]:
    """All keys and values after a prompt and after each of nine tokens; a change before each."""
    found, rows = [], 5
    for step in range(10):
        if 0 < step <= len(changes):
            changes[step - 1](held)
            rows = len(held.layers[0].keys)
        for layer in (0, 1):
            new = [numbers(100 * step + 10 * layer + i, rows, 1 if step else 4) for i in (0, 1)]
            found += [part.clone() for part in held.update(*new, layer)]
    return found


def nothing(held: DynamicCache) -> None:
    """Leave the cache as it is."""


def select(held: DynamicCache) -> None:
    held.batch_select_indices(torch.tensor([3, 1, 4]))


def crop(held: DynamicCache) -> None:
    held.crop(-2)


def repeat(held: DynamicCache) -> None:
    held.batch_repeat_interleave(2)


@pytest.mark.parametrize(
    "changes",
    [[], [select], [nothing, crop, nothing, select], [crop, crop], [nothing, repeat, select]],
)
def test_it_holds_what_transformers_holds(changes: list[Change]) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    ours, theirs = roomy_cache(model), DynamicCache(config=model.config)
    for found, expected in zip(steps(ours, *changes), steps(theirs, *changes), strict=True):
        assert torch.equal(found, expected)
    assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_step_copies_nothing_while_there_is_room() -> None:
    layer = Layer()
    first, _ = layer.update(numbers(0, 2, 4), numbers(1, 2, 4))
    places = []
    for step in range(5):
        keys, values = layer.update(numbers(2 + step, 2, 1), numbers(9 + step, 2, 1))
        assert keys.shape == values.shape == (2, 2, 5 + step, 4)
        places.append(keys.data_ptr() == first.data_ptr())
    assert places == [True, True, True, False, False]  # four tokens, and room for three
    assert keys.data_ptr() != values.data_ptr()


def test_windows_keep_their_kind() -> None:
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4))
    assert {type(layer) for layer in roomy_cache(model).layers} == {DynamicSlidingWindowLayer}
