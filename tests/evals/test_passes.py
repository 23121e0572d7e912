"""Shared beginnings against one whole forward pass a request, without padding or cache."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from evals import passes
from evals.engine import Engine
from evals.passes import can_share
from evals.requests import Request

Ids = tuple[int, ...]


def by_definition(model: Any, request: Request) -> tuple[float, bool]:
    """Sum of log p(token | all before), and whether every token leads, from one whole pass."""
    context, continuation = request
    ids = torch.tensor([[*context, *continuation]])
    with torch.no_grad():
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0].double()
    logits = logits[len(context) - 1 :]
    wanted = ids[0, len(context) :]
    chosen = logits.log_softmax(-1).gather(-1, wanted[:, None])
    return float(chosen.sum()), bool((logits.argmax(-1) == wanted).all())


def ids(generator: np.random.Generator, low: int, high: int) -> Ids:
    return tuple(generator.integers(3, 300, generator.integers(low, high)).tolist())


def questions(n: int = 12, seed: int = 0, shots: int = 0) -> list[Request]:
    """Questions of 9 to 40 tokens with 1 to 5 choices, some of which begin alike."""
    generator = np.random.default_rng(seed)
    header = ids(generator, shots, shots + 1)
    requests = []
    for _ in range(n):
        context = header + ids(generator, 9, 41)
        begun = ids(generator, 0, 4)
        for _ in range(generator.integers(1, 6)):
            requests.append(Request(context, begun + ids(generator, 1, 12)))
    return requests


@pytest.fixture
def ran(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what goes through the tiny model's trunk from now on."""
    return watch(tiny_model, monkeypatch)


