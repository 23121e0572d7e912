"""Steps over a static cache: the numbers of a growing one, also when a step is only replayed."""

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers import (
    DynamicCache,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from align import static
from align.generation import Response, Sampling, generate
from align.static import can_be_static

V, PAD = 24, 0
PROMPTS = [[5, 6, 7], [9], [4, 8, 12, 16, 20, 3, 2], [11, 10], [13, 3, 3, 3]]
SHAPE = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip
STOPS = [{1}, {2, 4, 6, 7}, set(range(0, V, 2)), set()]
"""Rows end at different steps, some of them not at all."""


def tiny_llama(spread: float = 12.0) -> LlamaForCausalLM:
    """A random Llama; a larger spread makes its predictions more certain."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= spread
    return model.eval()


def rules(stops: set[int], temperature: float = 1.0) -> Sampling:
    return Sampling(14, frozenset(stops), temperature, PAD, static=True)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def assert_same(found: Response, expected: Response) -> None:
    assert found.ids == expected.ids
    assert found.finished == expected.finished
    assert found.logprobs == pytest.approx(expected.logprobs, abs=2e-5)


class Recording(TorchDispatchMode):
    """The operations of a block, to be run again on the same tensors as a CUDA graph runs them.

    Whatever Python decided stays decided, and reading a number of a tensor is an error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.name()
        if name.startswith(("aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh")):
            raise RuntimeError(f"{name}: not while recording")
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        """Run the same operations on the same tensors, results of old ones in their places."""
        now: dict[int, Tensor] = {}

        def current(value: object) -> object:
            return now.get(id(value), value)

        for func, args, kwargs, before in self.calls:
            found = func(*tree_map(current, args), **tree_map(current, kwargs))
            pairs = zip(_tensors(before), _tensors(found), strict=True)
            now |= {id(old): new for old, new in pairs if old is not new}


def _tensors(value: object) -> list[Tensor]:
    parts = value if isinstance(value, tuple | list) else (value,)
    return [part for part in parts if isinstance(part, Tensor)]


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recording]]:
    """Steps are recorded and replayed without a GPU."""
    made: list[Recording] = []

    def recorded(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
        kept = [part.clone() for part in _state(work)]
        recording = Recording()
        with recording:
            work()
        # on a GPU, recording computes nothing
        for part, before in zip(_state(work), kept, strict=True):
            part.copy_(before)
        made.append(recording)
        return recording.replay

    def runs_ahead(work: Callable[[], None], device: torch.device) -> bool:
        work()
        return True

    monkeypatch.setattr(static, "recorded", recorded)
    monkeypatch.setattr(static, "runs_ahead", runs_ahead)
    yield made
    assert made, "nothing was recorded"


def _state(work: Any) -> list[Tensor]:
    """What a step of `StaticSteps` changes."""
    steps = work.__self__
    layers = [part for layer in steps._cache.layers for part in (layer.keys, layer.values)]
    return [steps._place, steps._positions, steps._mask, steps.logits, *layers]


@pytest.mark.parametrize("stops", STOPS)
def test_a_replayed_step_is_a_step(stops: set[int], recordings: list[Recording]) -> None:
    # The growing cache stands against a loop without any cache in test_generation.py.
    model = tiny_llama()
    expected = generate(model, PROMPTS, replace(rules(stops, 0), static=False))
    for one, other in zip(generate(model, PROMPTS, rules(stops, 0)), expected, strict=True):
        assert_same(one, other)
    assert len(recordings[0].calls) > 20


@pytest.mark.parametrize("shared", [0, 2])
def test_draws_and_values_are_those_of_a_growing_cache(
    shared: int, recordings: list[Recording]
) -> None:
    model = tiny_llama(spread=6)
    probe = nn.Linear(16, 1)
    prompts = [[3, 7, *prompt] for prompt in PROMPTS]
    options: dict[str, Any] = {"probe": probe, "shared": shared}
    grown = replace(rules({2, 5}), static=False)
    expected = generate(model, prompts, grown, rng(), **options)
    found = generate(model, prompts, rules({2, 5}), rng(), **options)
    assert len({len(response.ids) for response in expected}) > 2
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
        assert one.values == pytest.approx(other.values, abs=1e-5)


def test_every_shape_has_an_ordinary_step_before_it_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[tuple[str, int]] = []

    def write(name: str, found: object) -> Callable[..., object]:
        def spy(work: Any, device: torch.device) -> object:
            done.append((name, len(work.__self__._ids)))
            if found is True:
                work()
            return found and work

        return spy

    monkeypatch.setattr(static, "runs_ahead", write("once", True))
    monkeypatch.setattr(static, "recorded", write("record", "it"))
    found = generate(tiny_llama(spread=4), PROMPTS, rules(set(range(1, V, 8))), rng())
    assert [len(response.ids) for response in found] == [2, 7, 2, 14, 5]
    # two go on after five tokens; for the last one, after seven, too few steps are left
    assert done == [("once", 5), ("record", 5), ("once", 2), ("record", 2), ("once", 1)]


def test_rows_leave_when_half_of_them_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    step = static.StaticSteps.step

    def spy(self: static.StaticSteps, chosen: Tensor) -> None:
        widths.append(len(chosen))
        step(self, chosen)

    monkeypatch.setattr(static.StaticSteps, "step", spy)
    model = tiny_llama()
    found = generate(model, PROMPTS, rules(set(range(0, V, 2)), 0))
    # after each token: all rows, until half or fewer of those still there are at work
    left, expected = len(PROMPTS), []
    for made in range(1, 14):
        at_work = sum(len(response.ids) > made for response in found)
        if not at_work:
            break
        left = at_work if left - at_work >= left / 2 else left
        expected.append(left)
    assert widths == expected
    assert len(set(widths)) > 1


def test_a_growing_cache_is_the_default_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a static cache")

    monkeypatch.setattr(static.StaticSteps, "__init__", fail)
    plain = replace(rules({1}, 0), static=None)
    generate(tiny_llama(), PROMPTS, plain)
    with pytest.raises(AssertionError, match="a static cache"):
        generate(tiny_llama(), PROMPTS, rules({1}, 0))


def test_which_models_can() -> None:
    qwen = Qwen2Config(**SHAPE)
    assert can_be_static(tiny_llama())
    assert can_be_static(Qwen2ForCausalLM(qwen))
    split, spread = tiny_llama(), tiny_llama()
    split.lm_head.weight.data = torch.empty(0)  # as DeepSpeed leaves what others hold
    spread.lm_head.to("meta")  # any device but that of the others
    assert not can_be_static(split)
    assert not can_be_static(spread)
    eager = Qwen2ForCausalLM._from_config(qwen, attn_implementation="eager")
    falcon = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": V}
    others: list[PreTrainedModel] = [
        eager,
        GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=16, n_layer=1, n_head=2)),
        MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)),
        FalconForCausalLM(FalconConfig(**falcon, alibi=True)),
    ]
    for model in others:
        assert not can_be_static(model), type(model)
        generate(model.eval(), [[3, 4], [5]], rules({1}, 0))


