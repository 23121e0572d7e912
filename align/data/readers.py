"""Open local files as tables of plain rows, each row with its line, and name every broken one.

JSON Lines, JSON, CSV, TSV and plain text, each also as `.gz`, and Parquet. What the fields mean is
not decided here (see `align.data.formats`). Text must be UTF-8; a byte-order mark is skipped.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from align.errors import UserError

Row = dict[str, Any]
Numbered = Iterator[tuple[int, Row]]


class Table(NamedTuple):
    """The rows of one file, read while they are iterated over.

    Attributes:
        name: The file, as errors name it.
        unit: What the numbers count: "line" (from 1, as editors do), or "row" (from 1).
        rows: Pairs of number and row. Iterating raises UserError where the file is broken.
        untyped: All values are strings because the format knows no numbers (CSV).
    """

    name: str
    unit: str
    rows: Iterable[tuple[int, Row]]
    untyped: bool = False

    def where(self, number: int) -> str:
        """Name a place in the file: `data/x.jsonl:17`, or `data/x.parquet, row 17`."""
        if self.unit == "line":
            return f"{self.name}:{number}"
        return f"{self.name}, {self.unit} {number}"


def open_file(path: Path) -> Table:
    """Open one data file by its ending.

    Raises:
        UserError: Unknown ending, not a file, or an empty file.
    """
    reader = READERS.get(ending(path))
    if reader is None:
        raise UserError(
            f"cannot tell the format from the ending '{path.suffix}'",
            where=str(path),
            allowed=ENDINGS,
        )
    if not path.is_file():
        raise UserError("not a regular file", where=str(path), allowed=ENDINGS)
    if path.stat().st_size == 0:
        raise UserError("the file is empty (0 bytes)", where=str(path))
    unit = "line" if reader in (_read_lines, _read_csv, _read_tsv, _read_text) else "row"
    return Table(str(path), unit, reader(path), untyped=reader in (_read_csv, _read_tsv))


def near(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest of the known words, or nothing."""
    match = difflib.get_close_matches(word, list(known), 1, cutoff=0.6)
    return f"did you mean '{match[0]}'?" if match else ""


