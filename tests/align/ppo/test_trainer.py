"""The trainer end to end (docs/ppo.md items 4, 10, 15, 18-25) on tiny models."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from align.config import LoraConfig
from align.errors import UserError
from align.ppo.trainer import PPOTrainer
from align.shared import SharedBase

IDS = torch.arange(3, 15).reshape(2, 6)
Make = Callable[..., PPOTrainer]
Rows = Callable[[PPOTrainer], list[dict[str, float]]]


@torch.no_grad()
def base_logits(trainer: PPOTrainer) -> Tensor:
    with trainer.shared.active(None):
        return trainer.shared.causal(IDS).logits


def state_of(trainer: PPOTrainer) -> dict[str, Tensor]:
    """Every number that trains."""
    return {
        name: parameter.detach().clone()
        for name, parameter in trainer.shared.named_parameters()
        if parameter.requires_grad
    }


def moved(trainer: PPOTrainer, before: dict[str, Tensor], part: str) -> float:
    """How far a part's parameters are from where they were, as one norm."""
    after = state_of(trainer)
    names = [name for name in before if f".{part}." in f".{name}."]
    return math.sqrt(sum((after[n] - before[n]).double().pow(2).sum().item() for n in names))


class Recorder:
    """A score that counts "a" and remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, prompts: list[Any], completions: list[str], **columns: Any) -> list[float]:
        self.calls.append({"prompts": prompts, "completions": completions, **columns})
        return [float(str(text).split().count("a")) for text in completions]


def test_the_optimizer_holds_exactly_the_two_parts(make_trainer: Make) -> None:
    # Items 18, 20.
    trainer = make_trainer(critic_learning_rate=3e-3, weight_decay=0.5)
    policy, critic = trainer.create_optimizer().param_groups
    named = dict(trainer.shared.named_parameters())

    def names(part: str) -> set[int]:
        return {id(p) for name, p in named.items() if f".{part}." in f".{name}."}

    assert {id(p) for p in policy["params"]} == names("policy")
    assert {id(p) for p in critic["params"]} == names("critic")
    assert len(policy["params"]) == len(critic["params"]) - 2  # the critic's head
    assert (policy["lr"], critic["lr"]) == (1e-2, 3e-3)
    assert (policy["eps"], critic["eps"]) == (1e-5, 1e-5)
    assert policy["weight_decay"] == critic["weight_decay"] == 0.0


def test_training_leaves_the_base_bit_equal(make_trainer: Make) -> None:
    # Item 20: the reference of the last update is that of the first.
    trainer = make_trainer()
    before, start = base_logits(trainer), state_of(trainer)
    trainer.train()
    assert torch.equal(base_logits(trainer), before)
    assert moved(trainer, start, "policy") > 0.01
    assert moved(trainer, start, "critic") > 0.01
    assert trainer.shared.active_adapter == "policy"


@pytest.mark.parametrize("again", [True, False])
def test_the_first_step_starts_at_the_reference(
    make_trainer: Make, rows_logged: Rows, again: bool
) -> None:
    # Item 15: one step an update, so that every logged number is that of a first minibatch. The
    # KL is exactly 0 where the policy is measured like the reference; the sampler's cached steps
    # round differently.
    trainer = make_trainer(
        num_ppo_epochs=1, num_mini_batches=1, total_episodes=12, recompute_logprobs=again
    )
    trainer.train()
    first, *others = rows_logged(trainer)
    if again:
        assert first["kl/k1"] == first["kl/k3"] == 0.0
    else:
        assert first["kl/k1"] == pytest.approx(0.0, abs=1e-6)
        assert first["kl/k3"] == pytest.approx(0.0, abs=1e-11)
    assert len(others) == 2
    for row in (first, *others):
        assert row["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
        assert row["policy/ratio_max"] == pytest.approx(1.0, abs=1e-5)
        assert row["policy/approx_kl"] == pytest.approx(0.0, abs=1e-9)
        assert row["policy/clip_fraction"] == 0.0
    assert others[-1]["kl/k1"] != 0.0


def test_the_sampler_agrees_with_the_trainer(make_trainer: Make, rows_logged: Rows) -> None:
    # Items 3, 5: also at another temperature, and for a policy that has moved.
    trainer = make_trainer(temperature=0.7)
    trainer.train()
    assert max(row["sampler/gap_max"] for row in rows_logged(trainer)) < 1e-5


def test_the_learning_rate_falls_to_zero(make_trainer: Make, rows_logged: Rows) -> None:
    # Item 18: linear over 4 updates of 4 steps; each row shows the rate its update starts with.
    trainer = make_trainer(total_episodes=32)
    trainer.train()
    rates = [row["learning_rate"] for row in rows_logged(trainer)]
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])
    assert trainer.lr_scheduler.get_last_lr() == [0.0, 0.0]


@pytest.mark.parametrize("limit", [0.02, 0.0])
def test_gradients_are_really_clipped(make_trainer: Make, rows_logged: Rows, limit: float) -> None:
    # Item 18. One step of plain gradient descent at rate 1 moves each part by its clipped norm;
    # 0 switches clipping off, and the norms are still logged.
    trainer = make_trainer(
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        num_ppo_epochs=1,
        num_mini_batches=1,
        per_device_train_batch_size=8,
        total_episodes=8,
        max_grad_norm=limit,
    )
    before = state_of(trainer)
    trainer.train()
    (row,) = rows_logged(trainer)
    for part in ("policy", "critic"):
        norm = row[f"grad_norm/{part}"]
        assert norm > 0.02
        assert moved(trainer, before, part) == pytest.approx(limit or norm, rel=1e-3)


@pytest.mark.parametrize(("micro", "accumulation"), [(1, 4), (2, 2)])
def test_micro_batches_train_the_same_policy(
    make_trainer: Make, rows_logged: Rows, micro: int, accumulation: int
) -> None:
    # Item 14, through transformers' loop, over two updates of two epochs of two minibatches.
    plain = {"optim": "sgd", "learning_rate": 1.0}
    whole = make_trainer(**plain)
    whole.train()
    parts = make_trainer(
        per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation, **plain
    )
    parts.train()
    expected, found = state_of(whole), state_of(parts)
    for name, parameter in found.items():
        torch.testing.assert_close(parameter, expected[name], atol=1e-4, rtol=1e-3)
    for row, other in zip(rows_logged(parts), rows_logged(whole), strict=True):
        assert row == pytest.approx(other, abs=1e-3, rel=1e-3)


def test_prompts_come_once_a_round_with_their_columns(make_trainer: Make) -> None:
    score = Recorder()
    prompts = [{"prompt": word, "number": i} for i, word in enumerate("abcdefgh")]
    make_trainer(score=score, prompts=prompts, total_episodes=24).train()
    assert len(score.calls) == 3
    orders = [call["prompts"] for call in score.calls]
    assert all(sorted(order) == list("abcdefgh") for order in orders)
    assert orders[0] != orders[1]
    for call in score.calls:
        assert call["number"] == ["abcdefgh".index(word) for word in call["prompts"]]
        assert all("<" not in text for text in call["completions"])


def test_several_rewards_are_added(make_trainer: Make, rows_logged: Rows) -> None:
    def two(completions: list[str], **_: Any) -> list[float]:
        return [2.0] * len(completions)

    def minus(prompts: list[str], **_: Any) -> list[float]:
        return [-0.5] * len(prompts)

    trainer = make_trainer(score=[two, minus], total_episodes=8)
    trainer.train()
    (row,) = rows_logged(trainer)
    assert row["score/mean"] == 1.5
    assert row["score/std"] == 0.0


def test_conversations_are_answered_with_messages(
    make_trainer: Make, tokenizer: PreTrainedTokenizerFast
) -> None:
    # Item 22: the reward sees the conversation as given, the response as one message.
    template = "{% for m in messages %}{{ m['role'][0] + ' ' + m['content'] + ' ' }}{% endfor %}"
    chatty = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token="<eos>",
        pad_token="<pad>",
        chat_template=template,
    )
    score = Recorder()
    conversation = [{"role": "user", "content": "b c"}]
    trainer = make_trainer(
        score=score,
        prompts=[{"prompt": conversation}],
        parts={"processing_class": chatty},
        total_episodes=8,
    )
    assert trainer.prompts.ids == [[23, 4, 5]]  # u b c
    trainer.train()
    assert score.calls[0]["prompts"] == [conversation] * 8
    for completion in score.calls[0]["completions"]:
        assert [message["role"] for message in completion] == ["assistant"]


def test_dropout_of_the_base_changes_nothing(
    make_trainer: Make, make_model: Callable[..., LlamaForCausalLM], rows_logged: Rows
) -> None:
    # Item 4.
    trainers = [make_trainer(model=make_model(attention_dropout=p)) for p in (0.0, 0.8)]
    for trainer in trainers:
        trainer.train()
    assert rows_logged(trainers[0]) == rows_logged(trainers[1])


def test_the_penalty_follows_its_controller(make_trainer: Make, rows_logged: Rows) -> None:
    # Item 10: by the formula, from the logged KL; n = 8 responses an update.
    trainer = make_trainer(kl_coef=0.2, kl_target=0.05, kl_horizon=100, total_episodes=32)
    trainer.train()
    rows = rows_logged(trainer)
    beta = 0.2
    for row in rows:
        assert row["kl/beta"] == pytest.approx(beta, rel=1e-12)
        error = min(max((row["kl/k1"] - 0.05) / 0.05, -0.2), 0.2)
        beta *= 1 + error * 8 / 100
    assert trainer.memory.kl.beta == pytest.approx(beta, rel=1e-12)
    assert len({row["kl/beta"] for row in rows}) == 4


def test_every_update_logs_what_a_reader_needs(make_trainer: Make, rows_logged: Rows) -> None:
    # Item 25.
    trainer = make_trainer()
    trainer.train()
    expected = {
        "score/mean", "score/std", "reward/mean", "return/mean", "kl/k1", "kl/k3", "kl/beta",
        "policy/entropy", "policy/approx_kl", "policy/clip_fraction", "value/clip_fraction",
        "policy/ratio_mean", "policy/ratio_max", "policy/loss", "value/loss", "response/distinct",
        "value/explained_variance", "response/length", "response/eos_rate", "grad_norm/policy",
        "grad_norm/critic", "sampler/gap_max", "learning_rate", "update", "episode",
        "skipped_steps", "stopped_steps", "memory_gb", "tokens_per_second/sample",
        "tokens_per_second/measure",
        "tokens_per_second/optimise", "seconds/sample", "seconds/score", "seconds/measure",
        "seconds/optimise",
    }  # fmt: skip
    rows = [row for row in trainer.state.log_history if "update" in row]
    assert all(expected <= set(row) for row in rows)
    assert [row["update"] for row in rows] == [1, 2]
    assert [row["episode"] for row in rows] == [8, 16]
    assert [row["step"] for row in rows] == [4, 8]
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_a_callback_at_the_end_of_an_update_finds_its_row(make_trainer: Make) -> None:
    seen = []

    class Reader(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % 4 == 0:
                seen.append(state.log_history[-1]["update"])

    trainer = make_trainer(parts={"callbacks": [Reader()]})
    trainer.train()
    assert seen == [1, 2]


def test_samples_are_those_of_the_last_rollout(make_trainer: Make) -> None:
    score = Recorder()
    trainer = make_trainer(score=score)
    trainer.train()
    last = score.calls[-1]
    assert [row["prompt"] for row in trainer.samples] == last["prompts"][:4]
    assert [row["response"] for row in trainer.samples] == last["completions"][:4]
    assert [row["score"] for row in trainer.samples] == [
        float(text.split().count("a")) for text in last["completions"][:4]
    ]
    assert {row["update"] for row in trainer.samples} == {1}


def test_a_critic_starts_from_a_saved_adapter(make_trainer: Make, tmp_path: Path) -> None:
    # Item 18.
    first = make_trainer()
    first.train()
    first.save_model(str(tmp_path / "saved"))
    second = make_trainer(critic_adapter=str(tmp_path / "saved" / "critic"))
    expected, found = first.shared.adapter_state("critic"), second.shared.adapter_state("critic")
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert second.shared.heads["critic"].weight.abs().max().item() == 0.0
    policy = second.shared.adapter_state("policy")
    assert all(policy[key].abs().max().item() == 0.0 for key in policy if "lora_B" in key)


def test_a_shared_base_may_hold_more_adapters(
    make_trainer: Make, make_model: Callable[..., LlamaForCausalLM]
) -> None:
    # A reward model on the same base: it neither trains nor changes.
    shared = SharedBase(make_model())
    shared.add_adapter("reward", LoraConfig(r=2), seed=9)
    shared.add_head("reward", weight=torch.ones(1, 16))
    before = shared.adapter_state("reward")
    trainer = make_trainer(model=shared, total_episodes=8)
    trainer.train()
    after = shared.adapter_state("reward")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert shared.heads["reward"].weight.tolist() == [[1.0] * 16]
    assert all(p.grad is None for p in shared.adapter_parameters("reward"))


def test_numbers_that_are_not_finite_stop_training(make_trainer: Make) -> None:
    # Item 24: no step is taken, and the message says what to do.
    trainer = make_trainer()
    trainer.shared.heads["critic"].weight.data.fill_(math.nan)
    before = state_of(trainer)
    with pytest.raises(
        UserError, match=r"not finite after update 1: .*all gradients.*learning rate"
    ):
        trainer.train()
    assert moved(trainer, {k: v for k, v in before.items() if "policy" in k}, "policy") == 0.0


def test_a_failing_reward_leaves_the_policy_active(make_trainer: Make) -> None:
    # Item 20.
    def broken(**_: Any) -> list[float]:
        raise ZeroDivisionError

    trainer = make_trainer(score=broken)
    with pytest.raises(UserError, match="reward function broken failed on response 0"):
        trainer.train()
    assert trainer.shared.active_adapter == "policy"


def test_what_is_missing_is_said(make_trainer: Make) -> None:
    with pytest.raises(UserError, match="no tokenizer"):
        make_trainer(parts={"processing_class": None})
    with pytest.raises(UserError, match="no held-out prompts"):
        make_trainer().evaluate()


def test_saved_weights_are_those_in_force(make_trainer: Make, tmp_path: Path) -> None:
    # Item 21: policy and critic are both there, each a peft folder.
    trainer = make_trainer(total_episodes=8)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    for part, folder in (("policy", tmp_path / "saved"), ("critic", tmp_path / "saved/critic")):
        weights = load_file(folder / "adapter_model.safetensors")
        expected = trainer.shared.adapter_state(part)
        assert set(weights) == set(expected)
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4
    head = load_file(tmp_path / "saved" / "critic" / "head.safetensors")
    assert torch.equal(head["weight"], trainer.shared.heads["critic"].weight)
