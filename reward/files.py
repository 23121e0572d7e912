"""Files that decide what reward functions and the gold reward say, with their hashes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from align.artifacts import json_hash, path_hash
from align.config import RunConfig


def gold_input(config: RunConfig) -> dict[str, dict[str, str]]:
    """Path and hash of what `ppo.gold` names; empty without it."""
    named = config.ppo.gold if config.ppo is not None else None
    if named is None:
        return {}
    if (file := function_file(named)) is not None:
        return {"gold": {"path": str(file), "hash": json_hash([named, path_hash(file)])}}
    return {"gold": {"path": named, "hash": place_hash(named)}}


def function_file(name: str) -> Path | None:
    """Source of a user's function `package.module:name`, or folder of its package.

    Looked for where Python does, with the working directory last; nothing is imported. None where
    the name is none of a function, or nothing is found: importing it says so.
    """
    module, colon, _ = name.partition(":")
    if not colon:
        return None
    for root in (*sys.path, "."):
        file = Path(os.path.relpath(root or ".")).joinpath(*module.split("."))
        for source in (file, file.with_suffix(".py")):
            if source.is_file() if source.suffix else (source / "__init__.py").is_file():
                return source
    return None


def reward_inputs(config: RunConfig) -> dict[str, dict[str, str]]:
    """Path and hash of the user's own reward functions, and of files and folders in options."""
    found: dict[str, Path] = {}
    for place, term in enumerate(config.ppo.rewards if config.ppo else ()):
        for depth, entry in enumerate(term.nested()):
            key = f"ppo.rewards.{place}" + ".of" * depth
            if (file := function_file(entry.function)) is not None:
                found[key] = file
            found |= {f"{key}.{name}": path for name, path in entry.paths().items()}
    return {key: {"path": str(path), "hash": path_hash(path)} for key, path in found.items()}


def place_hash(place: str) -> str:
    """Content hash of a local model; a hub id stands for itself."""
    return path_hash(Path(place)) if os.path.exists(place) else f"hub:{place}"
