"""A cache with room to grow holds what transformers' own cache holds."""

from __future__ import annotations

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from align.caches import ROOM, RoomyLayer, roomy_cache


def test_keys_and_values_are_those_of_the_growing_cache() -> None:
    model = LlamaForCausalLM(
        LlamaConfig(num_hidden_layers=2, hidden_size=8, num_attention_heads=2, vocab_size=8)
    )
    ours, other = roomy_cache(model), DynamicCache(config=model.config)
    assert [type(layer) for layer in ours.layers] == [RoomyLayer, RoomyLayer]
    generator = torch.Generator().manual_seed(0)

    def grow(rows: int, tokens: int) -> None:
        for layer in (0, 1):
            new = [torch.randn(rows, 2, tokens, 4, generator=generator) for _ in range(2)]
            for a, b in zip(ours.update(*new, layer), other.update(*new, layer), strict=True):
                assert torch.equal(a, b)

    grow(2, 3)
    for cache in (ours, other):
        cache.batch_select_indices(torch.tensor([1, 0, 1]))
    for _ in range(ROOM + 2):
        grow(3, 1)
    for cache in (ours, other):
        cache.batch_repeat_interleave(2)
    grow(6, 2)
    assert ours.get_seq_length() == other.get_seq_length() == ROOM + 7


def test_a_token_is_written_behind_the_others_and_moves_nothing() -> None:
    layer = RoomyLayer()
    layer.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))
    place = layer.keys.data_ptr()
    for _ in range(ROOM):
        layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    assert layer.keys.data_ptr() == place
    layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    assert layer.keys.data_ptr() != place
    assert layer.keys.flatten().tolist() == [0.0] * 6 + [1.0] * 2 * (ROOM + 1)
