"""Killed and resumed = never killed (docs/ppo.md items 10, 23), to the bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from align.ppo.terms import RewardTerm
from align.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]
Rows = Callable[[PPOTrainer], list[dict[str, float]]]
SETTINGS = {
    "total_episodes": 32, "checkpoint_updates": 1, "kl_target": 0.05, "kl_horizon": 100,
    "critic_learning_rate": 3e-2,
}  # fmt: skip
"""Four updates of four optimizer steps; beta moves, the critic has a rate of its own."""
HELD_OUT = [{"prompt": "z a"}, {"prompt": "q"}]


class Killed(Exception):
    """Stands for a power cut."""


class Kill(TrainerCallback):
    """Raises after one optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def outputs(folder: Path) -> dict[str, bytes]:
    """All files that a checkpoint consists of, without transformers' own bookkeeping."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".safetensors", ".json") and path.name != "trainer_state.json"
    }


def assert_same_tensors(one: Any, other: Any) -> None:
    """Nested states with equal bits."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same_tensors(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same_tensors(a, b)
    else:
        assert one == other


def gold(completions: list[str], **_: Any) -> list[float]:
    return [-float(len(text.split())) for text in completions]


def length(completions: list[str], **_: Any) -> list[float | None]:
    words = [len(text.split()) for text in completions]
    return [float(n) if n > 2 else None for n in words]


TERMS = [
    RewardTerm(length, weight=0.5, clip=1.5, normalise="running"),
    RewardTerm(gold, normalise="reference"),
]
"""Scales that learn."""

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "adapters": ({}, {}),
    "head": ({"critic": "head", "score_normalisation": "reference"}, {}),
    "full": ({"critic": "head", "critic_warmup_updates": 1}, {"peft_config": None}),
    "full, critic of its own": ({"critic": "model", "entropy_coef": 0.01}, {"peft_config": None}),
    "everything": (
        {"score_normalisation": "running", "ptx_coef": 0.3, "early_stop_kl": 2e-3,
         "eval_updates": 1, "kl_budget": -1.0},
        {"score": TERMS,
         "ptx_dataset": [{"text": "a b c"}, {"text": "d e f g"}, {"text": "h i"}],
         "eval_dataset": HELD_OUT, "gold_func": gold},
    ),
}  # fmt: skip
"""Arguments and parts."""


@pytest.mark.parametrize(
    ("kind", "step"), [*((kind, 5) for kind in KINDS), ("adapters", 12), ("everything", 12)]
)
def test_a_killed_run_ends_with_the_bits_of_one_never_killed(
    make_trainer: Make, rows_logged: Rows, tmp_path: Path, kind: str, step: int
) -> None:
    # Killed inside the second update, and right at the end of the third before its checkpoint.
    settings, parts = KINDS[kind]
    settings = SETTINGS | settings
    parts = dict(parts)
    if "score" in parts:
        settings = settings | {"score": parts.pop("score")}
    whole = make_trainer(output_dir=str(tmp_path / "whole"), parts=parts, **settings)
    whole.train()
    arguments = settings | {"output_dir": str(tmp_path / "killed")}
    killed = make_trainer(parts={**parts, "callbacks": [Kill(step)]}, **arguments)
    with pytest.raises(Killed):
        killed.train()
    last = max((tmp_path / "killed").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    assert last.name == {5: "checkpoint-4", 12: "checkpoint-8"}[step]
    resumed = make_trainer(parts=parts, **arguments)
    resumed.train(resume_from_checkpoint=str(last))

    expected, found = tmp_path / "whole/checkpoint-16", tmp_path / "killed/checkpoint-16"
    assert outputs(found) == outputs(expected)
    weights = "model" if "peft_config" in parts else "adapter_model"
    assert {f"{weights}.safetensors", "critic/head.safetensors", "ppo_state.json"} <= set(
        outputs(found)
    )
    for name in ("optimizer.pt", "scheduler.pt"):
        assert_same_tensors(torch.load(found / name), torch.load(expected / name))
    assert rows_logged(resumed) == rows_logged(whole)
    assert resumed.memory == whole.memory
    if kind == "everything":
        assert whole.memory.scale.n == 32
        assert whole.memory.alarms["kl"].startswith("update 1: ")  # before the kill
        assert len(whole.memory.evaluated) == 4
        assert whole.memory.terms["length"].n > whole.memory.terms["gold"].n == 8
        assert any("eval/score/length" in row for row in whole.state.log_history)
    assert len({row["kl/beta"] for row in rows_logged(whole)}) == 4
    assert resumed.samples == whole.samples


def test_a_finished_run_resumes_to_its_end(make_trainer: Make, tmp_path: Path) -> None:
    # Killed between the last checkpoint and the stage's outputs: nothing is trained again.
    parts = {"eval_dataset": HELD_OUT}
    whole = make_trainer(parts=parts, **SETTINGS)
    whole.train()
    again = make_trainer(parts=parts, **SETTINGS)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-16"))
    for part in ("policy", "critic"):
        one, other = whole.shared.adapter_state(part), again.shared.adapter_state(part)
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert again.evaluate() == whole.evaluate()
    assert again.samples == whole.samples


def test_the_coefficient_is_in_the_checkpoint(make_trainer: Make, tmp_path: Path) -> None:
    # Item 10: every bit of it, beside what else only PPO knows.
    trainer = make_trainer(**SETTINGS)
    trainer.train()
    saved = json.loads((tmp_path / "out" / "checkpoint-16" / "ppo_state.json").read_text())
    assert saved == {
        "beta": trainer.memory.kl.beta,
        "scale": {"kind": "none", "n": 0, "mean": 0.0, "squares": 0.0},
        "evaluated": [],
        "alarms": {},
        "terms": {"count_of_a": {"kind": "none", "n": 0, "mean": 0.0, "squares": 0.0}},
    }
    assert trainer.memory.kl.beta != 0.05


def test_a_seed_fixes_a_run_and_another_seed_gives_another(
    make_trainer: Make, rows_logged: Rows
) -> None:
    rows = []
    for seed in (1, 1, 2):
        trainer = make_trainer(seed=seed)
        trainer.train()
        rows.append(rows_logged(trainer))
        torch.rand(3)  # the global stream plays no part
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
