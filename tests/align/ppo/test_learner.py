"""Gradients of a micro-batch and of an optimizer batch (docs/ppo.md items 13-16, 18-20)."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from align.config import LoraConfig
from align.generation import Response
from align.ppo.config import PPOConfig
from align.ppo.learner import Learner
from align.ppo.parts import PARTS
from align.ppo.passes import Passes
from align.ppo.rollout import Rollout, start_rollout
from align.ppo.watch import Watch
from align.shared import SharedBase

LORA = LoraConfig(r=4, alpha=8)
LENGTHS = [3, 1, 6, 2, 4, 5, 1, 2]
CLIP, CLIP_VALUE, VF = 0.15, 0.1, 0.3


class HalfPrecision(Accelerator):
    """An accelerator as `bf16=True` makes it, on the CPU."""

    def autocast(self, autocast_handler: Any = None) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)


def random_rollout(pad: int = 1) -> Rollout:
    """Eight responses whose "old" numbers are random, so that both losses clip somewhere."""
    generator = torch.Generator().manual_seed(0)

    def tokens(n: int) -> list[int]:
        return torch.randint(3, 29, (n,), generator=generator).tolist()

    prompts = [[3 + row, *tokens(row % 4)] for row in range(8)]
    responses = [Response(tokens(n), [0.0] * n, True) for n in LENGTHS]
    rollout = start_rollout(prompts, responses, pad, torch.device("cpu"))
    padding = ~rollout.mask

    def draw(mean: float, std: float) -> Tensor:
        numbers = torch.randn(8, 6, generator=generator) * std + mean
        return numbers.masked_fill(padding, math.nan)

    return replace(
        rollout,
        logprobs=draw(-3.4, 0.3),
        advantages=draw(0.0, 1.0),
        values=draw(0.0, 0.5),
        returns=draw(0.0, 1.0),
    )


def make_learner(shared: SharedBase, folder: Path, **arguments: Any) -> Learner:
    settings = {
        "output_dir": str(folder), "use_cpu": True, "per_device_train_batch_size": 8,
        "cliprange": CLIP, "cliprange_value": CLIP_VALUE, "vf_coef": VF, "temperature": 1.2,
        "num_ppo_epochs": 2, "seed": 5,
    }  # fmt: skip
    args = PPOConfig(**settings | arguments)  # before: it starts accelerate's state anew
    return learner_of(shared, args, Accelerator(cpu=True))


def learner_of(shared: SharedBase, args: PPOConfig, accelerator: Accelerator) -> Learner:
    return Learner(Passes(shared, args.temperature, accelerator.autocast), args, accelerator)


def gradients(shared: SharedBase) -> list[Tensor]:
    """Gradients of both parts, removed from the parameters."""
    found = []
    for part in PARTS:
        for parameter in shared.trainable_parameters(part):
            assert parameter.grad is not None
            found.append(parameter.grad)
            parameter.grad = None
    return found


def of_one_batch(learner: Learner, rollout: Rollout) -> list[Tensor]:
    """Gradients of the first optimizer batch."""
    for within in range(learner.args.gradient_accumulation_steps):
        part, tokens = learner.micro_batch(rollout, update=0, within=within)
        learner.backward(part, tokens, 0, Watch())
    return gradients(learner.passes.shared)


def written_out(
    shared: SharedBase, rollout: Rollout, entropy: float = 0.0, critic: str = "critic"
) -> list[Tensor]:
    """Gradients of the same losses, a row at a time without padding, from the paper's formulas.

    `critic` names the part whose trunk the critic's head reads.
    """
    for row, n in enumerate(LENGTHS):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        response = rollout.response_ids[row, :n].tolist()
        ids, start = torch.tensor([prompt + response]), len(prompt) - 1
        old, a = rollout.logprobs[row, :n], rollout.advantages[row, :n]
        with shared.active("policy"):
            said = (shared.causal(ids).logits[0, start:-1] / 1.2).softmax(-1)
            bonus = entropy * -(said * said.log()).sum() / sum(LENGTHS)
            ratio = said[torch.arange(n), torch.tensor(response)] / old.exp()
            clipped = torch.clip(ratio, 1 - CLIP, 1 + CLIP)
            objective = torch.min(ratio * a, clipped * a).sum() / sum(LENGTHS)
            (-objective - bonus).backward()
        with shared.active(critic):
            hidden = shared.causal.base_model(ids).last_hidden_state[0, start:-1]
            v = shared.heads["critic"](hidden)[:, 0]
            v_old, returns = rollout.values[row, :n], rollout.returns[row, :n]
            v_near = v_old + torch.clip(v - v_old, -CLIP_VALUE, CLIP_VALUE)
            error = torch.max((v - returns) ** 2, (v_near - returns) ** 2)
            (VF * 0.5 * error.sum() / sum(LENGTHS)).backward()
    return gradients(shared)


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_the_losses_written_out(shared: SharedBase, tmp_path: Path) -> None:
    # Items 1, 2, 13, 14, 16: padding, masks, temperature, both losses and their coefficient.
    learner, rollout = make_learner(shared, tmp_path), random_rollout()
    watch = Watch()
    part, tokens = learner.micro_batch(rollout, 0, 0)
    learner.backward(part, tokens, 0, watch)
    watch.step({"policy": 0.0, "critic": 0.0})
    row = watch.summary()
    assert 0.1 < row["policy/clip_fraction"] < 0.9
    assert 0.1 < row["value/clip_fraction"] < 0.9
    assert_equal(gradients(shared), written_out(shared, rollout))


@pytest.mark.parametrize("entropy", [0.0, 0.4])
@pytest.mark.parametrize(
    ("lora", "critic", "tied"),
    [
        (LORA, "adapter", False),
        (LORA, "head", False),
        (LORA, "model", False),
        (None, "head", False),
        (None, "head", True),
        (None, "model", True),
    ],
)
def test_every_kind_of_parts_has_the_gradients_written_out(
    make_parts: Callable[..., SharedBase],
    tmp_path: Path,
    lora: LoraConfig | None,
    critic: str,
    tied: bool,
    entropy: float,
) -> None:
    # Item 13 and full fine-tuning: where W itself trains, it is used twice if it is tied (as
    # embedding and as head), and where the critic is a head on the policy, both losses reach the
    # policy's trunk in one pass.
    shared = make_parts(lora, critic, {"tie_word_embeddings": tied})
    rollout = random_rollout()
    passed: list[str | None] = []
    for model in {id(m): m for m in (shared.base, *shared.models.values())}.values():
        model.base_model.register_forward_hook(
            lambda module, inputs, output: passed.append(shared.active_adapter)
        )
    found = of_one_batch(make_learner(shared, tmp_path, entropy_coef=entropy), rollout)
    assert passed == (["policy"] if critic == "head" else ["policy", "critic"])
    part = "policy" if critic == "head" else "critic"
    expected = written_out(shared, rollout, entropy, part)
    assert min(gradient.abs().max().item() for gradient in expected) > 1e-6
    assert_equal(found, expected)


def test_gradients_are_the_same_without_kept_activations(
    make_parts: Callable[..., SharedBase], tmp_path: Path
) -> None:
    # Item 4 too: blocks are checkpointed in training mode only, and dropout stays off.
    for lora in (LORA, None):
        shared = make_parts(lora, "head", {"attention_dropout": 0.9}).train()
        learner, rollout = make_learner(shared, tmp_path), random_rollout()
        expected = of_one_batch(learner, rollout)
        blocks: list[int] = []
        shared.causal.model.layers[0].mlp.register_forward_pre_hook(
            lambda module, inputs, blocks=blocks: blocks.append(len(inputs[0]))
        )
        of_one_batch(learner, rollout)
        assert blocks == [8]
        shared.activation_checkpointing_enable()
        of_one_batch(learner, rollout)
        assert blocks == [8, 8, 8]  # forward, and again for the backward pass
        for one, other in zip(of_one_batch(learner, rollout), expected, strict=True):
            assert torch.equal(one, other)
        assert not any(module.training for module in shared.modules())


def test_a_critic_that_warms_up_learns_alone(
    make_parts: Callable[..., SharedBase], tmp_path: Path
) -> None:
    # Item 17: the critic's gradient is that of the value loss; the policy, whose trunk a head
    # reads, gets none. What the policy would do is watched all the same.
    for critic in ("adapter", "head", "model"):
        shared = make_parts(LORA, critic)
        rollout = random_rollout()
        part = "policy" if critic == "head" else "critic"
        expected = written_out(shared, rollout, 0.0, part)[len(policy_of(shared)) :]
        learner, watch = make_learner(shared, tmp_path, critic_warmup_updates=3), Watch()
        micro, tokens = learner.micro_batch(rollout, 2, 0)
        learner.backward(micro, tokens, 2, watch)
        assert all(p.grad is None for p in policy_of(shared))
        found = [p.grad for p in shared.trainable_parameters("critic")]
        assert_equal([gradient for gradient in found if gradient is not None], expected)
        watch.step({"policy": 0.0, "critic": 0.0})
        assert watch.summary()["policy/clip_fraction"] > 0.1
        learner.backward(micro, tokens, 3, watch)
        assert all(p.grad is not None for p in policy_of(shared))


def policy_of(shared: SharedBase) -> list[nn.Parameter]:
    return shared.trainable_parameters("policy")


def test_a_step_after_too_large_a_move_is_dropped_with_the_rest(
    shared: SharedBase, tmp_path: Path
) -> None:
    # Item 17: the mean over the optimizer batch of (log ratio)^2 / 2 against the limit.
    rollout = random_rollout()
    watch = Watch()
    learner = make_learner(shared, tmp_path)
    learner.backward(*learner.micro_batch(rollout, 0, 0), 0, watch)
    gradients(shared)
    measured = written_out_kl(shared, rollout)
    assert watch.moved() == pytest.approx(measured, abs=1e-5)
    for limit, dropped in ((measured * 0.999, True), (measured * 1.001, False)):
        learner, watch = make_learner(shared, tmp_path, early_stop_kl=limit), Watch()
        learner.backward(*learner.micro_batch(rollout, 0, 0), 0, watch)
        norm = learner.end_gradients(1.0, watch)
        assert learner.stopped is dropped
        assert watch.stopped == int(dropped)
        held = [p for name in PARTS for p in shared.trainable_parameters(name)]
        assert all((p.grad is None) is dropped for p in held)
        assert (norm.item() == 0.0) is dropped
        for p in held:
            p.grad = None
        # the rest of the update does nothing
        loss = learner.backward(*learner.micro_batch(rollout, 0, 1), 0, watch)
        assert (loss.item() == 0.0) is dropped
        assert all((p.grad is None) is dropped for p in held)
        gradients(shared) if not dropped else None


@torch.no_grad()
def written_out_kl(shared: SharedBase, rollout: Rollout) -> float:
    """Half the mean squared log ratio, a row at a time."""
    total = 0.0
    for row, n in enumerate(LENGTHS):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        ids = torch.tensor([prompt + rollout.response_ids[row, :n].tolist()])
        said = (shared.causal(ids).logits[0, len(prompt) - 1 : -1] / 1.2).log_softmax(-1)
        logprobs = said[torch.arange(n), rollout.response_ids[row, :n]]
        total += ((logprobs - rollout.logprobs[row, :n]) ** 2).sum().item() / 2
    return total / sum(LENGTHS)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_give_equal_gradients(shared: SharedBase, tmp_path: Path, micro: int) -> None:
    # Item 14: though they hold different numbers of tokens.
    rollout = random_rollout()
    whole = of_one_batch(make_learner(shared, tmp_path), rollout)
    learner = make_learner(
        shared,
        tmp_path,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=8 // micro,
    )
    assert_equal(of_one_batch(learner, rollout), whole)


def test_only_the_two_parts_get_gradients(shared: SharedBase, tmp_path: Path) -> None:
    # Item 20.
    learner = make_learner(shared, tmp_path)
    part, tokens = learner.micro_batch(random_rollout(), 0, 0)
    learner.backward(part, tokens, 0, Watch())
    assert shared.active_adapter == "policy"
    moved = {id(p) for p in shared.parameters() if p.grad is not None}
    assert moved == {id(p) for name in PARTS for p in shared.trainable_parameters(name)}


def test_at_the_old_policy_the_gradient_is_that_of_reinforce(
    shared: SharedBase, tmp_path: Path
) -> None:
    # Item 15: -mean of A * grad log pi, by a loop; ratio 1, approx-KL 0, clip fraction 0.
    rollout = random_rollout()
    advantages = rollout.advantages
    old = torch.zeros(8, 6)
    for row, n in enumerate(LENGTHS):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        ids = torch.tensor([prompt + rollout.response_ids[row, :n].tolist()])
        said = (shared.causal(ids).logits[0, len(prompt) - 1 : -1] / 1.2).log_softmax(-1)
        logprobs = said[torch.arange(n), rollout.response_ids[row, :n]]
        old[row, :n] = logprobs.detach()
        (-(advantages[row, :n] * logprobs).sum() / sum(LENGTHS)).backward()
    parameters = shared.trainable_parameters("policy")
    expected = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    learner, watch = make_learner(shared, tmp_path), Watch()
    part, tokens = learner.micro_batch(replace(rollout, logprobs=old), 0, 0)
    learner.backward(part, tokens, 0, watch)
    for p, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, atol=1e-5, rtol=1e-4)
    watch.step({"policy": 0.0, "critic": 0.0})
    row = watch.summary()
    assert row["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert row["policy/ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert row["policy/approx_kl"] == pytest.approx(0.0, abs=1e-10)
    assert row["policy/clip_fraction"] == 0.0


def test_minibatches_cover_the_rollout_once_and_reshuffle_every_epoch(
    shared: SharedBase, tmp_path: Path
) -> None:
    # Item 19. Prompts start with a token that names their row.
    learner = make_learner(
        shared,
        tmp_path,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_mini_batches=2,
    )
    rollout = random_rollout()

    def rows(update: int, within: int) -> list[int]:
        part, _ = learner.micro_batch(rollout, update, within)
        firsts = part.prompt_mask.int().argmax(1)
        return (part.prompt_ids[torch.arange(2), firsts] - 3).tolist()

    orders = []
    for update in (0, 1):
        for epoch in (0, 1):
            micro = [rows(update, epoch * 4 + i) for i in range(4)]
            orders.append([row for pair in micro for row in pair])
            for step in (0, 1):
                held = micro[2 * step] + micro[2 * step + 1]
                for within in (2 * step, 2 * step + 1):
                    _, tokens = learner.micro_batch(rollout, update, epoch * 4 + within)
                    assert tokens.item() == sum(LENGTHS[row] for row in held)
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def put_gradients(shared: SharedBase, scale: float) -> dict[str, float]:
    """Random gradients in both parts, and their norms by the definition."""
    generator = torch.Generator().manual_seed(1)
    norms = {}
    for part in PARTS:
        total = 0.0
        for p in shared.trainable_parameters(part):
            p.grad = torch.randn(p.shape, generator=generator) * scale
            total += p.grad.double().pow(2).sum().item()
        norms[part], scale = math.sqrt(total), scale / 10
    return norms


def test_gradients_are_clipped_apart(shared: SharedBase, tmp_path: Path) -> None:
    # Item 18: the policy's norm is above the limit, the critic's below.
    norms = put_gradients(shared, 0.3)
    limit = (norms["policy"] + norms["critic"]) / 2
    critic = [p.grad.clone() for p in shared.trainable_parameters("critic") if p.grad is not None]
    policy = [p.grad.clone() for p in shared.trainable_parameters("policy") if p.grad is not None]
    watch = Watch()
    found = make_learner(shared, tmp_path).end_gradients(limit, watch)
    assert found.item() == pytest.approx(norms["policy"], rel=1e-5)
    for p, before in zip(shared.trainable_parameters("policy"), policy, strict=True):
        torch.testing.assert_close(p.grad, before * (limit / norms["policy"]))
    for p, before in zip(shared.trainable_parameters("critic"), critic, strict=True):
        torch.testing.assert_close(p.grad, before)
    row = watch.summary()
    assert row["grad_norm/policy"] == pytest.approx(norms["policy"], rel=1e-5)
    assert row["grad_norm/critic"] == pytest.approx(norms["critic"], rel=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_a_step_with_a_gradient_that_is_not_finite_moves_nothing(
    shared: SharedBase, tmp_path: Path, part: str
) -> None:
    # Item 24: skipped and counted.
    put_gradients(shared, 0.3)
    shared.trainable_parameters(part)[3].grad[0, 0] = math.nan  # type: ignore[index]
    watch = Watch()
    optimizer = torch.optim.Adam([p for n in PARTS for p in shared.trainable_parameters(n)], lr=1)
    before = [p.clone() for p in shared.parameters()]
    make_learner(shared, tmp_path).end_gradients(1.0, watch)
    optimizer.step()
    assert watch.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(shared.parameters(), before, strict=True))


def test_mixed_precision_reaches_the_trunk_but_not_the_losses(
    shared: SharedBase, tmp_path: Path
) -> None:
    # The head and the losses are computed in float32; bfloat16 has 8 bits, so gradients are near.
    rollout = random_rollout()
    expected = torch.cat(
        [g.flatten() for g in of_one_batch(make_learner(shared, tmp_path), rollout)]
    )
    kinds: set[torch.dtype] = set()
    shared.causal.model.layers[0].mlp.act_fn.register_forward_hook(
        lambda module, inputs, output: kinds.add(output.dtype)
    )
    heads: set[torch.dtype] = set()
    shared.heads["critic"].register_forward_hook(
        lambda module, inputs, output: heads.add(output.dtype)
    )
    learner = learner_of(shared, make_learner(shared, tmp_path).args, HalfPrecision(cpu=True))
    found = of_one_batch(learner, rollout)
    assert kinds == {torch.bfloat16}
    assert heads == {torch.float32}
    flat = torch.cat([g.flatten() for g in found])
    assert {g.dtype for g in found} == {torch.float32}
    assert nn.functional.cosine_similarity(flat, expected, dim=0).item() > 0.98
