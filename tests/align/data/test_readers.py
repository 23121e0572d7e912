"""Files of every kind give the same rows; folders, shards, saved sets give the right split."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from align.data.folders import open_path
from align.data.readers import open_file
from align.errors import UserError

ROWS = [{"text": "naïve\nline", "label": 1}, {"text": 'say "hi", you', "label": 0}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'text,label\n"naïve\nline",1\n"say ""hi"", you",0\n'


def read(path: Path, split: str = "train") -> list[dict[str, Any]]:
    return [row for table in open_path(path, split).tables for _, row in table.rows]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", LINES),
        ("x.jsonl.gz", LINES),
        ("x.NDJSON", "\n" + LINES.replace("\n", "\r\n")),
        ("x.jsonl", "\ufeff" + LINES + "  \n"),
        ("x.json", json.dumps(ROWS, indent=1)),
        ("x.json.gz", json.dumps({"version": 2, "data": ROWS})),
        ("x.json", LINES),
    ],
)
def test_json_in_all_its_forms_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    assert read(write(tmp_path / name, content)) == ROWS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", CSV),
        ("x.csv.gz", CSV),
        ("x.csv", "\ufeff" + CSV.replace("\n", "\r\n").replace("naïve\r", "naïve")),
        ("x.tsv", 'text\tlabel\n"naïve\nline"\t1\n\n"say ""hi"", you"\t0\n'),
    ],
)
def test_csv_and_tsv_give_text(tmp_path: Path, name: str, content: str) -> None:
    expected = [{"text": "naïve\nline", "label": "1"}, {"text": 'say "hi", you', "label": "0"}]
    assert read(write(tmp_path / name, content)) == expected


def test_parquet_gives_nested_rows(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}]}, {"messages": []}]
    assert read(write_parquet(tmp_path / "x.parquet", rows)) == rows


def test_plain_text_is_read_by_paragraphs(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", "\n\none\ntwo \n \n\n  three\n\nfour")
    assert list(open_file(path).rows) == [
        (3, {"text": "one\ntwo"}),
        (7, {"text": "  three"}),
        (9, {"text": "four"}),
    ]


def test_places_count_lines_of_the_file_and_rows_elsewhere(tmp_path: Path) -> None:
    lines = open_file(write(tmp_path / "x.jsonl", "\n{}\n\n{}\n"))
    assert [lines.where(number) for number, _ in lines.rows] == [
        f"{lines.name}:2",
        f"{lines.name}:4",
    ]
    table = open_file(write(tmp_path / "x.csv", 'a,b\n"1\n2",3\n4,5\n'))
    assert [number for number, _ in table.rows] == [2, 4]
    rows = open_file(write(tmp_path / "x.json", "[{}, {}]"))
    assert [rows.where(number) for number, _ in rows.rows] == [
        f"{rows.name}, row 1",
        f"{rows.name}, row 2",
    ]


@pytest.mark.parametrize(
    ("files", "split"),
    [
        (["train.jsonl", "test.jsonl", "test.ids.txt", "README.md"], "train"),
        (["val.jsonl.gz", "train.jsonl"], "val"),
        (["data/dev.jsonl", "data/train.jsonl"], "dev"),
        (["dev/anything.jsonl", "train/other.jsonl"], "dev"),
    ],
)
def test_a_folder_gives_the_split_asked_for(tmp_path: Path, files: list[str], split: str) -> None:
    for name in files:
        write(tmp_path / name, json.dumps({"from": name}) + "\n")
    (row,) = read(tmp_path, split)
    assert split in row["from"]


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    for index in (1, 0):
        write_parquet(tmp_path / f"data/train-0000{index}-of-00002.parquet", [{"n": index}])
    assert read(tmp_path) == [{"n": 0}, {"n": 1}]


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00001-of-00003.parquet", [{"n": 1}])
    with pytest.raises(UserError, match="1 of 3 shards of split 'train' are there"):
        read(tmp_path)


@pytest.mark.parametrize(
    "second",
    ["train.csv", "train.jsonl.gz", "data/train.jsonl", "train-00000-of-00001.jsonl"],
)
def test_a_split_in_two_files_is_ambiguous(tmp_path: Path, second: str) -> None:
    write(tmp_path / "train.jsonl", "{}\n")
    write(tmp_path / second, "{}\n")
    with pytest.raises(UserError, match="'train' exists more than once"):
        read(tmp_path)


def test_a_part_of_a_split_in_two_files_is_ambiguous(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.gz"):
        write(tmp_path / "train" / name, "{}\n")
    with pytest.raises(UserError, match="'train' exists more than once"):
        read(tmp_path)


def test_saved_sets_are_read_by_split(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = [{"messages": [{"role": "user", "content": "a"}], "n": 1}]
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "one"))
    saved = {"train": Dataset.from_list(rows), "test": Dataset.from_list([{"n": 2}])}
    DatasetDict(saved).save_to_disk(str(tmp_path / "many"))
    assert read(tmp_path / "one") == rows
    assert read(tmp_path / "many") == rows
    assert read(tmp_path / "many", "test") == [{"n": 2}]
    assert [file.suffix for file in open_path(tmp_path / "many", "test").files] == [".arrow"]
    with pytest.raises(
        UserError, match="no split 'tset'; allowed: test, train; did you mean 'test'"
    ):
        read(tmp_path / "many", "tset")
    with pytest.raises(UserError, match="has no splits"):
        read(tmp_path / "one", "test")


def test_a_broken_saved_set_is_named(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"n": 2}]).save_to_disk(str(tmp_path / "one"))
    (file,) = (tmp_path / "one").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match="one: not a sound folder of `save_to_disk`"):
        read(tmp_path / "one")
    file.unlink()
    with pytest.raises(UserError, match=r"has no \.arrow file"):
        read(tmp_path / "one")


def test_damaged_offsets_of_a_saved_set_do_not_crash_python(tmp_path: Path) -> None:
    from datasets import Dataset

    # Arrow stores where each text ends: 1001 and 2003. A text that ends at 2 GiB is read from
    # memory that is not ours unless the file is checked first.
    Dataset.from_list([{"text": "a" * 1001}, {"text": "b" * 1002}]).save_to_disk(str(tmp_path))
    (file,) = tmp_path.glob("*.arrow")
    ends = (1001).to_bytes(4, "little") + (2003).to_bytes(4, "little")
    data = file.read_bytes()
    assert data.count(ends) == 1
    file.write_bytes(data.replace(ends, (1001).to_bytes(4, "little") + b"\xff\xff\xff\x7f"))
    with pytest.raises(UserError, match=r"not a sound folder of `save_to_disk` \(ArrowInvalid"):
        read(tmp_path)
