"""What a trainer can be asked for (docs/ppo.md items 9, 13, 17, 24), each seen in training."""

import logging
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, TrainerCallback

from align.errors import UserError
from align.ppo.config import PPOConfig
from align.ppo.rollout import Rollout
from align.ppo.terms import Moments, RewardTerm
from align.ppo.trainer import PPOTrainer
from align.static import StaticSteps

Make = Callable[..., PPOTrainer]
Rows = Callable[[PPOTrainer], list[dict[str, float]]]
CHECKPOINTING = next(
    field.name
    for field in fields(PPOConfig)
    if field.name in ("activation_checkpointing", "gradient_checkpointing")
)
"""The argument was renamed in transformers 5.23."""


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Every number that trains."""
    named = model.named_parameters()
    return {name: p.detach().clone() for name, p in named if p.requires_grad}


class Snapshots(TrainerCallback):
    """Keeps every number that trains, after each optimizer step."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.kept.append(state_of(model))


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_update_that_moves_too_far_stops(make_trainer: Make, rows_logged: Rows) -> None:
    # Item 17: at the first step the ratio is 1, so it is taken; the second sees a policy that has
    # moved, and it and the rest are left out, the critic's too. The next update starts afresh.
    free, held = Snapshots(), Snapshots()
    plain = make_trainer(learning_rate=3e-2, parts={"callbacks": [free]})
    plain.train()
    stopping = make_trainer(learning_rate=3e-2, early_stop_kl=1e-5, parts={"callbacks": [held]})
    stopping.train()
    assert [row["stopped_steps"] for row in rows_logged(plain)] == [0, 0]
    assert [row["stopped_steps"] for row in rows_logged(stopping)] == [3, 3]
    assert equal(held.kept[0], free.kept[0])
    for step in (1, 2, 3):
        assert equal(held.kept[step], held.kept[0])
        assert not equal(free.kept[step], free.kept[step - 1])
    assert not equal(held.kept[4], held.kept[3])
    # what is logged is that of the steps taken: the first minibatch of each update
    for row in rows_logged(stopping):
        assert row["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)
        assert row["grad_norm/policy"] > 0.01


@pytest.mark.parametrize("critic", ["adapter", "head", "model"])
def test_a_critic_warms_up_while_the_policy_waits(
    make_trainer: Make, rows_logged: Rows, critic: str
) -> None:
    # Item 17, also where the critic's head reads the policy's own trunk.
    kept = Snapshots()
    trainer = make_trainer(
        critic=critic, critic_warmup_updates=1, entropy_coef=0.1, parts={"callbacks": [kept]}
    )
    start = state_of(trainer.shared)
    trainer.train()
    policy = {name for name in start if ".policy." in name}
    assert len(policy) == 28
    for number, after in enumerate(kept.kept):
        waits = [torch.equal(after[name], start[name]) for name in sorted(policy)]
        assert all(waits) if number < 4 else not all(waits), number
    for name in start:
        assert torch.equal(kept.kept[3][name], start[name]) is (name in policy), name
        assert not torch.equal(kept.kept[7][name], start[name]), name
    first, second = rows_logged(trainer)
    assert first["grad_norm/policy"] == 0.0 < first["grad_norm/critic"]
    assert second["grad_norm/policy"] > 0.01
    assert first["policy/approx_kl"] == pytest.approx(0.0, abs=1e-9)


def test_an_entropy_bonus_keeps_the_policy_open(
    make_trainer: Make, make_model: Callable[..., LlamaForCausalLM], rows_logged: Rows
) -> None:
    # Item 13: against the same run without.
    ends = []
    for bonus in (0.0, 0.5):
        trainer = make_trainer(model=make_model(spread=20.0), entropy_coef=bonus, total_episodes=64)
        trainer.train()
        ends.append(rows_logged(trainer)[-1]["policy/entropy"])
    assert ends[1] > ends[0] + 0.05


@pytest.mark.parametrize(
    ("critic", "parts"), [("adapter", {}), ("head", {}), ("head", {"peft_config": None})]
)
def test_recomputed_activations_change_nothing(
    make_trainer: Make, rows_logged: Rows, critic: str, parts: dict[str, Any]
) -> None:
    # Bit for bit; sampling feeds one token a step, as with kept activations: the cache is in use.
    rows, widths, runs = [], [], []
    for on in (False, True):
        trainer = make_trainer(critic=critic, parts=parts, **{CHECKPOINTING: on})
        seen: list[tuple[bool, int]] = []
        trainer.shared.base.model.layers[1].mlp.register_forward_pre_hook(
            lambda module, inputs, seen=seen: seen.append(
                (torch.is_grad_enabled(), inputs[0].shape[1])
            )
        )
        trainer.train()
        rows.append(rows_logged(trainer))
        widths.append([width for grad, width in seen if not grad])
        runs.append(sum(grad for grad, _ in seen))
    assert rows[0] == rows[1]
    assert widths[0] == widths[1]
    assert runs[1] == 2 * runs[0] > 0
    assert widths[0].count(1) == 2 * 5  # six tokens an update, the first from the prompt's pass


@pytest.mark.parametrize("bf16", [False, True])
def test_a_static_cache_changes_rounding_at_most(
    make_trainer: Make, rows_logged: Rows, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    # What is sampled and learned, under autocast too, where weights are cast for every pass.
    steps: list[int] = []
    step = StaticSteps.step
    monkeypatch.setattr(StaticSteps, "step", lambda *given: steps.append(1) or step(*given))
    rows = []
    for static in (False, True):
        trainer = make_trainer(static_cache=static, response_length=12, bf16=bf16)
        trainer.train()
        rows.append(rows_logged(trainer))
        assert bool(steps) is static
    for one, other in zip(*rows, strict=True):
        for name in ("score/mean", "kl/k1", "policy/entropy", "policy/loss", "value/loss"):
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-3), name


def test_scores_are_normalised_for_training_and_logged_raw(
    make_trainer: Make, rows_logged: Rows
) -> None:
    # Item 9: with gamma = lambda = 1 and no penalty, a response's returns are all its scaled
    # score, so the rollout shows what PPO was told.
    heard: list[list[float]] = []

    def score(completions: list[str], **_: Any) -> list[float]:
        heard.append([100.0 + 7.0 * len(set(text.split())) for text in completions])
        return heard[-1]

    for kind in ("reference", "running"):
        heard.clear()
        trainer = make_trainer(
            score=score, score_normalisation=kind, kl_coef=0.0, truncation="none", lam=1.0
        )
        trainer.train()
        seen = torch.tensor(heard[0] + (heard[1] if kind == "running" else [])).double()
        expected = (torch.tensor(heard[1]).double() - seen.mean()) / seen.std(correction=0)
        assert trainer.rollout is not None
        # responses wait in the order of the prompts, as the scores do
        found = trainer.rollout.returns[:, 0].double()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        logged = [row["score/mean"] for row in rows_logged(trainer)]
        assert logged == pytest.approx([sum(scores) / 8 for scores in heard], rel=1e-6)


def test_each_function_has_its_weight_and_its_mean(make_trainer: Make, rows_logged: Rows) -> None:
    def picky(prompts: list[str], **_: Any) -> list[float | None]:
        return [4.0 if prompt in ("a b c", "d") else None for prompt in prompts]

    def two(prompts: list[str], **_: Any) -> list[float]:
        return [2.0] * len(prompts)

    trainer = make_trainer(score=[picky, two], reward_weights=[3.0, 0.5], total_episodes=8)
    trainer.train()
    (row,) = rows_logged(trainer)
    assert (row["score/picky"], row["score/two"]) == (4.0, 2.0)
    # Two responses have 3 x 4 + .5 x 2 = 13; for six `two` speaks alone, for a weight of 3.5.
    assert row["score/mean"] == (2 * 13.0 + 6 * 3.5 * 2.0) / 8
    with pytest.raises(UserError, match="1 reward_weights for 2 reward functions"):
        make_trainer(score=[picky, two], reward_weights=[3.0])


def test_an_alarm_is_raised_once_and_logged(
    make_trainer: Make, rows_logged: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    # Item 24: KL over its budget in the second and in every later update.
    with caplog.at_level(logging.WARNING, logger="align.ppo"):
        trainer = make_trainer(kl_budget=1e-3, kl_coef=0.0, total_episodes=32, learning_rate=5e-2)
        trainer.train()
    over = [row["update"] for row in rows_logged(trainer) if row["kl/k1"] > 1e-3]
    assert len(over) > 1
    said = [record.getMessage() for record in caplog.records if record.name == "align.ppo"]
    kl = [message for message in said if "KL" in message]
    assert kl == [trainer.memory.alarms["kl"]]
    assert kl[0].startswith(f"update {over[0]}: KL ")
    assert kl[0].endswith("nats a response exceeds its budget of 0.001")
    assert said == list(trainer.memory.alarms.values())


def test_terms_are_trained_on_and_logged_apart(make_trainer: Make, rows_logged: Rows) -> None:
    def long(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text.split())) for text in completions]

    def even(completions: list[str], **_: Any) -> list[float | None]:
        return [None if row % 2 else 3.0 for row in range(len(completions))]

    terms = [
        RewardTerm(long, weight=0.5, normalise=Moments(4.0, 2.0), clip=0.75),
        RewardTerm(even, name="second", weight=0.25),
    ]
    trainer = make_trainer(
        score=terms, parts={"eval_dataset": [{"prompt": "z a"}, {"prompt": "q"}]}
    )
    trainer.train()
    rollout = trainer.rollout
    assert rollout is not None
    # (words - 4) / 2, clipped to .75, times .5; every second response has .25 * 3 besides, the
    # others count 3 times .25 / .5 more in its place.
    words = [sum(1 for token in row if token > 2) for row in _tokens(rollout)]
    own = [0.5 * min(max((n - 4) / 2, -0.75), 0.75) for n in words]
    expected = [s * 1.5 if row % 2 else s + 0.75 for row, s in enumerate(own)]
    assert rollout.scores.tolist() == pytest.approx(expected)
    last = rows_logged(trainer)[-1]
    assert last["score/mean"] == pytest.approx(sum(expected) / 8)
    assert last["score/long"] == pytest.approx(sum(words) / 8)
    assert last["score/second"] == 3.0
    assert "score/unscored" not in last
    found = trainer.evaluate()
    assert found["eval/score/second"] == 3.0
    assert 0 <= found["eval/score/long"] <= 6


def _tokens(rollout: Rollout) -> list[list[int]]:
    pairs = zip(rollout.response_ids, rollout.mask, strict=True)
    return [ids[mask].tolist() for ids, mask in pairs]


def test_a_response_without_a_score_is_not_trained_on(
    make_trainer: Make, rows_logged: Callable[..., Any]
) -> None:
    # Silent on every prompt but two: those alone decide, and a micro-batch may be all silent.
    def sometimes(prompts: list[str], completions: list[str], **_: Any) -> list[float | None]:
        return [
            float(text.count("a")) if prompt in ("d", "p") else None
            for prompt, text in zip(prompts, completions, strict=True)
        ]

    trainer = make_trainer(score=sometimes)
    trainer.train()
    for row in rows_logged(trainer):
        assert row["score/unscored"] == 6 / 8
        assert row["skipped_steps"] == 0
        assert all(map(math.isfinite, row.values()))
    rollout = trainer.rollout
    assert rollout is not None
    silent = rollout.scores.isnan()
    assert silent.sum() == 6
    assert not rollout.mask[silent].any()
    assert rollout.mask[~silent].any(-1).all()
