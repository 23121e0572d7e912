"""Training stops by the gold reward after the promised number of evaluations, and not before."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

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
