"""Which scores a run's held-out prompts get, and what stored ones depend on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align.artifacts import StageJob
from align.config import RunConfig
from align.data.sources import DataContext
from align.progress import NullProgress
from align.references import ModelReference
from evals.audit import Rewards
from evals.rewards import Scoring, scoring

NAN = float("nan")
COUNT = {"function": "token_count", "options": {"word": "a"}, "name": "a"}
FORM = {"function": "pattern", "options": {"regex": "x"}, "weight": -1, "clip": 0.5}
MODEL = {"function": "reward_model"}


def judge(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Stands for the reward model."""
    return [float(len(text)) for text in completions]


@pytest.fixture
def job(tmp_path: Path) -> StageJob:
    """A finished PPO and a reward stage, as far as scores are concerned."""
    (tmp_path / "4-ppo").mkdir()
    (tmp_path / "3-reward").mkdir()
    inputs = {
        "ppo": ModelReference("base", (str(tmp_path / "4-ppo" / "adapter"),)),
        "reward": ModelReference(str(tmp_path / "3-reward")),
    }
    (tmp_path / "3-reward" / "manifest.json").write_text(json.dumps({"model": None}))
    return StageJob(
        tmp_path, inputs, DataContext(root=tmp_path, world=None, seed=0), NullProgress()
    )


def scored(job: StageJob, monkeypatch: pytest.MonkeyPatch, *rewards: Any, **ppo: Any) -> Scoring:
    monkeypatch.setattr("evals.rewards.reference_hash", lambda reference: "weights")
    monkeypatch.setattr("evals.rewards.resolve_reference", lambda place: place)
    section: dict[str, Any] = {"data": {"path": "p.jsonl"}, **ppo}
    if rewards:
        section["rewards"] = list(rewards)
    document = {"name": "x", "model": {"base": "b"}, "ppo": section}
    document |= {"reward": {"data": {"path": "q.jsonl"}}}
    own = Rewards(raw=lambda: judge, normalised=lambda: judge)  # type: ignore[arg-type, return-value]
    gold = judge if ppo.get("gold") else None
    return scoring(RunConfig.model_validate(document), job, own, gold)


def stored_scales(job: StageJob, **scales: Any) -> None:
    (job.folder / "4-ppo" / "ppo.json").write_text(json.dumps({"scales": scales}))


def test_the_reward_model_alone_is_one_score(job: StageJob, monkeypatch: Any) -> None:
    found = scored(job, monkeypatch)
    assert list(found.scores) == ["reward"]
    assert found.total is None
    assert found.settings == {"reward": "weights"}


def test_parts_are_named_as_in_ppo_and_the_reward_model_is_asked_once(
    job: StageJob, monkeypatch: Any
) -> None:
    found = scored(job, monkeypatch, MODEL, COUNT, COUNT)
    assert list(found.scores) == ["reward", "score/a", "score/a_2"]
    assert found.scores["score/a"]()(prompts=["p"], completions=["a b a"]) == [2.0]
    assert [entry["name"] for entry in found.settings["rewards"]] == ["reward_model", "a", "a_2"]
    assert found.total is not None
    said = {"reward": np.array([0.25]), "score/a": np.array([2.0]), "score/a_2": np.array([4.0])}
    assert found.total(said).tolist() == [6.25]


def test_one_function_alone_has_a_total_too(job: StageJob, monkeypatch: Any) -> None:
    found = scored(job, monkeypatch, COUNT | {"weight": 3})
    assert found.total is not None
    assert found.total({"score/a": np.array([2.0, 1.0])}).tolist() == [6.0, 3.0]


def test_the_total_is_on_the_scales_with_which_ppo_ended(job: StageJob, monkeypatch: Any) -> None:
    # n 4, squares 16: standard deviation 2; mean 1
    stored_scales(job, a={"kind": "reference", "n": 4, "mean": 1.0, "squares": 16.0})
    found = scored(job, monkeypatch, COUNT | {"normalise": "reference"}, FORM)
    assert found.total is not None
    # (5 - 1) / 2 = 2 less the form clipped from 1 to .5; where form is silent, 2 stands for both,
    # times (1 + 1) / 1
    said = {"score/a": np.array([5.0, 5.0]), "score/pattern": np.array([1.0, NAN])}
    assert found.total(said).tolist() == [1.5, 4.0]
    assert found.settings["scales"]["a"]["mean"] == 1.0
    silent = found.total({"score/a": np.array([NAN]), "score/pattern": np.array([NAN])})
    assert np.isnan(silent).all()


def test_a_changed_function_makes_stored_scores_stale(
    job: StageJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_reward_of_run", raising=False)
    module = tmp_path / "own_reward_of_run.py"
    text = "def one(completions, **_): return [{}] * len(completions)\ntwo = one\n"
    mine = {"function": "own_reward_of_run:one"}
    settings = []
    for value in (1.0, 1.0, 2.0):
        module.write_text(text.format(value))
        settings.append(scored(job, monkeypatch, mine, gold="own_reward_of_run:one").settings)
    first, same, changed = settings
    assert first == same
    assert first["files"] != changed["files"]
    assert first["gold"] != changed["gold"]
    other = scored(job, monkeypatch, mine, gold="own_reward_of_run:two").settings
    assert other["gold"] != changed["gold"]
    assert other["files"] == changed["files"]
