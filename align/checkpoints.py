"""Resumable checkpoints: one counts only when its marker, written last, is in it.

A killed save leaves a folder without marker (or with files shorter than the marker says); it is
deleted before a stage resumes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from align.files import write_json_atomic

MARKER = "complete.json"


def mark_complete(checkpoint: Path, step: int) -> None:
    """Write the marker that makes a checkpoint count; call it after everything else is saved."""
    sizes = {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
    write_json_atomic(checkpoint / MARKER, {"step": step, "bytes": sizes})


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step below `folder`; incomplete ones are deleted."""
    steps: dict[int, Path] = {}
    for checkpoint in sorted(folder.glob("checkpoint-*")):
        try:
            marker = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
            whole = all((checkpoint / n).stat().st_size == b for n, b in marker["bytes"].items())
        except FileNotFoundError:
            whole = False
        if whole:
            steps[marker["step"]] = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return steps[max(steps)] if steps else None
