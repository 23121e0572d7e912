"""Arguments of PPO: sizes that follow from others, ranges, and boundaries of updates."""

from pathlib import Path
from typing import Any

import pytest

from align.errors import UserError
from align.ppo.config import PPOConfig


def config(folder: Path, **arguments: Any) -> PPOConfig:
    return PPOConfig(output_dir=str(folder), use_cpu=True, **arguments)


def test_sizes_follow_from_the_batch(tmp_path: Path) -> None:
    # 4 sequences * 2 accumulated * 3 minibatches = 24 responses an update; 100 // 24 = 4 updates
    # of 5 epochs * 3 minibatches = 15 optimizer steps each.
    args = config(
        tmp_path,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_mini_batches=3,
        num_ppo_epochs=5,
        total_episodes=100,
    )
    assert args.local_rollout_size == 24
    assert args.updates_total == 4
    assert args.steps_per_update == 15
    assert args.max_steps == 60


def test_several_processes_share_the_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = config(tmp_path, per_device_train_batch_size=4, total_episodes=64)
    assert args.updates_total == 16
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert args.updates_total == 4


def test_few_episodes_make_one_update(tmp_path: Path) -> None:
    assert config(tmp_path, total_episodes=1).updates_total == 1


def test_checkpoints_and_evaluations_fall_on_updates(tmp_path: Path) -> None:
    # Item 23 of docs/ppo.md.
    args = config(tmp_path, num_ppo_epochs=3, checkpoint_updates=2, eval_updates=5)
    assert (args.save_strategy, args.save_steps) == ("steps", 6)
    assert (args.eval_strategy, args.eval_steps) == ("steps", 15)
    plain = config(tmp_path)
    assert (plain.save_strategy, plain.eval_strategy, plain.logging_strategy) == ("no",) * 3


def test_the_published_defaults(tmp_path: Path) -> None:
    # Items 11, 13, 18: lambda .95, clips .2, value coefficient .1, Adam's epsilon 1e-5, annealed.
    args = config(tmp_path)
    assert (args.gamma, args.lam) == (1.0, 0.95)
    assert (args.cliprange, args.cliprange_value, args.vf_coef) == (0.2, 0.2, 0.1)
    assert (args.adam_epsilon, args.lr_scheduler_type) == (1e-5, "linear")
    # Items 13, 17, 9: what is optional is off.
    assert (args.entropy_coef, args.ptx_coef, args.critic_warmup_updates) == (0.0, 0.0, 0)
    assert (args.early_stop_kl, args.kl_budget, args.score_normalisation) == (None, None, "none")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"kl_coef": -0.1}, "kl_coef=-0.1"),
        ({"gamma": 1.1}, "gamma=1.1"),
        ({"lam": float("nan")}, "lam=nan"),
        ({"num_ppo_epochs": 0}, "num_ppo_epochs=0"),
        ({"truncation": "cut"}, "truncation='cut'"),
        ({"critic": "reward"}, "critic='reward'.*allowed: head, adapter, model"),
        ({"score_normalisation": "z"}, "score_normalisation='z'.*allowed: none, reference, runn"),
        ({"entropy_coef": -1.0}, "entropy_coef=-1.0"),
        ({"ptx_coef": -0.1}, "ptx_coef=-0.1"),
        ({"ptx_max_length": 1}, "ptx_max_length=1"),
        ({"critic_warmup_updates": -1}, "critic_warmup_updates=-1"),
        ({"save_strategy": "steps", "save_steps": 6}, "save_steps=6 lies inside an update"),
        (
            {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 3,
             "metric_for_best_model": "gold"},
            "eval_steps=3 lies inside an update",
        ),
    ],
)  # fmt: skip
def test_a_value_outside_its_range_is_refused(
    tmp_path: Path, arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        config(tmp_path, **arguments)
