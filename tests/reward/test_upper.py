"""Upper layers run once an adapter, against running the whole model once an adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from align.config import LoraConfig
from align.errors import UserError
from align.shared import SharedBase
from reward.upper import blocks_of, forked, lower_prefixes, upper_layers

SIZES: dict[str, Any] = {"vocab_size": 60, "num_hidden_layers": 3, "hidden_size": 16}
MORE: dict[str, Any] = {"num_attention_heads": 2, "intermediate_size": 24}
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=16, n_layer=3, n_head=2))


def gpt_neox() -> GPTNeoXForCausalLM:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, **MORE))


def qwen() -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, **MORE, num_key_value_heads=1, head_dim=8))


@torch.no_grad()
@pytest.mark.parametrize("make", [gpt2, gpt_neox, qwen])
def test_it_equals_one_pass_an_adapter(make: Any) -> None:
    torch.manual_seed(0)
    shared = SharedBase(make())
    blocks = list(blocks_of(shared.base))
    places = {id(m): name for name, m in shared.base.named_modules()}
    names = ["one", "two", "three"]
    upper = [f"{places[id(b)]}." for b in blocks[-2:]]
    for seed, name in enumerate(names):
        shared.add_adapter(name, LoraConfig(r=2), seed=seed)
        for key, weight in shared.base.named_parameters():
            if f".lora_B.{name}." in key and any(key.startswith(part) for part in upper):
                weight.copy_(torch.randn_like(weight) * 0.5)
    alone = []
    for name in names:
        with shared.active(name):
            alone.append(shared.hidden(IDS, MASK))
    with shared.active("one"), forked(blocks, 2, names, shared.activate):
        together = shared.hidden(IDS, MASK)
    real = MASK.bool().repeat(3, 1)
    torch.testing.assert_close(together[real], torch.cat(alone)[real], rtol=0, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-2
    with shared.active("two"):  # nothing is left behind
        torch.testing.assert_close(shared.hidden(IDS, MASK), alone[1])


def test_the_default_adds_at_most_two_fifths_of_the_layers() -> None:
    # (k - 1) n <= .4 L: 3 n <= 12, 12.8, 4.8, 1.6 (none: 1); n <= 4.8
    assert [upper_layers(layers, 4) for layers in (30, 32, 12, 4)] == [4, 4, 1, 1]
    assert upper_layers(12, 2) == 4


def test_layers_are_found_and_named() -> None:
    model = qwen()
    assert len(blocks_of(model)) == 3
    assert lower_prefixes(model, 1) == (".layers.0.", ".layers.1.")
    model.config.num_hidden_layers = 5
    with pytest.raises(UserError, match="no list of 5 layers"):
        blocks_of(model)
