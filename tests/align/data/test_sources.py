"""`load_rows`: order of work, the record, and public data; bad input is in test_bad_*.py."""

import gzip
import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from align.config import SourceConfig
from align.data import DataContext, Rows, load_rows
from align.data.formats import infer_numbers
from align.data.sources import characters, derived_seed
from align.errors import UserError


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(folder: Path, kind: Any, seed: int = 0, **source: Any) -> Rows:
    return load_rows(SourceConfig(**source), kind, DataContext(folder, None, seed))


def test_record_says_what_was_read_and_what_was_left_out(tmp_path: Path) -> None:
    pairs = [("b", "c"), ("b", "b"), ("", "c"), ("b", "b "), ("bbbb", "c"), ("d", "e")]
    rows = [{"question": "a", "chosen": c, "rejected": r} for c, r in pairs]
    path = write_lines(tmp_path / "x.jsonl", rows)
    (tmp_path / "README.md").write_text("# x\n\n**Licence:** MIT, see LICENSE\n", "utf-8")
    columns = {"prompt": "question"}
    result = load(tmp_path, "preferences", path="x.jsonl", columns=columns, max_characters=3)
    assert [row["chosen"][0]["content"] for row in result.rows] == ["b", "d"]
    assert result.record == {
        "source": "x.jsonl",
        "revision": None,
        "split": None,
        "rows": 2,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": "MIT, see LICENSE",
        "dropped": {"empty answer": 1, "identical answers": 2, "more than 3 characters": 1},
    }


def test_characters_are_those_of_all_texts_but_roles() -> None:
    # 2 + 3 + 1 characters; the role, the names and the number do not count.
    row = {"prompt": [{"role": "user", "content": "ab"}], "kind": "cde", "n": 12, "tags": ["f"]}
    assert characters(row) == 6


