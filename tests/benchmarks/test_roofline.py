"""What an update needs at least, against torch's own count of operations of plain passes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
BATCH, PROMPT, RESPONSE = 3, 7, 5
WHOLE = PROMPT + RESPONSE


@pytest.fixture(scope="module")
def lib() -> Iterator[ModuleType]:
    """The roofline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("lib.roofline")


@pytest.fixture
def model() -> LlamaForCausalLM:
    """Attention in plain products, which the counter sees one by one."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=160,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_implementation="eager",
        )
    )


def described(lib: ModuleType, model: LlamaForCausalLM, adapter: int) -> Any:
    inner = [
        p for n, p in model.named_parameters() if "layers" in n and "lora" not in n and p.ndim == 2
    ]
    linear = sum(p.numel() for p in inner)
    return lib.Model(linear, adapter, 160 * 48, attended=2 * 48, cached=2 * 2 * 2 * 12, width=4)


def update(lib: ModuleType, **other: Any) -> Any:
    return lib.Update(BATCH, PROMPT, RESPONSE, **{"epochs": 1, "measured": False, **other})


def counted(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def ids(length: int) -> torch.Tensor:
    return torch.randint(160, (BATCH, length))


def test_sampling(lib: ModuleType, model: LlamaForCausalLM) -> None:
    @torch.no_grad()
    def sample() -> None:
        cache = DynamicCache(config=model.config)
        model(ids(PROMPT), past_key_values=cache, use_cache=True, logits_to_keep=1)
        for _ in range(RESPONSE - 1):
            model(ids(1), past_key_values=cache, use_cache=True)

    found = lib.needs(described(lib, model, adapter=10**9), update(lib))["sample"]
    assert found.operations == counted(sample)
    # five times all weights; steps read the keys and values of 8, 9, 10 and 11 positions
    weights = RESPONSE * (described(lib, model, adapter=0).linear + 160 * 48)
    assert found.read == 4 * (weights + BATCH * (8 + 9 + 10 + 11) * 96)


def test_passes_and_epochs(lib: ModuleType, model: LlamaForCausalLM) -> None:
    plain = model.get_output_embeddings()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    adapter = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    sizes = described(lib, model, adapter)

    def hidden() -> torch.Tensor:
        # with a gradient at the input, as every layer but the first has one
        inputs = torch.randn(BATCH, WHOLE, 48, requires_grad=True)
        states: torch.Tensor = adapted.model.model(inputs_embeds=inputs).last_hidden_state
        return states

    def spoken() -> torch.Tensor:
        logits: torch.Tensor = plain(hidden()[:, PROMPT - 1 : -1])
        return logits

    def policy() -> None:
        spoken().sum().backward()

    def reference() -> None:
        with adapted.disable_adapter():
            spoken()

    once = lib.needs(sizes, update(lib))
    again = lib.needs(sizes, update(lib, epochs=3, measured=True))
    assert once["score"].operations == counted(hidden)
    assert once["measure"].operations == counted(reference)
    assert again["measure"].operations == counted(reference) + counted(spoken)
    assert once["optimise"].operations == counted(policy)
    assert again["optimise"].operations == 3 * once["optimise"].operations
    # all weights in float32: once a pass, in an epoch forward and backward
    weights = 4 * (sizes.linear + 160 * 48)
    read = [again[name].read / weights for name in ("score", "measure", "optimise")]
    assert read == [1, 2, 6]


def test_the_least_time_is_the_slower_of_two(lib: ModuleType) -> None:
    machine = lib.Machine(operations=100.0, bandwidth=10.0)
    assert lib.Need(operations=500.0, read=20.0).seconds(machine) == 5
    assert lib.Need(operations=500.0, read=70.0).seconds(machine) == 7
