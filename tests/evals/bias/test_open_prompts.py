"""Prompts read from the public formats, and our own."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from align.config import SourceConfig
from align.config.evaluation import OPEN as NAMES
from align.data.sources import DataContext, load_rows
from align.errors import UserError
from evals.bias.open_prompts import (
    FRAMES,
    OPEN,
    described,
    draw_prompts,
    embedded_prompts,
    make_prompt,
    read_bold,
    read_holisticbias,
    read_honest,
    read_prompts,
)


def test_bold() -> None:
    row = {"domain": "gender", "group": "actors", "entity": "A_B", "prompt": "A B is a "}
    assert read_bold([row], "t") == [
        make_prompt("A B is a", "gender", "actors", "gender actors: A_B")
    ]
    with pytest.raises(UserError, match="t, row 2: no text in column entity"):
        read_bold([row, {k: v for k, v in row.items() if k != "entity"}], "t")


def test_honest() -> None:
    row = {
        "template_masked": "the cook works as a [M].",
        "raw": "[I] works as a [M]",
        "category": "x",
    }
    (item,) = read_honest([row], "t")
    assert item["prompt"] == "the cook works as a"
    assert (item["group"], item["cluster"]) == ("x", "[I] works as a [M]")
    for broken in ("no blank.", "[M] is first"):
        with pytest.raises(UserError, match="no \\[M\\] behind a text"):
            read_honest([row | {"template_masked": broken}], "t")


def test_holisticbias_descriptors_are_drawn_once_for_each_utterance() -> None:
    rows = [{"axis": "a", "bucket": "b", "descriptor": f"d{n}"} for n in range(3)]
    items = read_holisticbias([*rows, {"axis": "a", "bucket": "c", "descriptor": "old"}], "t")
    assert Counter(item["group"] for item in items) == {"b": 8, "c": 8}
    used = Counter(n for n in range(3) for i in items if f"a d{n} person" in i["prompt"])
    assert sorted(used.values()) == [2, 3, 3], "without replacement while they last"
    assert len({item["cluster"] for item in items}) == 8
    assert sum("an old person" in item["prompt"] for item in items) == 8


def test_holisticbias_sentences_stand_as_they_are() -> None:
    row = {"axis": "a", "bucket": "b", "text": "I'm deaf.", "template": "I'm {}."}
    assert read_holisticbias([row], "t") == [make_prompt("I'm deaf.", "a", "b", "I'm {}.")]


@pytest.mark.parametrize(
    ("descriptor", "person"),
    [
        ("old", "an old person"),
        ("European", "a European person"),
        ("85-year-old", "an 85-year-old person"),
        ("18-year-old", "an 18-year-old person"),
        ("young", "a young person"),
        ("with a limp", "a person with a limp"),
    ],
)
def test_a_person_of_a_descriptor(descriptor: str, person: str) -> None:
    assert described(descriptor) == person


def test_plain_rows() -> None:
    first, second = read_prompts(
        [
            {"prompt": "x", "group": "g"},
            {"prompt": "y", "group": "h", "attribute": "a", "cluster": 3, "control": "True"},
        ],
        "t",
    )
    assert first == make_prompt("x", "group", "g", "row 1")
    assert second == make_prompt("y", "a", "h", "3", control=True)


def test_our_own_ask_every_group_in_every_frame() -> None:
    items = embedded_prompts()
    assert items == embedded_prompts()
    counts = Counter((item["attribute"], item["group"]) for item in items)
    assert set(counts.values()) == {len(FRAMES)}
    assert len([key for key in counts if key[0] == "religion"]) == 6
    assert not any("{" in item["prompt"] for item in items)
    assert {item["cluster"] for item in items} == set(FRAMES)
    controls = [item for item in items if item["control"]]
    assert {item["attribute"] for item in controls} == {"name", "colour", "weekday"}
    assert {item["group"] for item in controls} == {"one", "another"}
    pairs: dict[Any, set[str]] = {}
    for item in controls:
        pairs.setdefault((item["attribute"], item["cluster"]), set()).add(item["prompt"])
    assert all(len(prompts) == 2 for prompts in pairs.values()), "a control swaps two terms"


def test_our_own_swap_only_what_matches() -> None:
    terms: dict[str, set[str]] = {}
    for item in embedded_prompts():
        if item["attribute"] == "pronoun":
            plain = re.sub(r"\b(his|her|their)\b", "_", item["prompt"])
            terms.setdefault(item["cluster"], set()).add(plain)
    assert all(len(found) == 1 for found in terms.values())


def test_drawn_clusters_are_whole_and_shared() -> None:
    items = [make_prompt(f"{c}{g}{n}", "a", g, c) for c in "uvwxyz" for g in "mf" for n in "12"]
    kept = draw_prompts(items, 2, seed=3)
    assert len(kept) == 8, "two clusters of two prompts for two groups"
    assert {i["cluster"] for i in kept if i["group"] == "m"} == {
        i["cluster"] for i in kept if i["group"] == "f"
    }
    assert kept == [item for item in items if item in kept], "in their order"
    draws = {frozenset(i["cluster"] for i in draw_prompts(items, 2, s)) for s in range(200)}
    assert len(draws) == 15, "every pair of six can be drawn"
    own = [make_prompt(str(n), "a", g, f"{g}{n}") for g in "mf" for n in range(5)]
    assert Counter(i["group"] for i in draw_prompts(own, 2, 0)) == {"m": 2, "f": 2}


def test_the_configuration_names_every_kind() -> None:
    assert set(NAMES) == set(OPEN)
    assert all("Caveat: " in prompts.about for prompts in OPEN.values())


@pytest.mark.real_data
def test_public_files_are_read_whole(shared_data: Path) -> None:
    def rows(name: str) -> list[Any]:
        source = SourceConfig(path=str(shared_data / name))
        return load_rows(source, "table", DataContext(None, None, 0)).rows

    assert len(read_bold(rows("bias-bold/prompts.jsonl.gz"), "t")) == 23679
    honest = read_honest(rows("bias-honest/binary_en.jsonl"), "t")
    assert Counter(item["group"] for item in honest) == {"female": 405, "male": 405}
    assert len(read_honest(rows("bias-honest/queer_nonqueer_en.jsonl"), "t")) == 705
    people = read_holisticbias(rows("bias-holisticbias/descriptors.jsonl"), "t")
    assert len(people) == 79 * 8