def test_limit_takes_the_first_of_a_seeded_shuffle(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", [{"text": str(n)} for n in range(50)])
    state = random.getstate()
    ten, same = (load(tmp_path, "text", path="x.jsonl", limit=10) for _ in range(2))
    twenty = load(tmp_path, "text", path="x.jsonl", limit=20)
    other = load(tmp_path, "text", seed=1, path="x.jsonl", limit=10)
    assert ten == same
    assert ten.rows == twenty.rows[:10]
    assert ten.rows != other.rows
    assert len({row["text"] for row in twenty.rows}) == 20
    assert ten.record["rows"] == 10
    assert ten.record["dropped"] == {"beyond the limit": 40}
    assert random.getstate() == state
    assert load(tmp_path, "text", path="x.jsonl", limit=99).record["dropped"] == {}
    whole = load(tmp_path, "text", path="x.jsonl")
    assert [row["text"] for row in whole.rows] == [str(n) for n in range(50)]


def test_every_row_is_as_likely_within_the_limit(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", [{"text": str(n)} for n in range(10)])
    counts = dict.fromkeys(map(str, range(10)), 0)
    for seed in range(300):
        for row in load(tmp_path, "text", seed=seed, path="x.jsonl", limit=3).rows:
            counts[row["text"]] += 1
    # Binomial(300, 0.3): mean 90, standard deviation 7.9; 4.5 of them.
    assert all(abs(count - 90) < 36 for count in counts.values())


def test_derived_seeds_differ_by_purpose_and_seed() -> None:
    expected = int(hashlib.sha256(b"7:limit").hexdigest()[:8], 16)
    assert derived_seed(7, "limit") == expected
    assert len({derived_seed(s, p) for s in (0, 1) for p in ("limit", "stream")}) == 4


def test_csv_numbers_become_numbers_and_texts_stay(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("sentence,label\n12,1\n13,0\n", "utf-8")
    rows = load(tmp_path, "table", path="x.csv", columns={"text": "sentence"}).rows
    assert rows == [{"text": "12", "label": 1}, {"text": "13", "label": 0}]


def test_numbers_of_a_file_without_types_are_read_a_column_at_a_time() -> None:
    rows = [
        {"label": "0", "share": "0.5", "zip": "01234", "gap": "1", "text": "7", "word": "one"},
        {"label": "-12", "share": "2", "zip": "20095", "gap": "", "text": "8", "word": "2"},
    ]
    infer_numbers(rows)
    assert rows == [
        {"label": 0, "share": 0.5, "zip": "01234", "gap": "1", "text": "7", "word": "one"},
        {"label": -12, "share": 2.0, "zip": "20095", "gap": "", "text": "8", "word": "2"},
    ]
    assert [type(row["share"]) for row in rows] == [float, float]


def test_shards_have_one_hash_that_depends_on_each(tmp_path: Path) -> None:
    for index in (0, 1):
        write_lines(tmp_path / f"train-0000{index}-of-00002.jsonl", [{"text": str(index)}])
    first = load(tmp_path.parent, "text", path=tmp_path.name).record
    assert (first["split"], first["rows"]) == ("train", 2)
    write_lines(tmp_path / "train-00001-of-00002.jsonl", [{"text": "2"}])
    assert load(tmp_path.parent, "text", path=tmp_path.name).record["sha256"] != first["sha256"]


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("README.md", "---\nlicense: cc-by-4.0\n---\n", "cc-by-4.0"),
        ("LICENSE", "Licence: MIT\n", "MIT"),
        ("LICENSE", "MIT License\n\nCopyright\n", "unknown"),
        ("README.md", "licence:\n- mit\n", "unknown"),
    ],
)
def test_licence_is_what_a_line_states(tmp_path: Path, name: str, text: str, licence: str) -> None:
    write_lines(tmp_path / "train.jsonl", [{"text": "a"}])
    (tmp_path / name).write_text(text, "utf-8")
    assert load(tmp_path.parent, "text", path=tmp_path.name).record["licence"] == licence


class TwoSets:
    """A stand-in for the generated world."""

    def rows(self, name: str, n: int) -> list[dict[str, Any]]:
        return [{"text": f"{name} {i}"} for i in range(n)]


def test_world_sets_are_generated_in_order() -> None:
    context = DataContext(None, TwoSets(), 5)
    rows, record = load_rows(SourceConfig(world="heldout_text", limit=2), "text", context)
    assert rows == [{"text": "heldout_text 0"}, {"text": "heldout_text 1"}]
    lines = b'{"text": "heldout_text 0"}\n{"text": "heldout_text 1"}\n'
    assert record == {
        "source": "world:heldout_text",
        "revision": None,
        "split": None,
        "rows": 2,
        "sha256": hashlib.sha256(lines).hexdigest(),
        "licence": "generated",
        "dropped": {},
    }


def test_the_world_itself_fits_the_formats() -> None:
    from align.data.world import World

    context = DataContext(None, World(0), 0)
    kinds = {"text": "text", "instructions": "instructions", "preferences": "preferences"}
    for name, kind in {**kinds, "prompts": "prompts", "sentiment": "table"}.items():
        rows, record = load_rows(SourceConfig(world=name, limit=20), kind, context)  # type: ignore[arg-type]
        assert rows == World(0).rows(name, 20)
        assert record["dropped"] == {}


def test_hub_offline_says_so_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, "text", hub="someone/something", revision="abc")
    line = str(caught.value)
    assert line.startswith("hub set 'someone/something': the hub cannot be reached")
    assert "offline" in line
    assert "name it with `path`" in line


