"""Files as artifacts need them: written whole or not at all, hashed by content, locked by one.

Nothing here knows what a stage is; `align.artifacts` builds manifests on it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from align.errors import UserError

LOGS = frozenset({"manifest.json", "metrics.jsonl", "checkpoints", ".lock", ".attempt"})
"""Names below a stage folder whose contents differ between two equal runs (times, progress)."""


def jsonable(value: Any) -> Any:
    """Plain JSON for `value`: paths as text, arrays as lists, nan and inf as null.

    Raises:
        TypeError: if `value` has no JSON form.
    """
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    if callable(getattr(value, "tolist", None)):
        return jsonable(value.tolist())
    raise TypeError(f"no JSON form for {type(value).__name__}")


def make_folder(folder: Path) -> Path:
    """Create `folder` and its parents; UserError where that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create the folder ({error.strerror})",
            where=str(folder),
            remedy="choose another `output` or free the path",
        ) from error
    return folder


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 `text` so that a reader, or a kill, sees the old file or the new one."""
    write_lines_atomic(path, (text,), end="")


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; keys keep their order."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomic(path, text + "\n")


def write_lines_atomic(path: Path, lines: Iterable[str], end: str = "\n") -> None:
    """Write `lines`, each followed by `end`, atomically; a generator is streamed."""
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(line + end for line in lines)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_rows_atomic(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines, one object a row, atomically."""
    write_lines_atomic(path, (row_line(row) for row in rows))


def row_line(row: Mapping[str, Any]) -> str:
    """One line of JSON Lines."""
    return json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_hash(value: Any) -> str:
    """SHA-256 of `value` as canonical JSON: sorted keys, no spaces."""
    text = json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def output_files(folder: Path) -> list[Path]:
    """The deterministic files below `folder`, sorted: all but logs, checkpoints and leftovers."""
    found = (path for path in folder.rglob("*") if path.is_file())
    kept = (p for p in found if not LOGS.intersection(p.relative_to(folder).parts))
    named = {p.relative_to(folder).as_posix(): p for p in kept if p.suffix != ".tmp"}
    return [named[name] for name in sorted(named)]


def folder_hash(folder: Path) -> str:
    """SHA-256 over names and contents of a folder's deterministic files.

    Two runs of one configuration and seed agree on it; the folder's own place does not matter.
    """
    entries = {p.relative_to(folder).as_posix(): file_hash(p) for p in output_files(folder)}
    return json_hash(entries)


def path_hash(path: Path) -> str:
    """`folder_hash` of a folder, `file_hash` of a file; UserError if nothing is there."""
    if not path.exists():
        raise UserError("no such file or folder", where=str(path))
    return folder_hash(path) if path.is_dir() else file_hash(path)


def code_hash(modules: Iterable[str]) -> str:
    """SHA-256 over the sources of the named modules; a package counts with all its files.

    Its files are modules and the YAML they read.

    Nothing is imported but the parents of dotted names.
    """
    entries: dict[str, str] = {}
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ValueError(f"no source for module {module}")
        origin = Path(spec.origin)
        package = spec.submodule_search_locations is not None
        for path in _sources(origin.parent) if package else [origin]:
            inner = path.relative_to(origin.parent).as_posix()
            entries[f"{module}/{inner}"] = file_hash(path)
    return json_hash(entries)


def _sources(folder: Path) -> list[Path]:
    """What decides how a package works: its modules and the YAML files they read."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".yaml"))


@contextmanager
def stage_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` alone while writing it; the system frees the lock if the process dies.

    Raises:
        UserError: if another process holds it, with that process's id.
    """
    path = make_folder(folder) / ".lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"process {file.read().strip() or 'unknown'} is writing this run",
                where=str(folder),
                remedy="wait for it, or choose another `name`",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
