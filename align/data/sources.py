"""Open what a `SourceConfig` names - a set of the world, files, the hub - as rows of one kind.

A source is read as a stream, so that of a large file only the rows kept are in memory. Order of
work: rename, convert, leave out (counted by reason), then `limit`: the first of a seeded shuffle of
what is left. Nothing is dropped without a count, and nothing is cached.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from align.data.dialogues import Unusable
from align.data.folders import open_path
from align.data.formats import Converter, Kind, infer_numbers
from align.data.hub import open_hub
from align.data.labels import is_labelled, pair_labels
from align.data.readers import Row, Table
from align.errors import UserError
from align.files import file_hash, json_hash

if TYPE_CHECKING:
    from align.config import SourceConfig


class RowSource(Protocol):
    """What is needed of `align.data.world.World`."""

    def rows(self, name: str, n: int) -> list[Row]:
        """The first `n` rows of the set `name`."""
        ...


@dataclass(frozen=True)
class DataContext:
    """What a source needs to know of its run.

    Attributes:
        root: Folder that relative paths start from; None: the working directory.
        world: The generated world, where the run has one.
        seed: The run's seed; `limit` shuffles by it.
    """

    root: Path | None
    world: RowSource | None
    seed: int


class Rows(NamedTuple):
    """Rows of one kind and their record for the manifest.

    Attributes:
        rows: Plain dicts, see `align.data.formats`.
        record: source, revision, split, rows, sha256, licence, dropped (count by reason).
    """

    rows: list[Row]
    record: dict[str, Any]


class _Opened(NamedTuple):
    """A source before conversion; without files (world, hub) its rows are hashed."""

    tables: list[Table]
    name: str
    split: str | None
    licence: str
    files: list[Path]


def load_rows(source: SourceConfig, kind: Kind, context: DataContext) -> Rows:
    """Read a source and convert it to the format of a kind.

    Returns:
        The rows, in file order or, with `limit`, in the order of a seeded shuffle; and the record.

    Raises:
        UserError: Anything wrong with the source or one of its rows, by file and line.
    """
    opened = _open(source, context)
    dropped = _Dropped()
    converter = Converter(kind, dict(source.columns), source.words)
    kept = _converted(opened.tables, converter, source.max_characters, dropped)
    rows = list(islice(kept, source.limit) if source.streaming else kept)
    if not rows:
        raise UserError(f"no rows to use: {dropped}", where=opened.name)
    if any(table.untyped for table in opened.tables):
        infer_numbers(rows)
    if kind == "preferences" and is_labelled(rows):
        rows = pair_labels(rows, derived_seed(context.seed, "pairs"))
    if source.limit is not None and source.world is None and not source.streaming:
        random.Random(derived_seed(context.seed, "limit")).shuffle(rows)
        dropped.add("beyond the limit", "", len(rows) - source.limit)
        rows = rows[: source.limit]
    record = {
        "source": opened.name,
        "revision": source.revision,
        "split": opened.split,
        "rows": len(rows),
        "sha256": _files_hash(opened.files) if opened.files else rows_hash(rows),
        "licence": opened.licence,
        "dropped": dict(sorted(dropped.counts.items())),
    }
    return Rows(rows, record)


def derived_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, by hashing, so that streams do not repeat each other."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def rows_hash(rows: Iterable[Row]) -> str:
    """SHA-256 of rows as JSON Lines with sorted keys."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _files_hash(files: list[Path]) -> str:
    """SHA-256 of one file; of several, of the JSON of their names and hashes."""
    hashes = {file.name: file_hash(file) for file in files}
    return json_hash(hashes) if len(files) > 1 else hashes[files[0].name]


class _Dropped:
    """Rows left out: a count a reason, and where the first was."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first = ""

    def add(self, reason: str, where: str, count: int = 1) -> None:
        if count > 0:
            self.counts[reason] += count
            self.first = self.first or where

    def __str__(self) -> str:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(self.counts.items()))
        if not listed:
            return "the source holds none"
        return f"{self.counts.total()} left out ({listed}; the first at {self.first})"


def _converted(
    tables: list[Table], converter: Converter, longest: int | None, dropped: _Dropped
) -> Iterator[Row]:
    """The usable rows of all tables; faults get the row's place, the others are counted."""
    for table in tables:
        for number, raw in table.rows:
            try:
                row = converter(raw)
            except UserError as error:
                where = table.where(number)
                raise UserError(
                    error.what, where=where, allowed=error.allowed, remedy=error.remedy
                ) from None
            except Unusable as reason:
                dropped.add(str(reason), table.where(number))
                continue
            if longest is not None and characters(row) > longest:
                dropped.add(f"more than {longest} characters", table.where(number))
                continue
            yield row


def characters(value: Any) -> int:
    """Characters of all text in a row; names of fields and roles do not count."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(characters(item) for key, item in value.items() if key != "role")
    return sum(map(characters, value)) if isinstance(value, list) else 0


def _open(source: SourceConfig, context: DataContext) -> _Opened:
    """Open the one of world, path and hub that the source names."""
    if source.hub is not None:
        table, licence = open_hub(source, derived_seed(context.seed, "stream"))
        return _Opened([table], f"hub:{source.hub}", source.split, licence, [])
    for key in ("revision", "subset"):
        if getattr(source, key) is not None:
            raise UserError(f"`{key}` is read for hub sets only", where=_named(source))
    if source.world is not None:
        return _open_world(source, context)
    path = (context.root or Path()) / Path(str(source.path)).expanduser()
    tables, files = open_path(path, source.split)
    split = source.split if path.is_dir() else None
    return _Opened(tables, _named(source), split, _licence(path, files[0]), files)


def _named(source: SourceConfig) -> str:
    """The source as the run's file names it; no absolute path is added."""
    return f"world:{source.world}" if source.world is not None else str(source.path)


def _open_world(source: SourceConfig, context: DataContext) -> _Opened:
    """Generate a set of the world; the number of rows is `limit`."""
    name = str(source.world)
    if source.split != "train":
        raise UserError("`split` is not read for sets of the world", where=_named(source))
    if context.world is None:
        raise UserError("this run has no generated world", where=_named(source))
    rows = context.world.rows(name, source.limit or 0)
    table = Table(f"world set '{name}'", "row", enumerate(rows, 1))
    return _Opened([table], _named(source), None, "generated", [])


_STATED = re.compile(
    r"^[\s>*_#-]*licen[cs]e\b[*_]*[ \t]*:[*_]*[ \t]*(\S.*)$", re.IGNORECASE | re.MULTILINE
)


def _licence(path: Path, file: Path) -> str:
    """What a README or LICENSE beside the data states in a line `Licence: ...`, or unknown."""
    folders = [path] if path.is_dir() else []
    for folder in [*folders, file.parent]:
        for name in ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt"):
            if (folder / name).is_file():
                text = (folder / name).read_text(encoding="utf-8", errors="replace")
                if match := _STATED.search(text):
                    return match[1].strip()
    return "unknown"
