"""Training stops by the gold reward after the promised number of evaluations, and not before."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from align.ppo.stage import _train
from align.ppo.stopping import GoldStop
from align.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]
HELD_OUT = [{"prompt": "z a"}, {"prompt": "q"}, {"prompt": "w x y"}]


def scripted(verdicts: Iterator[float]) -> Callable[..., list[float]]:
    return lambda prompts, **_: [next(verdicts)] * len(prompts)


@pytest.mark.parametrize(
    ("verdicts", "patience", "steps"),
    [
        ([5.0, 6.0, 4.0, 3.0, 2.0], 2, 16),  # below 6 after updates 3 and 4
        ([5.0, 6.0, 4.0, 3.0, 2.0], 1, 12),
        ([5.0, 4.0, 6.0, 5.0, 7.0], 2, 20),  # never twice in a row
        ([5.0, 6.0, 7.0, 6.0, 5.0], 2, 20),  # due at the very end: nothing is left to stop
    ],
)
def test_training_ends_when_gold_has_fallen_often_enough(
    make_trainer: Make, verdicts: list[float], patience: int, steps: int
) -> None:
    trainer = make_trainer(
        total_episodes=40,
        eval_updates=1,
        parts={"eval_dataset": HELD_OUT, "gold_func": scripted(iter(verdicts))},
    )
    trainer.add_callback(GoldStop(trainer.memory, patience))
    trainer.train()
    assert trainer.state.global_step == steps
    seen = [(e.update, e.gold) for e in trainer.memory.evaluated]
    assert seen == [(i + 1, [verdicts[i]] * 3) for i in range(steps // 4)]
    assert all(e.kl != 0.0 for e in trainer.memory.evaluated)
    said = trainer.memory.alarms.get("stop")
    often = "2 evaluations in a row" if patience == 2 else "evaluation"
    expected = f"update {steps // 4}: stopped, gold below its best in {often}"
    assert said == (expected if steps < 20 else None)


def test_without_gold_nothing_stops(make_trainer: Make) -> None:
    trainer = make_trainer(eval_updates=1, parts={"eval_dataset": HELD_OUT})
    trainer.add_callback(GoldStop(trainer.memory, 1))
    found: Any = trainer.train()
    assert found.global_step == 8


def test_a_run_killed_after_the_stop_is_not_trained_on(make_trainer: Make, tmp_path: Path) -> None:
    verdicts = [5.0, 6.0, 4.0, 3.0, 2.0]

    def again() -> PPOTrainer:
        parts = {"eval_dataset": HELD_OUT, "gold_func": scripted(iter(verdicts))}
        return make_trainer(
            total_episodes=40, eval_updates=1, checkpoint_updates=1, save_total_limit=2, parts=parts
        )

    first = again()
    _train(first, None, 2)
    assert first.state.global_step == 16
    resumed = again()
    _train(resumed, tmp_path / "out" / "checkpoint-16", 2)
    assert resumed.state.global_step == 16
    assert resumed.memory.evaluated == first.memory.evaluated
    one, two = (trainer.shared.adapter_state("policy") for trainer in (first, resumed))
    assert all(torch.equal(weights, two[name]) for name, weights in one.items())
