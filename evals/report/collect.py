"""Everything a report is made from, read once from the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from align.artifacts import MetricsLog, file_hash, read_manifest
from align.errors import UserError
from evals.evidence import find

STAGES = ("1-pretrain", "2-sft", "3-reward", "4-ppo", "5-evals")
"""Folders of the stages, in their order; the part after the dash is the configuration's section."""
Log = list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """What the stages of one run have left behind."""

    name: str
    config: Mapping[str, Any]
    config_hash: str
    manifests: Mapping[str, Mapping[str, Any]]
    """Folder of the stage -> its manifest; complete stages only."""
    logs: Mapping[str, Log]
    """Folder of the stage -> rows of its metrics.jsonl."""
    ledger: Mapping[str, Any]
    """Results of the evaluation; empty where it did not run."""
    ppo_warnings: Mapping[str, str] = field(default_factory=dict)
    """What PPO warned of, with update and numbers, by a short name."""
    ppo_rewards: Sequence[Mapping[str, Any]] = ()
    """What PPO's score is made of: name, signature, weight, clip, normalise."""
    audit: Mapping[str, Any] = field(default_factory=dict)
    """What `align audit` of the run stored; empty where it did not run."""

    @property
    def confidence(self) -> float:
        """Coverage of the stored intervals."""
        return float((self.config.get("evals") or {}).get("confidence", 0.95))

    @property
    def ppo_log(self) -> Log:
        """Rows of PPO's log; empty where it did not run."""
        return self.logs.get("4-ppo", [])


def collect(run_folder: Path) -> Run:
    """Read a run's configuration, manifests, logs and ledger.

    Raises:
        UserError: There is no run in `run_folder`, or one of its files is broken.
    """
    path = run_folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            "no run here: config.yaml is missing",
            where=str(run_folder),
            allowed="a folder that `align run` has written",
        )
    config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    folders = {name: run_folder / name for name in STAGES if (run_folder / name).is_dir()}
    complete = {k: v for k, v in folders.items() if (v / "manifest.json").is_file()}
    logs = {name: MetricsLog(folder / "metrics.jsonl") for name, folder in folders.items()}
    ppo = _read_object(run_folder / "4-ppo" / "ppo.json", "PPO results")
    return Run(
        name=str(config.get("name") or run_folder.name),
        config=config,
        config_hash=file_hash(path),
        manifests={name: read_manifest(folder) for name, folder in complete.items()},
        logs={name: log.read() for name, log in logs.items()},
        ledger=read_ledger(run_folder / STAGES[-1] / "ledger.json"),
        ppo_warnings=ppo.get("warnings", {}),
        ppo_rewards=ppo.get("rewards", ()),
        audit=_read_object(run_folder / "6-audit" / "audit.json", "audit"),
    )


def read_ledger(path: Path) -> dict[str, Any]:
    """The ledger; empty if there is none.

    Raises:
        UserError: The file is not a JSON object.
    """
    return _read_object(path, "ledger")


def _read_object(path: Path, what: str) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"broken {what} ({error})", where=str(path)) from error
    if not isinstance(found, dict):
        raise UserError(f"broken {what}: not a JSON object", where=str(path))
    return found


def skipped(run: Run) -> list[tuple[str, str]]:
    """(where, why) of stages that did not run or finish, and of metrics a stage lacks."""
    found = []
    for stage in STAGES:
        section = stage.split("-", 1)[1]
        if stage in run.manifests:
            continue
        planned = run.config.get(section) is not None
        why = "not complete: it has no manifest" if planned else "not part of this run"
        if stage == STAGES[-1] and run.ledger:
            why = "no manifest, but a ledger was found and is used"
        found.append((f"stage {stage}", why))
    stages = run.ledger.get("stages") or ()
    estimates = run.ledger.get("estimates") or ()
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in estimates):
        have = {row["stage"] for row in find(estimates, task=task, metric=metric)}
        lost = [stage for stage in stages if stage not in have]
        if lost:
            found.append((f"{task} {metric}", f"not measured for {', '.join(lost)}"))
    return found
