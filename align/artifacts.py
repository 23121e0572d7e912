"""What a stage is given, what it returns, and the manifest that proves it is complete.

A stage folder is an artifact once `manifest.json` is in it: the manifest is written last and
atomically, and names everything the outputs depend on. `staleness` compares it with what a new
run would use, so a stage is skipped only when configuration, inputs and code all agree.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import UserError
from align.files import (
    code_hash,
    file_hash,
    folder_hash,
    json_hash,
    jsonable,
    make_folder,
    output_files,
    path_hash,
    row_line,
    stage_lock,
    write_json_atomic,
    write_lines_atomic,
    write_rows_atomic,
    write_text_atomic,
)
from align.team import ALONE, Team

if TYPE_CHECKING:
    from align.data import DataContext
    from align.models import ModelReference
    from align.progress import Progress

__all__ = [
    "MetricsLog",
    "StageJob",
    "StageRecord",
    "StageResult",
    "code_hash",
    "file_hash",
    "folder_hash",
    "json_hash",
    "jsonable",
    "make_folder",
    "output_files",
    "path_hash",
    "read_manifest",
    "row_line",
    "stage_lock",
    "staleness",
    "write_json_atomic",
    "write_lines_atomic",
    "write_manifest",
    "write_rows_atomic",
    "write_text_atomic",
]

PACKAGES = (
    "alignkit",
    "torch",
    "transformers",
    "tokenizers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "scikit-learn",
    "sacrebleu",
)
"""Distributions whose versions a manifest records."""
_MANIFEST_KEYS: dict[str, type | tuple[type, ...]] = {
    "stage": str,
    "config": dict,
    "config_hash": str,
    "inputs": dict,
    "code": str,
    "outputs": dict,
    "metrics": dict,
}


@dataclass(frozen=True)
class StageJob:
    """What a stage needs beside its section of the configuration."""

    folder: Path
    """The stage's own folder; it exists."""
    inputs: Mapping[str, ModelReference]
    """Models the stage starts from, by role."""
    data: DataContext
    """Where rows come from."""
    progress: Progress
    """Where to report."""
    team: Team = ALONE
    """The processes that share the work."""


@dataclass(frozen=True)
class StageResult:
    """What a stage hands back for its manifest."""

    metrics: dict[str, Any]
    """Final numbers."""
    data: list[dict[str, Any]] = field(default_factory=list)
    """One record a data source: source, revision, split, rows, sha256, licence, dropped."""
    model: dict[str, Any] | None = None
    """`{"base": path, "adapters": [path, ...]}` relative to the stage's folder."""


@dataclass(frozen=True)
class StageRecord:
    """What a stage's outputs depend on, and how they were made."""

    stage: str
    """Name of the stage, such as `2-sft`."""
    config: Mapping[str, Any]
    """Every setting the stage reads, as plain JSON."""
    inputs: Mapping[str, Mapping[str, str]]
    """Role -> `{"path": relative to the stage's folder, "hash": ...}`."""
    code: str
    """`code_hash` of the modules that make the stage."""
    command: str = ""
    """The command line that asked for it."""
    seed: int = 0
    device: str = ""
    """Where it was computed, once it has been."""
    seconds: float = 0.0


class MetricsLog:
    """`metrics.jsonl`: one JSON object a logged step, appended as training goes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line; `row` holds `step`. A number that is not finite is written as null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(row_line(row) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All complete lines; a last line that a kill tore is left out."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def truncate(self, step: int) -> None:
        """Drop the lines at or after `step` and any torn line: a resumed run writes them again."""
        if self.path.exists():
            write_rows_atomic(self.path, [row for row in self.read() if row["step"] < step])


def write_manifest(folder: Path, record: StageRecord, result: StageResult) -> dict[str, Any]:
    """Write `manifest.json` into `folder` and return it; call it after every other output."""
    outputs = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "hash": file_hash(path),
        }
        for path in output_files(folder)
    }
    manifest: dict[str, Any] = jsonable(
        {
            "stage": record.stage,
            "command": record.command,
            "seed": record.seed,
            "config": record.config,
            "config_hash": json_hash(record.config),
            "inputs": record.inputs,
            "code": record.code,
            "data": result.data,
            "outputs": outputs,
            "model": result.model,
            "git": git_state(),
            "packages": package_versions(PACKAGES),
            "device": record.device,
            "seconds": round(record.seconds, 2),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "metrics": result.metrics,
        }
    )
    write_json_atomic(folder / "manifest.json", manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a complete stage.

    Raises:
        UserError: naming the file, if it is missing or not a manifest.
    """
    path = folder / "manifest.json"
    again = "delete the folder to run the stage again"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("no manifest: the stage is not complete", where=str(path)) from error
    except (OSError, ValueError) as error:
        raise UserError(f"broken manifest ({error})", where=str(path), remedy=again) from error
    for key, kind in _MANIFEST_KEYS.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(key), kind):
            raise UserError(f"broken manifest: no valid `{key}`", where=str(path), remedy=again)
    return dict(manifest)


def staleness(folder: Path, record: StageRecord) -> str | None:
    """Why the artifact in `folder` does not stand for `record`; None if it does.

    Raises:
        UserError: if there is a manifest but it is broken.
    """
    if not (folder / "manifest.json").exists():
        return "not complete: no manifest"
    manifest = read_manifest(folder)
    keys = _differing_keys(manifest["config"], jsonable(record.config))
    if keys:
        return f"config differs: {', '.join(keys[:5])}{' ...' if len(keys) > 5 else ''}"
    before = {role: entry.get("hash") for role, entry in manifest["inputs"].items()}
    now = {role: entry["hash"] for role, entry in record.inputs.items()}
    if before != now:
        return f"inputs differ: {', '.join(_differing_keys(before, now))}"
    if manifest["code"] != record.code:
        return "code differs"
    changed = [name for name, entry in manifest["outputs"].items() if _changed(folder, name, entry)]
    return f"outputs differ: {', '.join(changed[:3])}" if changed else None


def _changed(folder: Path, name: str, entry: Mapping[str, Any]) -> bool:
    """Whether an output is gone or is not what the manifest says."""
    path = folder / name
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return True
    return bool(file_hash(path) != entry["hash"])


def _differing_keys(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Dotted keys at which two JSON trees differ."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [] if before == now else [prefix]
    keys = []
    for key in sorted({*before, *now}):
        inner = f"{prefix}.{key}" if prefix else key
        if (key in before) != (key in now):
            keys.append(inner)
        elif key in before:
            keys += _differing_keys(before[key], now[key], inner)
    return keys


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed version of each distribution; None where it is not installed."""
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout this code runs from; nulls outside one."""
    source = Path(__file__).resolve()

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(source.parent), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie inside somebody else's repository, which does not track it.
    if git("ls-files", "--error-unmatch", source.name) is None:
        return {"commit": None, "dirty": None}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