def watch(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    forward = model.base_model.forward

    def noted(*args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.base_model, "forward", noted)
    return shapes


@pytest.mark.parametrize("longest", [512, 40])
@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("shots", [0, 30])
def test_shared_contexts_change_no_number(
    engine: Engine, rows: int, shots: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "_LONGEST", longest)
    requests = questions(shots=shots)
    expected = [by_definition(engine.model, request) for request in requests]
    order = np.random.default_rng(rows).permutation(len(requests))
    other = Engine(engine.model, engine.tokenizer, batch_tokens=rows * 90)
    scores = other.loglikelihoods([requests[index] for index in order])
    np.testing.assert_allclose(scores.sums, [expected[i][0] for i in order], atol=1e-4)
    assert scores.greedy.tolist() == [expected[i][1] for i in order]


def test_most_likely_choices_are_found_across_segments(engine: Engine) -> None:
    # The most likely answer to each question beside others that leave it at every later token.
    generator = np.random.default_rng(3)
    requests: list[Request] = []
    for _ in range(5):
        context, best = ids(generator, 12, 30), []
        for _ in range(4):
            with torch.no_grad():
                row = torch.tensor([[*context, *best]])
                best.append(int(engine.model(input_ids=row).logits[0, -1].argmax()))
        requests.append(Request(context, tuple(best)))
        for place in range(4):
            spoilt = (*best[:place], (best[place] + 1) % 300, *best[place + 1 :])
            requests.append(Request(context, spoilt))
    greedy = Engine(engine.model, engine.tokenizer, 4000).loglikelihoods(requests).greedy
    assert greedy.tolist() == [True, False, False, False, False] * 5


def test_choices_run_the_context_once(
    tiny_model: Any, tiny_tokenizer: Any, ran: list[tuple[int, ...]]
) -> None:
    engine = Engine(tiny_model, tiny_tokenizer, 4000)
    ran.clear()
    context = tuple(range(5, 65))
    requests = [Request(context, (100 + n, *range(200, 204))) for n in range(4)]
    engine.loglikelihoods(requests)
    # The last token of a choice is predicted and never put in: 60 + 4 x 4 = 76 tokens of 256.
    assert ran == [(1, 76)]
    # Single tokens are all predicted from the context.
    ran.clear()
    engine.loglikelihoods([Request(context, (100 + n,)) for n in range(4)])
    assert ran == [(1, 60)]


@pytest.mark.parametrize(("longest", "shapes"), [(124, [(1, 124)]), (123, [(1, 40), (3, 28)])])
def test_few_shot_examples_run_once_a_batch(
    tiny_model: Any,
    tiny_tokenizer: Any,
    ran: list[tuple[int, ...]],
    longest: int,
    shapes: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(tiny_model, tiny_tokenizer, 4000)
    monkeypatch.setattr(passes, "_LONGEST", longest)
    ran.clear()
    shots = tuple(range(5, 45))
    requests = [
        Request((*shots, *[50 + question] * 20), (100 + n, 7, 8))
        for question in range(3)
        for n in range(4)
    ]
    engine.loglikelihoods(requests)
    # 40 examples, 3 questions of 20, 12 choices of 2 tokens: 124 tokens instead of 12 x 62 = 744.
    # In one sequence, or the examples alone and below them a sequence of 28 for each question.
    assert ran == shapes


def test_each_large_family_has_a_beginning_of_its_own(
    tiny_model: Any,
    tiny_tokenizer: Any,
    ran: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passes, "_LONGEST", 70)
    engine = Engine(tiny_model, tiny_tokenizer, 4000)
    # Two families of 40 + 3 x 12 = 76 tokens, and one of 20 + 3 x 2 = 26, in one batch.
    requests = [
        Request((start,) * length, (100 + n, *range(200, 200 + tail)))
        for start, length, tail in [(5, 40, 12), (6, 20, 2), (7, 40, 12)]
        for n in range(3)
    ]
    expected = [by_definition(tiny_model, request)[0] for request in requests]
    ran.clear()
    scores = engine.loglikelihoods(requests)
    assert ran == [(1, 40), (3, 12), (1, 40), (3, 12), (1, 26)]
    np.testing.assert_allclose(scores.sums, expected, atol=1e-4)


def test_rows_that_share_nothing_run_as_before(
    tiny_model: Any,
    tiny_tokenizer: Any,
    ran: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passes, "_LONGEST", 15)
    engine = Engine(tiny_model, tiny_tokenizer, 4000)
    ran.clear()
    engine.loglikelihoods([Request((5 + n,) * 20, (9, 10)) for n in range(6)])
    assert ran == [(6, 21)]


def test_a_pass_with_enough_tokens_on_a_cpu_is_not_padded_further(
    tiny_model: Any, tiny_tokenizer: Any, ran: list[tuple[int, ...]]
) -> None:
    engine = Engine(tiny_model, tiny_tokenizer, 4000)
    ran.clear()
    lengths = [30] * 18 + [20] * 18
    engine.loglikelihoods([Request((5 + n,) * m, (9,)) for n, m in enumerate(lengths)])
    # 18 x 30 = 540 tokens are enough; k rows of 20 join them while the padding stays below 1/16:
    # (18 + k) 30 <= 17/16 (540 + 20 k) up to k = 3.
    assert ran == [(21, 30), (15, 20)]


def test_logits_exist_a_part_at_a_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = questions(6)
    expected = [by_definition(engine.model, request)[0] for request in requests]
    monkeypatch.setattr(passes, "_LOGITS", 5 * engine.model.config.vocab_size)
    head = engine.model.get_output_embeddings()
    sizes: list[int] = []
    with head.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[0])):
        found = engine.loglikelihoods(requests).sums
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert max(sizes) == 5


def test_longest_families_run_first(
    tiny_model: Any, tiny_tokenizer: Any, ran: list[tuple[int, ...]]
) -> None:
    engine = Engine(tiny_model, tiny_tokenizer, 66)
    ran.clear()
    requests = [
        Request((5 + n,) * length, (100 + choice, 7))
        for n, length in enumerate([16, 30, 22, 31])
        for choice in range(2)
    ]
    engine.loglikelihoods(requests)
    # Families of 33, 32, 24 and 18 tokens: 66 hold two of 33.
    assert ran == [(2, 33), (2, 24)]


