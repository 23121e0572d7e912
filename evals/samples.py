"""Results on disk: every sample with its scores, the statistics' rows, and a manifest, in a folder.

The manifest is written last and names what the result depends on (task, model, items, code), so a
finished result is never computed again and an unfinished one never used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from align.artifacts import (
    file_hash,
    json_hash,
    jsonable,
    make_folder,
    write_json_atomic,
    write_rows_atomic,
)
from evals.task import TaskResult

SAMPLES, STATS, MANIFEST = "samples.jsonl", "stats.npz", "manifest.json"
_RESERVED = ("id", "cluster", "columns")


def save_result(folder: Path, result: TaskResult, key: Mapping[str, Any]) -> None:
    """Write a result; `key` is what it depends on.

    Raises:
        ValueError: A sample uses a reserved name.
    """
    make_folder(folder)
    (folder / MANIFEST).unlink(missing_ok=True)
    write_rows_atomic(folder / SAMPLES, _sample_rows(result))
    unfinished = folder / f".{STATS}.tmp"
    with unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(result.stats))
    os.replace(unfinished, folder / STATS)
    manifest = {
        "key": key,
        "key_hash": json_hash(key),
        "n": len(result.ids),
        "missing": dict(result.missing),
        "outputs": {name: file_hash(folder / name) for name in (SAMPLES, STATS)},
    }
    write_json_atomic(folder / MANIFEST, manifest)


def _sample_rows(result: TaskResult) -> list[dict[str, Any]]:
    """One JSON object an item: its id, cluster and columns, then the sample's own fields."""
    rows = []
    for index, (item, sample) in enumerate(zip(result.ids, result.samples, strict=True)):
        clash = set(_RESERVED) & set(sample)
        if clash:
            raise ValueError(f"samples use reserved names: {sorted(clash)}")
        row: dict[str, Any] = {"id": item}
        if result.clusters is not None:
            row["cluster"] = result.clusters[index]
        if result.columns:
            row["columns"] = {name: values[index] for name, values in result.columns.items()}
        rows.append({**row, **sample})
    return rows


def stored_result(folder: Path, key: Mapping[str, Any]) -> TaskResult | None:
    """The finished result in `folder` if it is one of `key` and unchanged, else None."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if manifest.get("key_hash") != json_hash(key):
        return None
    for name, expected in manifest["outputs"].items():
        path = folder / name
        if not path.is_file() or file_hash(path) != expected:
            return None
    return _load(folder, manifest["missing"])


def _load(folder: Path, missing: Mapping[str, int]) -> TaskResult:
    """Read a result back; JSON turns tuples of a sample into lists, nothing else changes."""
    with (folder / SAMPLES).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    with np.load(folder / STATS, allow_pickle=False) as stored:
        stats = {name: stored[name] for name in stored.files}
    names = rows[0].get("columns", {}) if rows else {}
    clustered = bool(rows) and "cluster" in rows[0]
    return TaskResult(
        ids=tuple(row["id"] for row in rows),
        stats=stats,
        samples=[{k: v for k, v in row.items() if k not in _RESERVED} for row in rows],
        clusters=tuple(row["cluster"] for row in rows) if clustered else None,
        columns={name: tuple(row["columns"][name] for row in rows) for name in names},
        missing=missing,
    )


def cached_json(path: Path, key: Any) -> Any | None:
    """The stored value of `key` in a JSON file {"key", "value"}; None if it is another one."""
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["value"] if stored.get("key") == jsonable(key) else None
