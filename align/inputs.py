"""What a stage's artifact depends on: settings, models and data with their hashes, code."""

from __future__ import annotations

import os
from pathlib import Path

from align.artifacts import StageRecord, code_hash, path_hash
from align.config import RunConfig
from align.references import ModelReference
from align.stages import Stage, model_of, sources


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
            inputs[key] = {"path": _relative(place, run / stage.folder), "hash": _hash(place)}
    gold = config.ppo.gold if config.ppo is not None else None
    if gold is not None and stage.name in ("ppo", "evals"):
        inputs["gold"] = {"path": _relative(gold, run / stage.folder), "hash": _hash(gold)}
    return inputs


def _hash(place: str) -> str:
    """Content hash of a local model; a hub id stands for itself."""
    return path_hash(Path(place)) if os.path.exists(place) else f"hub:{place}"


def _relative(place: str, folder: Path) -> str:
    """A local path relative to the stage's folder."""
    return os.path.relpath(place, folder) if os.path.exists(place) else place


def _data_inputs(config: RunConfig, stage: Stage) -> dict[str, dict[str, str]]:
    """Path and hash of every data file and task definition a stage reads."""
    inputs = _definition_inputs(config) if stage.name == "evals" else {}
    if stage.name == "ppo":
        inputs |= _reward_inputs(config)
    for key, (source, _) in sources(config, stage.name).items():
        if source.path is not None:
            path = Path(config.data.root or ".") / source.path
            if path.exists():  # otherwise reading it says what is missing
                inputs[key] = {"path": source.path, "hash": path_hash(path)}
    return inputs


def _reward_inputs(config: RunConfig) -> dict[str, dict[str, str]]:
    """Path and hash of the user's own reward functions, and of files and folders in options."""
    found: dict[str, Path] = {}
    for place, term in enumerate(config.ppo.rewards if config.ppo else ()):
        for depth, entry in enumerate(term.nested()):
            key = f"ppo.rewards.{place}" + ".of" * depth
            module, colon, _ = entry.function.partition(":")
            if colon:  # one that cannot be found is told when it is imported
                file = Path(*module.split("."))
                file = file if file.is_dir() else file.with_suffix(".py")
                if file.exists():
                    found[key] = file
            found |= {f"{key}.{name}": path for name, path in entry.paths().items()}
    return {key: {"path": str(path), "hash": path_hash(path)} for key, path in found.items()}


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
