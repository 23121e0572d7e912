"""Find the files of a source: one file, a folder with split names, or a saved `datasets` folder."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import NamedTuple

from align.data.readers import ENDINGS, READERS, Numbered, Table, ending, near, open_file
from align.errors import UserError


class Opened(NamedTuple):
    """Tables of one source and the files that they are read from."""

    tables: list[Table]
    files: list[Path]


def open_path(path: Path, split: str) -> Opened:
    """Open a file, a folder of files with split names, or a `datasets` folder.

    Raises:
        UserError: Nothing there (says the nearest), unknown ending, empty file, no such split.
    """
    if os.path.isdir(path):
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return _open_saved(path, split)
        files = find_split(path, split)
        return Opened([open_file(file) for file in files], files)
    if not os.path.exists(path):
        raise _missing(path)
    if split != "train":
        raise UserError(
            f"split '{split}' is asked of a single file, which has no splits",
            where=str(path),
            remedy="leave `split` out, or name the folder",
        )
    return Opened([open_file(path)], [path])


def find_split(folder: Path, split: str) -> list[Path]:
    """Data files of one split: `train.jsonl`, shards `train-00000-of-00002.parquet`, or `train/*`.

    They may lie in the folder itself or in its `data/`, as in repositories of the hub.

    Raises:
        UserError: No data files, no such split, or one split twice, a missing shard.
    """
    found = [file for base in (folder, folder / "data") for file in _data_files(base)]
    names = {file: _SHARD.sub("", _stem(file)) for file in found}
    files = [file for file in found if names[file] == split] or _data_files(folder / split)
    if not files:
        splits = sorted({*names.values(), *_folders(folder)})
        what = f"no split '{split}'" if splits else "no data files in this folder"
        raise UserError(
            what,
            where=str(folder),
            allowed=", ".join(splits[:20]) or ENDINGS,
            remedy=near(split, splits),
        )
    _check_parts(files, split, folder)
    return files


def _check_parts(files: list[Path], split: str, folder: Path) -> None:
    """Refuse files that are the same split twice, and sets of shards with a gap."""
    stems = {_stem(file) for file in files}
    kinds = {(file.parent, ending(file)) for file in files}
    if len(stems) < len(files) or len(kinds) > 1 or (split in stems and len(files) > 1):
        listed = ", ".join(file.name for file in files[:5])
        raise UserError(
            f"split '{split}' exists more than once ({listed})",
            where=str(folder),
            remedy="name one file as `path`",
        )
    totals = {int(match[2]) for match in map(_SHARD.search, stems) if match}
    if totals and totals != {len(files)}:
        raise UserError(
            f"{len(files)} of {max(totals)} shards of split '{split}' are there",
            where=str(folder),
            remedy="fetch the others",
        )


_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def _stem(path: Path) -> str:
    return os.path.splitext(re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE))[0]


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UserError(
            f"the folder cannot be read ({error.strerror})", where=str(folder)
        ) from None


def _data_files(folder: Path) -> list[Path]:
    """Files with a known ending in a folder, by name; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return [entry for entry in _entries(folder) if ending(entry) in READERS and entry.is_file()]


def _folders(folder: Path) -> list[str]:
    """Names of subfolders that hold data files."""
    below = [entry for entry in _entries(folder) if entry.is_dir() and entry.name != "data"]
    return [entry.name for entry in below if _data_files(entry)]


def _missing(path: Path) -> UserError:
    """The error for a path that is not there; names the nearest existing name beside it."""
    known, parent = path, path.parent
    while not os.path.isdir(parent) and parent != parent.parent:
        known, parent = parent, parent.parent
    names = [entry.name for entry in _entries(parent)]
    match = difflib.get_close_matches(known.name, names, 1, cutoff=0.5)
    hint = f"did you mean '{parent / match[0]}'?" if match else f"'{parent}' has no similar name"
    return UserError("no such file or folder", where=str(path), remedy=hint)


def _open_saved(path: Path, split: str) -> Opened:
    """A folder written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    folder = path / split if (path / "dataset_dict.json").exists() else path
    if folder == path and split != "train":
        raise UserError(
            f"split '{split}' is asked of a saved set that has no splits",
            where=str(path),
            remedy="leave `split` out",
        )
    if not folder.is_dir():
        splits = [entry.name for entry in _entries(path) if entry.is_dir()]
        raise UserError(
            f"no split '{split}'",
            where=str(path),
            allowed=", ".join(splits),
            remedy=near(split, splits),
        )
    files = sorted(folder.glob("*.arrow"))
    if not files:
        raise UserError("the saved set has no .arrow file", where=str(folder))
    return Opened([Table(str(folder), "row", _read_saved(folder))], files)


# What `load_from_disk` raises for description files of another shape.
_MALFORMED = (KeyError, TypeError, AttributeError)


def _read_saved(folder: Path) -> Numbered:
    import pyarrow
    from datasets import load_from_disk

    try:
        rows = load_from_disk(str(folder)).with_format(None)
        rows.data.validate(full=True)  # Arrow trusts its offsets: a damaged file would crash Python
        yield from enumerate(rows, 1)
    except (pyarrow.ArrowException, OSError, ValueError, *_MALFORMED) as error:
        raise UserError(
            f"not a sound folder of `save_to_disk` ({type(error).__name__}: {error})",
            where=str(folder),
        ) from None
