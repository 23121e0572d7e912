"""The engine against one forward pass at a time, without padding, batches or shared work."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from align.progress import Progress
from evals.engine import Engine
from evals.requests import Request


def logprobs(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities (S, V) of one sequence, by definition."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return logits - logits.exp().sum(-1, keepdim=True).log()


def by_definition(model: Any, request: Request) -> tuple[float, bool]:
    """Sum over the continuation of log p(token | all before), and whether greedy gives it."""
    ids = [*request.context, *request.continuation]
    rows = logprobs(model, ids)
    first = len(request.context)
    steps = [rows[i - 1] for i in range(first, len(ids))]
    total = sum(float(step[ids[first + i]]) for i, step in enumerate(steps))
    return total, all(int(step.argmax()) == ids[first + i] for i, step in enumerate(steps))


def random_requests(n: int, seed: int = 0) -> list[Request]:
    generator = np.random.default_rng(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(generator.integers(3, 300, generator.integers(low, high)).tolist())

    requests = [Request(ids(1, 30), ids(1, 12)) for _ in range(n)]
    shared = ids(5, 20)
    return requests + [Request(shared, ids(1, 4)) for _ in range(5)] + requests[:3]


def test_sums_equal_the_definition(engine: Engine) -> None:
    requests = random_requests(40)
    scores = engine.loglikelihoods(requests)
    expected = [by_definition(engine.model, request)[0] for request in requests]
    np.testing.assert_allclose(scores.sums, expected, atol=1e-4)
    assert scores.tokens.tolist() == [len(request.continuation) for request in requests]


@pytest.mark.parametrize("budget", [1, 7 * 40, 64 * 40])
def test_numbers_do_not_depend_on_batch_or_order(engine: Engine, budget: int) -> None:
    requests = random_requests(60)
    expected = engine.loglikelihoods(requests).sums
    other = Engine(engine.model, engine.tokenizer, batch_tokens=budget)
    order = np.random.default_rng(budget).permutation(len(requests))
    shuffled = other.loglikelihoods([requests[i] for i in order]).sums
    np.testing.assert_allclose(shuffled, expected[order], atol=1e-4)


def test_greedy_flag_follows_the_most_likely_tokens(engine: Engine) -> None:
    context = [5, 9, 40]
    best: list[int] = []
    for _ in range(4):
        best.append(int(logprobs(engine.model, context + best)[-1].argmax()))
    good = Request(tuple(context), tuple(best))
    spoilt = Request(tuple(context), (*best[:3], (best[3] + 1) % 300))
    assert engine.loglikelihoods([good, spoilt]).greedy.tolist() == [True, False]


def test_requests_that_do_not_fit_are_nan_and_said_why(engine: Engine) -> None:
    long = Request(tuple(range(3, 93)), tuple(range(3, 10)))  # 90 + 7 - 1 = 96: fits exactly
    longer = Request((*long.context, 3), long.continuation)
    empty = Request((4,), ())
    scores = engine.loglikelihoods([long, longer, empty, Request((4,), (5,))])
    assert np.isnan(scores.sums).tolist() == [False, True, True, False]
    assert engine.problem(longer) == "longer than the model's 96 tokens"
    assert engine.problem(empty) == "empty response"


def test_empty_context_is_bos(engine: Engine) -> None:
    scores = engine.loglikelihoods([Request((), (5, 6)), Request((1,), (5, 6))])
    assert scores.sums[0] == scores.sums[1]


def test_no_request_gives_empty_arrays(engine: Engine) -> None:
    assert engine.loglikelihoods([]).sums.shape == (0,)


def test_rolling_equals_the_definition(engine: Engine) -> None:
    texts = ["The cook praised the soup", "", "x", "the baker sold bread and soup " * 20]
    scores = engine.rolling(texts)
    ids = engine.tokenizer(texts[3], add_special_tokens=False)["input_ids"]
    assert len(ids) > 96 + 10
    whole = [1, *ids]
    # First window: inputs whole[0:96] predict ids[0:96]; last: 96 inputs that end before the last
    # token, of which only the new ones count.
    first = logprobs(engine.model, whole[:96])
    total = sum(float(first[i, ids[i]]) for i in range(96))
    last = logprobs(engine.model, whole[len(ids) - 96 : len(ids)])
    total += sum(float(last[i - (len(ids) - 96), ids[i]]) for i in range(96, len(ids)))
    assert len(ids) <= 192
    assert scores.sums[3] == pytest.approx(total, abs=1e-3)
    assert math.isnan(scores.sums[1])
    assert scores.tokens.tolist()[1:] == [0, 1, len(ids)]
    assert not scores.greedy[1]
    short = engine.tokenizer(texts[0], add_special_tokens=False)["input_ids"]
    expected = by_definition(engine.model, Request((1,), tuple(short)))[0]
    assert scores.sums[0] == pytest.approx(expected, abs=1e-4)


def greedy_by_definition(model: Any, prompt: list[int], n: int, stops: set[int]) -> list[int]:
    out: list[int] = []
    for _ in range(n):
        out.append(int(logprobs(model, prompt + out)[-1].argmax()))
        if out[-1] in stops:
            break
    return out


@pytest.mark.parametrize("budget", [1, 200, 4000])
def test_generation_equals_one_token_at_a_time(engine: Engine, budget: int) -> None:
    generator = np.random.default_rng(1)
    prompts = [generator.integers(3, 300, n).tolist() for n in (2, 9, 30, 5, 17, 9)]
    other = Engine(engine.model, engine.tokenizer, batch_tokens=budget)
    responses = other.generate(prompts, 10)
    expected = [greedy_by_definition(engine.model, prompt, 10, {2}) for prompt in prompts]
    assert [response.ids for response in responses] == expected


def test_generation_runs_examples_once(engine: Engine) -> None:
    generator = np.random.default_rng(2)
    start = generator.integers(3, 300, 20).tolist()
    prompts = [start + generator.integers(3, 300, n).tolist() for n in (3, 9, 5)]
    run: list[tuple[int, ...]] = []
    hook = engine.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: run.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    responses = engine.generate(prompts, 10)
    hook.remove()
    expected = [greedy_by_definition(engine.model, prompt, 10, {2}) for prompt in prompts]
    assert [response.ids for response in responses] == expected
    assert run[:2] == [(1, 20), (3, 9)]


def test_generation_ends_with_the_end_token(engine: Engine) -> None:
    free = engine.generate([[5, 9, 40, 7], [20, 21]], 6)
    assert not any(response.finished for response in free)
    # Call the third token of the first response EOS: it must be the last one.
    end = free[0].ids[2]
    first = free[0].ids.index(end)
    tokenizer = copy.deepcopy(engine.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    stopped = Engine(engine.model, tokenizer).generate([[5, 9, 40, 7], [20, 21]], 6)
    assert stopped[0].ids == free[0].ids[: first + 1]
    assert stopped[0].finished


def test_samples_do_not_depend_on_order_or_batch_but_on_the_seed(engine: Engine) -> None:
    generator = np.random.default_rng(2)
    prompts = [generator.integers(3, 300, n % 13 + 2).tolist() for n in range(70)]
    first = [r.ids for r in engine.sample(prompts, 8, 1.0, seed=3)]
    order = generator.permutation(len(prompts))
    small = Engine(engine.model, engine.tokenizer, batch_tokens=30)
    again = [r.ids for r in small.sample([prompts[i] for i in order], 8, 1.0, seed=3)]
    assert again == [first[i] for i in order]
    assert [r.ids for r in engine.sample(prompts, 8, 1.0, seed=4)] != first
    # The second block of 64 must not repeat the draws of the first.
    same = engine.sample([[5, 6]] * 128, 8, 1.0, seed=3)
    assert [r.ids for r in same[:64]] != [r.ids for r in same[64:]]


def test_sampling_follows_the_models_distribution(engine: Engine) -> None:
    drawn = engine.sample([[5, 6]] * 4096, 1, 0.7, seed=0)
    counts = np.bincount([r.ids[0] for r in drawn], minlength=engine.model.config.vocab_size)
    with torch.no_grad():
        logits = engine.model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].double() / 0.7
    expected = torch.softmax(logits, -1).numpy()
    # Total variation of 4096 draws from this peaked distribution; at temperature 1 it is 0.2.
    assert np.abs(counts / 4096 - expected).sum() / 2 < 0.08


def test_prompts_without_room_are_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="90 tokens and 10 new ones exceed 96"):
        engine.generate([[5] * 90], 10)


def no_gpu_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def no_cpu_memory() -> None:
    torch.empty(2**60)  # torch's own error for 2^62 bytes


def failing_above(
    model: Any, rows: int, fail: Callable[[], None] = no_gpu_memory
) -> Callable[..., Any]:
    """A trunk that runs out of memory above so many sequences."""
    forward = model.forward

    def limited(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[0] > rows:
            fail()
        return forward(*args, **kwargs)

    return limited


@pytest.mark.parametrize("fail", [no_gpu_memory, no_cpu_memory])
def test_out_of_memory_halves_the_batch_and_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None]
) -> None:
    requests = random_requests(30)
    expected = engine.loglikelihoods(requests).sums
    prompts = [[5 + n % 20] * (n % 13 + 2) for n in range(70)]
    sampled = [response.ids for response in engine.sample(prompts, 8, 1.0, seed=3)]
    greedy = [answer.ids for answer in engine.generate(prompts, 8)]
    out = io.StringIO()
    large = Engine(engine.model, engine.tokenizer, 4000, Progress(out=out))
    trunk = engine.model.base_model
    monkeypatch.setattr(trunk, "forward", failing_above(trunk, 3, fail))
    np.testing.assert_allclose(large.loglikelihoods(requests).sums, expected, atol=1e-4)
    assert large.batch_tokens < 4000
    assert f"going on with {large.batch_tokens} tokens" in out.getvalue()
    for work, expected_ids in ((large.sample, sampled), (large.generate, greedy)):
        large.batch_tokens = 4000
        settings = (1.0, 3) if work == large.sample else ()
        assert [found.ids for found in work(prompts, 8, *settings)] == expected_ids
        assert large.batch_tokens < 100  # 3 sequences of at most 14 + 8 tokens, or little more


def test_other_errors_are_not_taken_for_want_of_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trunk = engine.model.base_model
    monkeypatch.setattr(trunk, "forward", failing_above(trunk, 3, fail))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        engine.loglikelihoods(random_requests(30))


def test_one_sequence_without_memory_is_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = engine.model.base_model
    monkeypatch.setattr(trunk, "forward", failing_above(trunk, 0))
    with pytest.raises(torch.OutOfMemoryError):
        engine.loglikelihoods(random_requests(3))


def test_models_that_cap_their_logits_run_whole(tiny_tokenizer: Any) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=96,
        final_logit_softcapping=0.5,
        initializer_range=0.3,
        sliding_window=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma2ForCausalLM(config).eval()
    requests = random_requests(10)
    scores = Engine(model, tiny_tokenizer, 200).loglikelihoods(requests)
    expected = [by_definition(model, request)[0] for request in requests]
    np.testing.assert_allclose(scores.sums, expected, atol=1e-4)


def test_logits_are_made_in_pieces(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = random_requests(20)
    expected = engine.loglikelihoods(requests).sums
    monkeypatch.setattr("evals.passes._LOGITS", 5 * engine.model.config.vocab_size)
    np.testing.assert_allclose(engine.loglikelihoods(requests).sums, expected, atol=1e-4)