def describe(value: Any) -> str:
    """A value as errors show it: its JSON type and its beginning."""
    kinds = {
        str: "a string",
        dict: "an object",
        list: "a list",
        type(None): "null",
        bool: "a boolean",
    }
    kind = kinds.get(type(value), "a number" if isinstance(value, (int, float)) else "")
    shown = ascii(value) if isinstance(value, bytes) else repr(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return f"{kind or type(value).__name__}" + (f" ({shown})" if value is not None else "")


def ending(path: Path) -> str:
    """Ending without `.gz`, in lower case; Parquet is never gzipped."""
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    ending = os.path.splitext(plain)[1]
    return ".parquet.gz" if ending == ".parquet" and plain != name else ending


def _chunks(path: Path) -> Iterator[bytes]:
    """Lines of a file as bytes, decompressed."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield from file
    except EOFError:
        raise UserError(
            "the compressed file ends too early (truncated)",
            where=str(path),
            remedy="fetch or compress it again",
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"not a sound gzip file ({error})", where=str(path)) from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from None


def _decoded(path: Path) -> Iterator[str]:
    """Lines of a file as text, with their line ends; says the byte that is not UTF-8."""
    start = 0
    for number, chunk in enumerate(_chunks(path), 1):
        try:
            text = chunk.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"byte {start + error.start} (0x{chunk[error.start]:02x}) is not UTF-8",
                where=f"{path}:{number}",
                allowed="UTF-8",
                remedy="convert the file, for example with: iconv -f LATIN1 -t UTF-8",
            ) from None
        yield text.removeprefix("\ufeff") if number == 1 else text
        start += len(chunk)


def _parse(text: str, path: Path, line: int) -> Any:
    """Parse JSON that starts in a line of a file; a fault is named with its line and column."""
    where = f"{path}:{line}"
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserError(
            f"not valid JSON at column {error.colno}: {error.msg}",
            where=f"{path}:{line + error.lineno - 1}",
            remedy="the line may be cut off or half-written",
        ) from None
    except UnicodeEncodeError:
        raise UserError(
            "an escape names half a surrogate pair, which is no text", where=where
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"JSON beyond reason ({error})", where=where) from None
    return value


def _object(value: Any, where: str) -> Row:
    """Check that a row is an object."""
    if isinstance(value, dict):
        return value
    raise UserError(
        f"the row is {describe(value)}", where=where, allowed='an object like {"text": ...}'
    )


def _read_lines(path: Path) -> Numbered:
    """JSON Lines; blank lines are no rows."""
    for number, line in enumerate(_decoded(path), 1):
        if line and not line.isspace():
            yield number, _object(_parse(line, path, number), f"{path}:{number}")


def _read_json(path: Path) -> Numbered:
    """One array of objects, an object with one list of them, or JSON Lines under this name."""
    text = "".join(_decoded(path))
    lines = text.strip().splitlines()
    if not lines:
        return
    if len(lines) > 1 and lines[0].startswith("{") and lines[0].endswith("}"):
        yield from _read_lines(path)
        return
    for number, row in enumerate(_only_list(_parse(text, path, 1), path), 1):
        yield number, _object(row, f"{path}, row {number}")


def _only_list(value: Any, path: Path) -> list[Any]:
    """The array itself, or the one list inside the object."""
    lists = [value] if isinstance(value, list) else []
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
    if len(lists) == 1:
        return lists[0]
    found = f"an object with {len(lists)} lists" if isinstance(value, dict) else describe(value)
    raise UserError(
        f"the file holds {found}",
        where=str(path),
        allowed="one array of objects, or an object with one list of them",
    )


def _read_csv(path: Path) -> Numbered:
    return _read_delimited(path, ",")


def _read_tsv(path: Path) -> Numbered:
    return _read_delimited(path, "\t")


def _read_delimited(path: Path, delimiter: str) -> Numbered:
    """CSV or TSV with a header; every row must have as many fields as the header."""
    reader = csv.reader(_decoded(path), delimiter=delimiter, strict=True)
    header: list[str] = []
    last = 0
    try:
        for fields in reader:
            start, last = last + 1, reader.line_num
            if not fields:
                continue
            if not header:
                header = _header(fields, f"{path}:{start}")
            elif len(fields) != len(header):
                raise UserError(
                    f"the row has {len(fields)} fields, the header has {len(header)}",
                    where=f"{path}:{start}",
                    allowed=", ".join(header[:20]),
                    remedy="put fields that hold the delimiter or line breaks in double quotes",
                )
            else:
                yield start, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise UserError(f"not valid CSV ({error})", where=f"{path}:{last + 1}") from None


def _header(fields: list[str], where: str) -> list[str]:
    """Check the names in a header."""
    for name in fields:
        if not name.strip() or fields.count(name) > 1:
            raise UserError(
                f"the header has the name '{name}' more than once or empty",
                where=where,
                allowed="a first line with one name a column",
            )
    return fields


def _read_text(path: Path) -> Numbered:
    """Plain text: one row a paragraph, paragraphs are separated by blank lines."""
    start, lines = 0, list[str]()
    for number, line in enumerate(_decoded(path), 1):
        if not line.isspace():
            start = start if lines else number
            lines.append(line)
        elif lines:
            yield start, {"text": "".join(lines).rstrip()}
            lines = []
    if lines:
        yield start, {"text": "".join(lines).rstrip()}


def _read_parquet(path: Path) -> Numbered:
    """Parquet, a batch at a time."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"not a sound Parquet file ({error})", where=str(path)) from None


READERS: dict[str, Callable[[Path], Numbered]] = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_text,
    ".parquet": _read_parquet,
}
ENDINGS = ".jsonl, .ndjson, .json, .csv, .tsv, .txt (each also .gz), .parquet, or a folder of them"