def test_padding_beside_a_family_sees_nothing_that_matters(engine: Engine) -> None:
    # A family of 64 tokens beside a row of 3, in one pass.
    family = [Request(tuple(range(5, 45)), (n, *range(50, 56))) for n in range(4)]
    requests = [*family, Request((7, 8, 9), (10,))]
    expected = [by_definition(engine.model, request)[0] for request in requests]
    found = Engine(engine.model, engine.tokenizer, 4000).loglikelihoods(requests).sums
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("shots", [0, 30])
def test_out_of_memory_goes_on_with_smaller_passes(
    engine: Engine, shots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = questions(20, seed=1, shots=shots)
    expected = engine.loglikelihoods(requests).sums
    large = Engine(engine.model, engine.tokenizer, 8000)
    trunk = engine.model.base_model
    forward = trunk.forward

    def limited(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].numel() > 200:
            raise torch.OutOfMemoryError("no memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(trunk, "forward", limited)
    np.testing.assert_allclose(large.loglikelihoods(requests).sums, expected, atol=1e-4)
    assert large.batch_tokens < 8000


def make(config: Any, kind: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config).eval()


def test_learned_positions_are_never_exceeded(tiny_tokenizer: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=400, n_positions=48, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3
    )
    model = make(config, GPT2LMHeadModel)
    generator = np.random.default_rng(0)
    short, full = ids(generator, 12, 13), ids(generator, 46, 47)
    # Beside ends of 20 tokens the full rows are padded to 46 + 20 places of a model that has 48.
    requests = [Request(short, (n, *ids(generator, 19, 20))) for n in range(5, 12)]
    requests += [Request(full, (n, 4, 5)) for n in range(5, 12)]
    engine = Engine(model, tiny_tokenizer, 4000)
    assert can_share(model)
    expected = [by_definition(model, request)[0] for request in requests]
    np.testing.assert_allclose(engine.loglikelihoods(requests).sums, expected, atol=1e-4)


def windowed() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
        sliding_window=8, initializer_range=0.3,
    )  # fmt: skip
    return make(config, MistralForCausalLM)


def without_positions() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    config.max_position_embeddings = 96
    return make(config, BloomForCausalLM)


@pytest.mark.parametrize("build", [windowed, without_positions])
def test_models_that_cannot_go_on_from_padding_share_nothing(
    build: Callable[[], Any], tiny_tokenizer: Any
) -> None:
    model = build()
    assert not can_share(model)
    requests = questions(6)
    expected = [by_definition(model, request)[0] for request in requests]
    scores = Engine(model, tiny_tokenizer, 4000).loglikelihoods(requests)
    np.testing.assert_allclose(scores.sums, expected, atol=1e-4)


def test_scaled_logits_are_shared_whole(tiny_tokenizer: Any) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=96,
        logits_scaling=2.0, initializer_range=0.3,
    )  # fmt: skip
    model = make(config, GraniteForCausalLM)
    assert can_share(model)
    requests = questions(6)
    expected = [by_definition(model, request)[0] for request in requests]
    scores = Engine(model, tiny_tokenizer, 4000).loglikelihoods(requests)
    np.testing.assert_allclose(scores.sums, expected, atol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bfloat16_stays_as_near_as_rounding_allows(
    tiny_model: Any, tiny_tokenizer: Any, attention: str
) -> None:
    model = copy.deepcopy(tiny_model).to(torch.bfloat16)
    model.set_attn_implementation(attention)
    requests = questions()
    exact = np.array([by_definition(tiny_model, request)[0] for request in requests])
    plain = np.array([by_definition(model, request)[0] for request in requests])
    shared = Engine(model, tiny_tokenizer, 4000).loglikelihoods(requests).sums
    # Rounding moves a sum of these by up to `rounding`; sharing rounds elsewhere, not more.
    rounding = np.abs(plain - exact)
    assert np.abs(shared - exact).max() < 2 * rounding.max()
    assert np.abs(shared - exact).mean() < 1.5 * rounding.mean()


def test_float64_is_kept(tiny_model: Any, tiny_tokenizer: Any) -> None:
    model = copy.deepcopy(tiny_model).double()
    requests = questions(shots=30)
    expected = [by_definition(model, request)[0] for request in requests]
    scores = Engine(model, tiny_tokenizer, 4000).loglikelihoods(requests)
    # float32 alone would round sums of this size by 1e-6
    np.testing.assert_allclose(scores.sums, expected, rtol=0, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_sums_on_a_gpu(tiny_model: Any, tiny_tokenizer: Any, kind: torch.dtype) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    requests = questions(shots=30)
    exact = np.array([by_definition(tiny_model, request)[0] for request in requests])
    rounded = copy.deepcopy(tiny_model).to(kind)
    plain = np.array([by_definition(rounded, request)[0] for request in requests])
    model = rounded.to("cuda")
    shared = Engine(model, tiny_tokenizer, 4000).loglikelihoods(requests).sums
    # As above: 1e-4 in float32, the error of rounding in bfloat16.
    assert np.abs(shared - exact).max() < 1e-4 + 2 * np.abs(plain - exact).max()
