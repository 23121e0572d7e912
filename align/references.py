"""What names a model: a base and an ordered list of adapters, resolved without reading weights."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.errors import UserError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
KINDS = "hub id, model folder, .gguf file or folder of a finished stage"


@dataclass(frozen=True)
class ModelReference:
    """A model: a base, and the adapters to merge into it."""

    base: str
    """Hub id, model folder or .gguf file."""
    adapters: tuple[str, ...] = ()
    """LoRA folders, merged in this order."""
    revision: str | None = None
    """Commit of a hub model."""
    dtype: str = "auto"
    """auto, float32 or bfloat16."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""


def resolve_reference(text: str) -> ModelReference:
    """Read what a user names as a model.

    The folder of a finished stage gives the base and the adapters of its manifest, as paths from
    the working directory.

    Raises:
        UserError: There is nothing of that name, or it is no model.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise UserError("not a model file", where=text, allowed=KINDS)
        return ModelReference(str(path))
    parent = Path(text).parent
    local = text.startswith((".", "/", "~")) or text.endswith(".gguf") or parent.name
    if local and (parent.is_dir() or not HUB_ID.fullmatch(text)):
        there = listing(parent) if parent.is_dir() else "nothing"
        raise UserError(f"no such file or folder; in {parent}: {there}", where=text, allowed=KINDS)
    if not HUB_ID.fullmatch(text):
        raise UserError("no such file or folder, and no hub id", where=text, allowed=KINDS)
    return ModelReference(text)


def relative_model(
    reference: ModelReference, folder: Path, adapters: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The `model` entry of a stage's manifest: `reference` and further adapters below it.

    Args:
        reference: The model the stage started from.
        folder: The stage's folder; local paths become relative to it.
        adapters: The stage's own adapters, relative to its folder.
    """

    def relative(place: str) -> str:
        return Path(os.path.relpath(place, folder)).as_posix() if os.path.exists(place) else place

    entry: dict[str, Any] = {
        "base": relative(reference.base),
        "adapters": [*map(relative, reference.adapters), *adapters],
    }
    if reference.revision is not None:
        entry["revision"] = reference.revision
    return entry


def listing(folder: Path, most: int = 12) -> str:
    """Names in a folder, for an error message."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "") or "nothing"


def _from_folder(folder: Path) -> ModelReference:
    """A model folder, or the folder of a finished stage."""
    manifest = folder / "manifest.json"
    if manifest.is_file():
        entry = _model_entry(manifest)
        return ModelReference(
            base=_from_manifest(folder, entry["base"]),
            adapters=tuple(_from_manifest(folder, place) for place in entry["adapters"]),
            revision=entry.get("revision"),
        )
    if (folder / "config.json").is_file():
        return ModelReference(str(folder))
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            "a LoRA adapter is no model by itself",
            where=str(folder),
            remedy="name its base as the model, and this folder under `adapters`",
        )
    raise UserError(f"no model in this folder: {listing(folder)}", where=str(folder), allowed=KINDS)


def _model_entry(manifest: Path) -> dict[str, Any]:
    """What a manifest says of its model."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"broken manifest ({error})", where=str(manifest)) from error
    entry = content.get("model") if isinstance(content, dict) else None
    if not isinstance(entry, dict) or not {"base", "adapters"} <= set(entry):
        raise UserError("this stage makes no model", where=str(manifest), allowed=KINDS)
    return entry


def _from_manifest(folder: Path, place: str) -> str:
    """A path of a manifest from the working directory; a hub id stays as it is."""
    path = os.path.normpath(folder / place)
    return path if os.path.exists(path) or place.startswith(".") else place
