"""Policy, reference and critic on sampled responses (docs/ppo.md items 1, 3, 5, 20)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from align.config import LoraConfig
from align.errors import UserError
from align.generation import Response, Sampling, generate
from align.ppo.actor import Actor, ppo_sampling
from align.ppo.actor import make_actor as actor_of
from align.ppo.config import PPOConfig
from align.ppo.passes import Passes
from align.ppo.prompts import PromptBatch
from align.shared import SharedBase

Parts = Callable[..., SharedBase]
LORA = LoraConfig(r=4, alpha=8)
EOS = 1
BATCH = PromptBatch(
    ["a b c", "d", "e f g h i", "j k"], [[3, 4, 5], [6], [7, 8, 9, 10, 11], [12, 13]], {}
)
STOPS = frozenset({EOS, 4, 8, 12, 16, 20, 24, 28})
"""Many, so that responses have different lengths."""


def make_actor(
    shared: SharedBase,
    tokenizer: PreTrainedTokenizerFast,
    temperature: float = 1.0,
    pad: int = 0,
    **more: Any,
) -> Actor:
    def autocast() -> AbstractContextManager[None]:
        return nullcontext()

    sampling = Sampling(7, STOPS, temperature, pad)
    sizes = {"at_once": 4, "micro_batch": 4}
    return Actor(Passes(shared, temperature, autocast), tokenizer, sampling, **sizes | more)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.8])
@pytest.mark.parametrize("pad", [0, EOS])
def test_the_trainer_recomputes_what_the_sampler_saw(
    shared: SharedBase, tokenizer: PreTrainedTokenizerFast, temperature: float, pad: int
) -> None:
    # Items 1, 2, 3, 5: same temperature, positions and masks, with and without cache.
    actor = make_actor(shared, tokenizer, temperature, pad)
    responses = actor.respond(BATCH, rng())
    rollout = actor.measure(BATCH, responses)
    assert len({len(response.ids) for response in responses}) > 1
    torch.testing.assert_close(
        rollout.logprobs[rollout.mask], rollout.sampler_logprobs[rollout.mask], atol=1e-5, rtol=0
    )
    # the reference is another distribution, so the agreement is no accident
    assert not torch.allclose(rollout.reference, rollout.sampler_logprobs, atol=0.1)


def test_each_part_measures_its_own(shared: SharedBase, tokenizer: PreTrainedTokenizerFast) -> None:
    # Item 20: log-probabilities of policy and bare base, values of the critic, row by row.
    actor = make_actor(shared, tokenizer, micro_batch=3)
    responses = [Response([14, 15, EOS], [0.0] * 3, True), Response([16], [0.0], False)]
    batch = PromptBatch(BATCH.prompts[:2], BATCH.ids[:2], {})
    rollout = actor.measure(batch, responses)
    assert not rollout.logprobs.requires_grad
    assert shared.active_adapter == "policy"
    for row, response in enumerate(responses):
        ids, n = torch.tensor([batch.ids[row] + response.ids]), len(response.ids)
        start, chosen = len(batch.ids[row]) - 1, torch.tensor(response.ids)
        for name, field in (("policy", "logprobs"), (None, "reference")):
            with torch.no_grad(), shared.active(name):
                said = shared.causal(ids).logits[0, start:-1].log_softmax(-1)
            expected = said[torch.arange(n), chosen]
            found = getattr(rollout, field)[row]
            torch.testing.assert_close(found[:n], expected, atol=1e-5, rtol=1e-5)
            assert found[n:].tolist() == [0.0] * (3 - n)
        with torch.no_grad(), shared.active("critic"):
            hidden = shared.causal.base_model(ids).last_hidden_state[0, start:]
            values = shared.heads["critic"](hidden)[:, 0]
        torch.testing.assert_close(rollout.values[row, : n + 1], values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("micro_batch", "at_once"), [(1, 4), (3, 4), (4, 1), (2, 3)])
def test_sizes_of_batches_change_nothing(
    shared: SharedBase, tokenizer: PreTrainedTokenizerFast, micro_batch: int, at_once: int
) -> None:
    # Item 1: neither how many are sampled nor how many are measured together.
    whole = make_actor(shared, tokenizer)
    expected = whole.respond(BATCH, rng(1))
    parts = make_actor(shared, tokenizer, micro_batch=micro_batch, at_once=at_once)
    found = parts.respond(BATCH, rng(1))
    assert [response.ids for response in found] == [response.ids for response in expected]
    one, other = whole.measure(BATCH, expected), parts.measure(BATCH, expected)
    for name in ("logprobs", "reference", "values"):
        mask = one.mask if name != "values" else torch.ones_like(one.values, dtype=torch.bool)
        if name == "values":
            mask = torch.arange(mask.shape[1])[None] <= one.mask.sum(1, keepdim=True)
        torch.testing.assert_close(
            getattr(other, name)[mask], getattr(one, name)[mask], atol=1e-5, rtol=1e-5
        )


def test_the_policy_responds_whatever_was_active(
    shared: SharedBase, tokenizer: PreTrainedTokenizerFast
) -> None:
    actor = make_actor(shared, tokenizer)
    expected = generate(shared.causal, BATCH.ids, actor.sampling, rng(2))
    shared.activate("critic")
    found = actor.respond(BATCH, rng(2))
    assert [response.ids for response in found] == [response.ids for response in expected]
    for one, other in zip(found, expected, strict=True):
        # the actor samples prompts in the order of their lengths, which rounds differently
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
    assert shared.active_adapter == "critic"


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_sampler_reads_the_values_of_a_full_pass(
    make_parts: Parts, tokenizer: PreTrainedTokenizerFast, temperature: float
) -> None:
    base = make_parts(LORA, "head")
    actor = make_actor(base, tokenizer, temperature, exact=True)
    responses = actor.respond(BATCH, rng())
    assert len({len(response.ids) for response in responses}) > 1
    weight, bias = (p.detach() for p in base.heads["critic"].parameters())
    assert bias.item() != 0.0
    for prompt, response in zip(BATCH.ids, responses, strict=True):
        ids, start = torch.tensor([prompt + response.ids]), len(prompt) - 1
        with torch.no_grad():
            hidden = base.causal.model(ids).last_hidden_state[0, start:-1]
        expected = (hidden @ weight[0] + bias).tolist()
        assert response.values == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("last_value", [False, True])
@pytest.mark.parametrize("head", [False, True])
def test_what_the_sampler_knows_is_not_measured_again(
    make_parts: Parts,
    shared: SharedBase,
    tokenizer: PreTrainedTokenizerFast,
    head: bool,
    last_value: bool,
) -> None:
    # Item 5: the same rollout from both, and fewer passes. A value after the last token, which
    # bootstrapping needs, is known to no sampler: a head on the policy then runs again.
    base = make_parts(LORA, "head") if head else shared
    rollouts, passes = [], []
    for exact in (False, True):
        actor = make_actor(base, tokenizer, 0.8, exact=exact)
        responses = actor.respond(BATCH, rng(3))
        seen: list[str | None] = []
        hook = base.causal.model.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(base.active_adapter)
        )
        rollouts.append(actor.measure(BATCH, responses, last_value=last_value))
        hook.remove()
        passes.append(seen)
    full, reused = rollouts
    assert passes[0] == ([None, "policy"] if head else [None, "policy", "critic"])
    if head:
        assert passes[1] == ([None, "policy"] if last_value else [None])
    else:
        assert passes[1] == [None, "critic"]
    torch.testing.assert_close(reused.reference, full.reference)
    torch.testing.assert_close(reused.logprobs, full.logprobs, atol=1e-5, rtol=0)
    states = torch.arange(full.values.shape[1])[None] < full.mask.sum(1, keepdim=True) + last_value
    torch.testing.assert_close(reused.values[states], full.values[states], atol=1e-5, rtol=0)
    assert full.values[states].abs().min().item() > 1e-4


def test_only_numbers_in_full_precision_are_reused(
    make_model: Callable[..., LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    def exact(dtype: torch.dtype = torch.float32, **arguments: Any) -> bool:
        args = PPOConfig(output_dir=str(tmp_path), use_cpu=True, **arguments)
        passes = Passes(SharedBase(make_model().to(dtype)), 1.0, nullcontext)
        return actor_of(passes, tokenizer, ppo_sampling(args, tokenizer), args).exact

    assert exact()
    assert not exact(torch.bfloat16)
    assert not exact(bf16=True)
    assert not exact(recompute_logprobs=True)


def test_texts_end_before_the_eos(shared: SharedBase, tokenizer: PreTrainedTokenizerFast) -> None:
    actor = make_actor(shared, tokenizer)
    responses = [Response([3, 4, EOS], [0.0] * 3, True), Response([5, 6], [0.0] * 2, False)]
    assert actor.texts(responses) == ["a b", "c d"]


def test_sampling_follows_the_arguments(
    tokenizer: PreTrainedTokenizerFast, tmp_path: object
) -> None:
    args = PPOConfig(output_dir=str(tmp_path), response_length=9, temperature=0.5, use_cpu=True)
    assert ppo_sampling(args, tokenizer) == Sampling(9, frozenset({EOS}), 0.5, 0)
    with pytest.raises(UserError, match="no tokenizer"):
        ppo_sampling(args, None)
    without = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(UserError, match="needs an EOS and a pad token"):
        ppo_sampling(args, without)
