"""What a stage's artifact depends on: settings, models and data with their hashes, code."""

from __future__ import annotations

import os
from pathlib import Path

from align.artifacts import StageRecord, code_hash, path_hash
from align.config import RunConfig
from align.references import ModelReference
from align.stages import Stage, model_of, sources
from reward.files import gold_input, place_hash, reward_inputs


def stage_record(config: RunConfig, run: Path, stage: Stage, command: str) -> StageRecord:
    """What the stage's artifact depends on."""
    common = {"seed", "device", "dtype", "threads", "world"}
    settings = config.model_dump(mode="json", include={*common, stage.name, *stage.reads})
    settings["holdout"] = config.data.holdout
    return StageRecord(
        stage=stage.folder,
        config=settings,
        inputs={**_model_inputs(config, run, stage), **_data_inputs(config, stage)},
        code=code_hash(stage.code),
        command=command,
        seed=config.seed,
    )


def references(config: RunConfig, run: Path, stage: Stage) -> dict[str, ModelReference]:
    """The models a stage starts from, by role."""
    found = {role: model_of(config, run, name) for role, name in stage.models.items()}
    return {role: reference for role, reference in found.items() if reference is not None}


def _model_inputs(config: RunConfig, run: Path, stage: Stage) -> dict[str, dict[str, str]]:
    """Path and hash of every folder or file of the models a stage starts from."""
    inputs = {}
    for role, reference in references(config, run, stage).items():
        places = [reference.base, *reference.adapters]
        for number, place in enumerate(places):
            key = role if len(places) == 1 else f"{role}.{number}"
            inputs[key] = {"path": _relative(place, run / stage.folder), "hash": place_hash(place)}
    if stage.name in ("ppo", "evals"):
        for key, gold in gold_input(config).items():
            inputs[key] = gold | {"path": _relative(gold["path"], run / stage.folder)}
    return inputs


def _relative(place: str, folder: Path) -> str:
    """A local path relative to the stage's folder."""
    return os.path.relpath(place, folder) if os.path.exists(place) else place


def _data_inputs(config: RunConfig, stage: Stage) -> dict[str, dict[str, str]]:
    """Path and hash of every data file and task definition a stage reads."""
    inputs = _definition_inputs(config) if stage.name == "evals" else {}
    if stage.name in ("ppo", "evals"):
        inputs |= reward_inputs(config)
    for key, (source, _) in sources(config, stage.name).items():
        if source.path is not None:
            path = Path(config.data.root or ".") / source.path
            if path.exists():  # otherwise reading it says what is missing
                inputs[key] = {"path": source.path, "hash": path_hash(path)}
    return inputs


def _definition_inputs(config: RunConfig) -> dict[str, dict[str, str]]:
    """Path and hash of the run's own task definitions; the library's count as code."""
    named = (
        {k: str(task.definition) for k, task in config.evals.tasks.items()} if config.evals else {}
    )
    return {
        f"evals.tasks.{name}.definition": {"path": path, "hash": path_hash(Path(path))}
        for name, path in named.items()
        if path.endswith((".yaml", ".yml")) and Path(path).exists()
    }