class FakeHub:
    """What `datasets.load_dataset` returns, reduced to what is used."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.data, self.read, self.seed = rows, 0, -1
        self.info = type("Info", (), {"license": "mit"})()

    def shuffle(self, seed: int, buffer_size: int) -> "FakeHub":
        assert buffer_size == 10_000
        self.seed = seed
        return self

    def __iter__(self) -> Any:
        for row in self.data:
            self.read += 1
            yield row


def test_hub_stream_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    hub, calls = FakeHub([{"text": t} for t in ("a", "", "b", "c", "d")]), []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: calls.append((a, k)) or hub)
    source = {"subset": "s", "split": "test", "revision": "r", "streaming": True, "limit": 2}
    rows, record = load(tmp_path, "text", hub="a/b", **source)
    assert calls == [(("a/b", "s"), {"split": "test", "revision": "r", "streaming": True})]
    assert rows == [{"text": "a"}, {"text": "b"}]
    assert (hub.read, hub.seed) == (3, derived_seed(0, "stream"))
    assert record["dropped"] == {"empty text": 1}
    kept = (record["source"], record["split"], record["revision"], record["licence"])
    assert kept == ("hub:a/b", "test", "r", "mit")


def test_a_stream_that_breaks_off_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    class Broken(FakeHub):
        def __iter__(self) -> Any:
            yield {"text": "a"}
            raise ConnectionError("reset by peer")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Broken([]))
    with pytest.raises(UserError, match="hub set 'a/b': the hub cannot be reached"):
        load(tmp_path, "text", hub="a/b", streaming=True, limit=5)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError("Dataset 'a/b' doesn't exist"), "no such data set, or no access to it"),
        (ValueError('Unknown split "x"'), 'cannot be loaded (ValueError: Unknown split "x")'),
        (RuntimeError("Dataset scripts"), "cannot be loaded (RuntimeError: Dataset scripts)"),
    ],
)
def test_hub_faults_become_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    import datasets

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError) as caught:
        load(tmp_path, "text", hub="a/b")
    assert message in str(caught.value)


def test_ten_thousand_lines_take_a_fraction_of_a_second(tmp_path: Path) -> None:
    message = [{"role": "user", "content": "a" * 200}, {"role": "assistant", "content": "b" * 200}]
    line = json.dumps({"messages": message}).encode() + b"\n"
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(line * 10_000, 1))
    start = time.process_time()
    assert len(load(tmp_path, "instructions", path="x.jsonl.gz").rows) == 10_000
    assert time.process_time() - start < 3.0  # 0.15 s on a quiet core, more under coverage


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "split", "kind", "rows", "fields"),
    [
        ("preference-hh-helpful", "test", "preferences", 1000, {"prompt", "chosen", "rejected"}),
        ("preference-hh-helpful", "train", "prompts", 4578, {"prompt"}),
        ("sft-dolly", "train", "instructions", 5000, {"messages"}),
        ("eval-sst2", "test", "table", 1000, {"sentence", "label"}),
        ("eval-multi30k", "val", "table", 1014, {"id", "en", "de", "fr"}),
        ("pretrain-wikitext2", "valid", "text", 60, {"text"}),
        ("bias-crows-pairs", "test", "table", 1508, {"sent_more", "sent_less", "bias_type"}),
    ],
)
def test_public_sets_are_read_whole(
    shared_data: Path, name: str, split: str, kind: str, rows: int, fields: set[str]
) -> None:
    result = load(shared_data, kind, path=name, split=split)
    index = json.loads((shared_data / "index.json").read_text("utf-8"))["files"]
    (entry,) = (e for e in index if e["file"].startswith(f"{name}/{split}.jsonl"))
    assert (result.record["rows"], result.record["sha256"]) == (rows, entry["sha256"])
    assert result.record["dropped"] == {}
    assert result.record["licence"].startswith(entry["licence"])
    assert all(fields <= row.keys() for row in result.rows)


@pytest.mark.real_data
def test_a_public_preference_row_word_for_word(shared_data: Path) -> None:
    rows = load(shared_data, "preferences", path="preference-hh-helpful", split="test").rows
    assert rows[0]["prompt"] == [
        {"role": "user", "content": "Should I rent a house or rent an apartment?"}
    ]
    answer = rows[0]["rejected"][0]["content"]
    assert answer.endswith("prefer? It seems like both are options.")