def test_a_batch_leaves_nothing_behind() -> None:
    # Without the collector of cycles: a cache that waits for it would be memory lost meanwhile.
    caches: list[weakref.ref[DynamicCache]] = []
    model = tiny_llama()
    read = model.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        caches.append(weakref.ref(kwargs["past_key_values"]))
        return read(*args, **kwargs)

    model.forward = spy
    gc.disable()
    try:
        generate(model, PROMPTS, rules({1}, 0))
        assert caches
        assert all(cache() is None for cache in caches)
    finally:
        gc.enable()


def common(one: list[int], other: list[int]) -> int:
    """How many tokens two responses begin with alike."""
    pairs = zip(one, other, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("autocast", [False, True])
def test_graphs_on_a_gpu(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    made: list[object] = []
    record = static.recorded
    monkeypatch.setattr(static, "recorded", lambda *given: made.append(record(*given)) or made[-1])
    model, stops = tiny_llama(spread=4).cuda(), set(range(1, V, 8))
    probe = nn.Linear(16, 1).cuda()
    stream, held = torch.cuda.current_stream(), []
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        grown = replace(rules(stops), static=False)
        expected = generate(model, PROMPTS, grown, rng(), probe=probe)
        gc.disable()
        for _ in range(4):  # each time over memory that others have used
            found = generate(model, PROMPTS, rules(stops), rng(), probe=probe)
            held.append(torch.cuda.memory_allocated())
            for one, other in zip(found, expected, strict=True):
                same = common(one.ids, other.ids)
                assert autocast or same == len(one.ids) == len(other.ids)
                assert same >= 2
                near = 0.1 if autocast else 1e-4
                wanted = pytest.approx(other.logprobs[:same], abs=near)
                assert one.logprobs[:same] == wanted
                assert one.values[:same] == pytest.approx(other.values[:same], abs=near)
        gc.enable()
    assert len(made) == 4 * 2  # all rows; the two that go on after five tokens
    assert all(made), "a step could not be recorded"
    assert held[1:] == held[1:2] * 3
    assert torch.cuda.current_stream() == stream
