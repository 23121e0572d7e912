"""The sets of the generated world: repeatable, disjoint, diverse, without repetitions."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from align.data import world
from align.data.world import World
from align.data.world_people import BY_NAME
from align.data.world_words import JOBS, THINGS
from align.errors import UserError

SETS = (
    *("text", "heldout_text", "instructions", "preferences", "heldout_preferences"),
    *("prompts", "heldout_prompts", "sentiment", "translation", "counterfactual"),
)
NAME = "|".join(BY_NAME)
JOB = "|".join(JOBS)
THING = "|".join(THINGS.values())
OPENING = re.compile(rf"(?:({NAME}) (?:works as|is) a|this is ({NAME}) , \d\d , the \w+) ({JOB})\b")
DIGEST = """
import hashlib, json
from align.data.world import World
rows = {name: World(3, 0.3, 0.3).rows(name, 60) for name in %r}
print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())
"""


def contents(row: dict[str, Any]) -> list[str]:
    """Every text in a row, messages included."""
    texts: list[str] = []
    for value in row.values():
        if isinstance(value, list):
            texts += [message["content"] for message in value]
        elif isinstance(value, str):
            texts.append(value)
    return texts


def sentences(rows: list[dict[str, Any]]) -> set[str]:
    """All sentences, without the writer of a review and the words "in tavi :"."""
    found: set[str] = set()
    for row in rows:
        for text in contents(row):
            for part in text.split(" .")[:-1]:
                bare = re.sub(r"^.*[:?] ", "", part.strip())
                found.add(re.sub(rf"^({NAME}) says ", "", bare))
    return found


def test_rows_do_not_depend_on_the_process(project: Path) -> None:
    here = {name: World(3, 0.3, 0.3).rows(name, 60) for name in SETS}
    digest = hashlib.sha256(json.dumps(here).encode()).hexdigest()
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", DIGEST % (SETS,)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(project)},
            capture_output=True,
            check=True,
            text=True,
        )
        assert there.stdout.strip() == digest


@pytest.mark.parametrize("name", SETS)
def test_the_first_rows_do_not_depend_on_how_many_are_drawn(name: str) -> None:
    few, many = World(5).rows(name, 31), World(5).rows(name, 90)
    assert len(few) == 31
    assert len(many) == 90
    assert many[:31] == few


@pytest.mark.parametrize("name", SETS)
def test_another_seed_gives_other_rows(name: str) -> None:
    assert World(5).rows(name, 40) != World(6).rows(name, 40)


@pytest.mark.parametrize("pair", [("prompts", "preferences"), ("heldout_prompts", "sentiment")])
def test_sets_have_streams_of_their_own(pair: tuple[str, str]) -> None:
    first, second = ([World(seed).rows(name, 1)[0]["name"] for seed in range(20)] for name in pair)
    # two lists of 20 names out of 36, drawn apart, share 5 places or more once in 4,000
    assert sum(a == b for a, b in zip(first, second, strict=True)) <= 4


@pytest.mark.parametrize("name", SETS)
def test_no_set_repeats_a_row(name: str) -> None:
    rows = [json.dumps(row) for row in World(0).rows(name, 1000)]
    assert len(set(rows)) == 1000


def test_text_has_thousands_of_sentences_and_a_small_lexicon() -> None:
    rows = World(0).text(4000)
    assert len(sentences(rows)) >= 3000
    lexicon = {word for row in rows for word in row["text"].split()}
    assert 250 <= len(lexicon) <= 350
    assert not lexicon & {"he", "she", "his", "her", "him", "hers", "mr", "mrs", "himself"}
    assert all(3 <= row["text"].count(" .") <= 7 for row in rows)


def test_heldout_sets_hold_nothing_of_the_training_sets() -> None:
    w = World(1)
    train = sentences([*w.text(4000), *w.instructions(2000), *w.preferences(1000)])
    assert not train & {row["source"].removesuffix(" .") for row in w.translation(1000)}
    # the first sentence of a review is its clause; the closing remark is one of eight phrases
    held = [re.sub(rf"^({NAME}) says ", "", row["text"]) for row in w.sentiment(1000)]
    assert not train & {text.split(" .")[0] for text in held}
    assert not _portraits(w.text(4000)) & _portraits(w.heldout_text(1000))


def _portraits(rows: list[dict[str, Any]]) -> frozenset[str]:
    """The parts of the documents about one person; name, job, its thing and age masked."""
    found = set()
    for row in rows:
        starts = [match.start() for match in OPENING.finditer(row["text"])]
        for start, end in pairwise([*starts, len(row["text"])]):
            text = re.sub(rf"\b({NAME}) says .*", "", row["text"][start:end])
            found.add(re.sub(rf"\b({NAME}|{JOB}|{THING}|\d\d)\b", "_", text.strip()))
    return frozenset(found)


def test_heldout_prompts_name_a_town_and_figure_that_no_training_prompt_has() -> None:
    def places(rows: list[dict[str, Any]], key: str) -> set[tuple[str, str]]:
        prompt = re.compile(r"about \w+ , \d(\d) , the (\w+) \w+ \.$")
        texts = [row[key] if isinstance(row[key], str) else row[key][0]["content"] for row in rows]
        return {match.groups() for text in texts if (match := prompt.search(text))}

    w = World(2)
    train = places(w.prompts(2000), "prompt") | places(w.preferences(1000), "prompt")
    train |= places(w.instructions(2000), "messages")
    held = places(w.heldout_prompts(1000), "prompt") | places(w.heldout_preferences(500), "prompt")
    audited = places(w.counterfactual(), "prompt_a") | places(w.counterfactual(), "prompt_b")
    assert len(train) + len(held) == 100  # ten towns, ten figures: all are drawn by now
    assert not train & held
    assert audited <= held


def test_the_world_refuses_what_it_cannot_give() -> None:
    with pytest.raises(UserError, match=r"text_bias is 1\.5; allowed: 0 to 1"):
        World(0, text_bias=1.5)
    with pytest.raises(UserError, match=r"label_bias is -0\.1"):
        World(0, label_bias=-0.1)
    with pytest.raises(UserError, match=r"no set 'texts'; allowed: text, heldout_text"):
        World(0).rows("texts", 1)
    with pytest.raises(UserError, match="6913 rows wanted; allowed: at most 6912"):
        World(0).counterfactual(6913)
    with pytest.raises(UserError, match="at most about 1 distinct rows"):
        world._distinct("tiny", 2, lambda _: {"text": "again"})
