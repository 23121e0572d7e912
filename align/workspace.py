"""Where a stage works until it is complete: a hidden folder beside its artifact.

An artifact is replaced only by a complete one, so a failed or killed run damages nothing. The
folder remembers which record its contents stand for; only the same record resumes from it, since
checkpoints of another configuration, input or code must never be used.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from align.artifacts import StageRecord, json_hash, make_folder, write_text_atomic

ATTEMPT = ".attempt"


def open_workspace(artifact: Path, record: StageRecord, *, keep_results: bool) -> Path:
    """The folder to work in: a killed attempt at the same record, or a new one.

    It lies beside the artifact, so that paths relative to it hold after the move.

    Args:
        artifact: Folder of the finished artifact.
        record: What the attempt stands for.
        keep_results: Start a new attempt from a copy of the artifact (evaluation, which checks
            each stored result by itself).
    """
    folder = artifact.parent / f".{artifact.name}.partial"
    stands_for = json_hash({"config": record.config, "inputs": record.inputs, "code": record.code})
    marker = folder / ATTEMPT
    if marker.is_file() and marker.read_text(encoding="utf-8") == stands_for:
        return folder
    if folder.exists():
        shutil.rmtree(folder)
    if keep_results and artifact.is_dir():
        shutil.copytree(artifact, folder)
        (folder / "manifest.json").unlink(missing_ok=True)
    make_folder(folder)
    write_text_atomic(marker, stands_for)
    return folder


def close_workspace(folder: Path, artifact: Path) -> None:
    """Put a complete attempt in the artifact's place."""
    (folder / ATTEMPT).unlink()
    old = artifact.parent / f".{artifact.name}.old"
    if old.exists():
        shutil.rmtree(old)
    if artifact.exists():
        artifact.rename(old)
    folder.rename(artifact)
    if old.exists():
        shutil.rmtree(old)
