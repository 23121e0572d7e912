"""What a checkpoint keeps beside weights (docs/ppo.md items 10, 23, 24)."""

import logging
from pathlib import Path

import pytest
import torch

from align.ppo.alarms import Evaluated
from align.ppo.config import PPOConfig
from align.ppo.memory import Memory
from align.ppo.rewards import AdaptiveKL
from align.ppo.scale import ScoreScale


def start(folder: Path, **arguments: object) -> Memory:
    return Memory.start(PPOConfig(output_dir=str(folder), use_cpu=True, **arguments))


def test_it_starts_from_the_arguments(tmp_path: Path) -> None:
    found = start(
        tmp_path, kl_coef=0.2, kl_target=6.0, kl_horizon=99, score_normalisation="running"
    )
    assert found == Memory(AdaptiveKL(0.2, 6.0, 99), ScoreScale("running"), [], {})


def test_all_of_it_comes_back_bit_equal(tmp_path: Path) -> None:
    one = start(tmp_path, kl_target=6.0, score_normalisation="running")
    one.kl.update(0.1, 7)
    one.scale(torch.tensor([0.1, 0.7, 1 / 3]))
    one.judge(Evaluated([0.1, 1 / 3], []))
    one.warn({"kl": "too far"}, 3)
    one.save(tmp_path / "checkpoint-4")
    other = start(tmp_path, kl_target=6.0, score_normalisation="running")
    other.load(tmp_path / "checkpoint-4")
    assert other == one
    assert other.kl.beta != 0.05
    assert (other.scale.n, other.alarms) == (3, {"kl": "update 3: too far"})


def test_each_alarm_is_raised_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = start(tmp_path)
    with caplog.at_level(logging.WARNING, logger="align.ppo"):
        memory.warn({"kl": "far"}, 2)
        memory.warn({"kl": "farther", "length": "long"}, 3)
        memory.warn({"gap": "apart"}, 4, aloud=False)
    assert memory.alarms == {
        "kl": "update 2: far",
        "length": "update 3: long",
        "gap": "update 4: apart",
    }
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("align.ppo", "WARNING", "update 2: far"),
        ("align.ppo", "WARNING", "update 3: long"),
    ]


def test_a_fall_of_gold_below_a_rising_score_is_told(tmp_path: Path) -> None:
    memory = start(tmp_path)
    assert memory.judge(Evaluated([0.0, 0.0], [5.0, 5.0])) == {}
    assert memory.judge(Evaluated([1.0, 1.0], [5.0, 5.0])) == {}
    assert memory.judge(Evaluated([2.0, 2.0], [4.0, 4.0])) == {
        "gold": "the score rose by 2 while the gold reward fell by 1"
    }
