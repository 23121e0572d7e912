"""Sources that cannot be read: one line that names the place, never a traceback."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from align.config import SourceConfig
from align.data import DataContext, load_rows
from align.errors import UserError

TEXTS = b'{"text": "a"}\n{"text": "b"}\n'
MANY = b"".join(json.dumps({"text": str(n)}).encode() + b"\n" for n in range(999))

# name: file, its content, what the error says, in this order
FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "unknown ending": ("x.docx", b"x", ["x.docx: cannot tell", "'.docx'; allowed: .jsonl"]),
    "empty file": ("x.jsonl", b"", ["x.jsonl: the file is empty (0 bytes)"]),
    "blank file": ("x.json", b" \n\n", ["x.json: no rows to use: the source holds none"]),
    "blank text": ("x.txt", b" \n\n", ["x.txt: no rows to use: the source holds none"]),
    "header only": ("x.csv", b"text,b\n", ["x.csv: no rows to use: the source holds none"]),
    "truncated gzip": (
        "x.jsonl.gz",
        gzip.compress(MANY)[:-20],
        ["x.jsonl.gz: the compressed file ends too early (truncated)"],
    ),
    "not gzip": ("x.jsonl.gz", TEXTS, ["x.jsonl.gz: not a sound gzip file"]),
    "damaged gzip": (
        "x.jsonl.gz",
        gzip.compress(MANY)[:200] + b"\0" * 99 + gzip.compress(MANY)[299:],
        ["x.jsonl.gz: not a sound gzip file"],
    ),
    "half-written line": (
        "x.jsonl",
        TEXTS + b'{"text": "c',
        ["x.jsonl:3: not valid JSON at column 10: Unterminated string", "half-written"],
    ),
    "broken json file": (
        "x.json",
        b'[\n{"text": "a"},\n{"text"}\n]',
        ["x.json:3: not valid JSON at column 8"],
    ),
    "broken line in a json file of lines": (
        "x.json",
        b'{"text": "a"}\n{"text"}\n',
        ["x.json:2: not valid JSON at column 8"],
    ),
    "json with two lists": (
        "x.json",
        b'{"a": [], "b": []}',
        ["x.json: the file holds an object with 2 lists; allowed: one array of objects"],
    ),
    "json without a list": ("x.json", b"12", ["x.json: the file holds a number (12); allowed:"]),
    "a number in an array": (
        "x.json",
        b'[{"text": "a"}, 12]',
        ["x.json, row 2: the row is a number (12)"],
    ),
    "half a surrogate pair": (
        "x.jsonl",
        b'{"text": "\\ud83d\\ude00"}\n{"text": "\\ud83d"}\n',
        ["x.jsonl:2: an escape names half a surrogate pair"],
    ),
    "nested beyond reason": ("x.jsonl", b"[" * 100_000, ["x.jsonl:1: "]),
    "a number beyond reason": ("x.jsonl", b'{"text": %s}' % (b"1" * 5000), ["x.jsonl:1: "]),
    "latin-1": (
        # 14 and 15 bytes (the a with its accent has two), then 13 before the e with its accent.
        "x.jsonl",
        b'{"text": "a"}\n{"text": "\xc3\xa1"}\n{"text": "caf\xe9"}\n',
        ["x.jsonl:3: byte 42 (0xe9) is not UTF-8; allowed: UTF-8; ", "iconv"],
    ),
    "utf-16": ("x.txt", "word".encode("utf-16"), ["x.txt:1: byte 0 (0xff) is not UTF-8"]),
    "ragged csv": (
        "x.csv",
        b'text,label\n"a\nb",1\nb,2,3\n',
        ["x.csv:4: the row has 3 fields, the header has 2; allowed: text, label"],
    ),
    "short tsv row": (
        "x.tsv",
        b"text\tlabel\n\na\n",
        ["x.tsv:3: the row has 1 fields, the header has 2"],
    ),
    "open quote": ("x.csv", b'text,label\na,1\n"b,2\nc,3\n', ["x.csv:3: not valid CSV"]),
    "header with a name twice": (
        "x.csv",
        b"a,b,a\n1,2,3\n",
        ["x.csv:1: the header has the name 'a' more than once"],
    ),
    "broken parquet": (
        "x.parquet",
        b"PAR1 and no more",
        ["x.parquet: not a sound Parquet file"],
    ),
}


def fails(source: dict[str, Any], context: DataContext, expected: list[str]) -> None:
    """The source is refused in one line that holds the expected parts in their order."""
    with pytest.raises(UserError) as caught:
        load_rows(SourceConfig(**source), "text", context)
    line, position = str(caught.value), 0
    assert "\n" not in line
    for part in expected:
        assert part in line[position:], line
        position = line.index(part, position) + len(part)


@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_named_in_one_line(tmp_path: Path, name: str) -> None:
    file, content, expected = FILES[name]
    (tmp_path / file).write_bytes(content)
    fails({"path": file}, DataContext(tmp_path, None, 0), expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"path": "trian.jsonl"}, ["trian.jsonl: no such file", "did you mean", "/train.jsonl'?"]),
        ({"path": "sab/x.jsonl"}, ["sab/x.jsonl: no such file", "did you mean", "/sub'?"]),
        ({"path": "zzz/x.jsonl"}, ["zzz/x.jsonl: no such file", "has no similar name"]),
        ({"path": "x" * 5000}, ["xxx: no such file or folder"]),
        ({"path": "x\0.jsonl"}, ["no such file or folder"]),
        ({"path": "sub"}, ["sub: no data files in this folder; allowed: .jsonl"]),
        (
            {"path": ".", "split": "tran"},
            ["no split 'tran'; allowed: train; did you mean 'train'?"],
        ),
        (
            {"path": "train.jsonl", "split": "test"},
            ["train.jsonl: split 'test' is asked of a single file, which has no splits"],
        ),
        (
            {"path": "train.jsonl", "revision": "a"},
            ["train.jsonl: `revision` is read for hub sets only"],
        ),
        ({"path": "train.jsonl", "subset": "a"}, ["`subset` is read for hub sets only"]),
        ({"world": "text", "limit": 1}, ["world:text: this run has no generated world"]),
        ({"world": "text", "limit": 1, "split": "a"}, ["world:text: `split` is not read"]),
        ({"hub": "/tmp"}, ["hub: '/tmp' is a local path; write path: /tmp"]),
    ],
)
def test_sources_that_lead_nowhere_are_named(
    tmp_path: Path, source: dict[str, Any], expected: list[str]
) -> None:
    (tmp_path / "train.jsonl").write_bytes(TEXTS)
    (tmp_path / "sub").mkdir()
    fails(source, DataContext(tmp_path, None, 0), expected)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jsonl")
    fails({"path": "x.jsonl"}, DataContext(tmp_path, None, 0), ["x.jsonl: not a regular file"])


@pytest.mark.parametrize("file", ["x.txt", "x.parquet"])
def test_a_file_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    (tmp_path / file).write_bytes(b"a")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile", refuse)
    fails({"path": file}, DataContext(tmp_path, None, 0), [f"{file}: ", "Permission denied)"])


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    expected = ["the folder cannot be read (Permission denied)"]
    fails({"path": "."}, DataContext(tmp_path, None, 0), expected)
