"""Labelled texts as preference pairs, and prompts cut to their first words."""

import json
from pathlib import Path

import pytest

from align.config import SourceConfig
from align.data.labels import pair_labels
from align.data.sources import DataContext, load_rows
from align.errors import UserError

REVIEWS = [
    {"sentence": "a fine and quiet film about a farm", "label": 1},
    {"sentence": "dull from the first scene on", "label": 0},
    {"sentence": "its jokes fall flat again and again", "label": 0},
    {"sentence": "moving", "label": 1},
    {"sentence": "great fun for the whole family", "label": 1},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [json.dumps(row) + "\n" for row in REVIEWS]
    (tmp_path / "reviews.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def source(**more: object) -> SourceConfig:
    return SourceConfig(path="reviews.jsonl", columns={"text": "sentence"}, **more)  # type: ignore[arg-type]


def context(folder: Path, seed: int = 0) -> DataContext:
    return DataContext(folder, None, seed)


def test_every_pair_prefers_label_1_and_no_text_is_used_twice(folder: Path) -> None:
    rows = load_rows(source(), "preferences", context(folder)).rows
    good = {row["sentence"] for row in REVIEWS if row["label"] == 1}
    bad = {row["sentence"] for row in REVIEWS if row["label"] == 0}
    assert len(rows) == 2  # the rarer label's number
    assert {row["rejected"] for row in rows} == bad
    assert len({row["chosen"] for row in rows} & good) == 2
    assert all(row["prompt"] == "" for row in rows)


def test_the_seed_decides_who_meets(folder: Path) -> None:
    def pairs(seed: int) -> list[dict[str, str]]:
        return load_rows(source(), "preferences", context(folder, seed)).rows

    assert pairs(0) == pairs(0)
    assert any(pairs(0) != pairs(seed) for seed in range(1, 6))


def test_the_limit_counts_pairs(folder: Path) -> None:
    assert len(load_rows(source(limit=1), "preferences", context(folder)).rows) == 1


def test_one_label_alone_is_an_error() -> None:
    with pytest.raises(UserError, match="no text is labelled 0"):
        pair_labels([{"text": "a", "label": 1}], 0)


@pytest.mark.parametrize("label", [2, -1, "yes", None, 0.5])
def test_other_labels_are_an_error(folder: Path, label: object) -> None:
    with (folder / "reviews.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"sentence": "so", "label": label}) + "\n")
    with pytest.raises(UserError, match="field 'label' is") as caught:
        load_rows(source(), "preferences", context(folder))
    assert "reviews.jsonl:6" in str(caught.value)


def test_prompts_keep_their_first_words(folder: Path) -> None:
    found = load_rows(source(words=5), "prompts", context(folder))
    assert [row["prompt"] for row in found.rows] == [
        "a fine and quiet film",
        "dull from the first scene",
        "its jokes fall flat again",
        "great fun for the whole",
    ]
    assert found.record["dropped"] == {"no more than 5 words": 1}


def test_words_are_for_prompts_only(folder: Path) -> None:
    with pytest.raises(UserError, match="`words` is read for prompts only"):
        load_rows(source(words=5), "text", context(folder))


def test_words_do_not_cut_conversations(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "one two three"}]}
    (tmp_path / "talk.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="this prompt is a conversation"):
        load_rows(SourceConfig(path="talk.jsonl", words=1), "prompts", context(tmp_path))
