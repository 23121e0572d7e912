"""The generated world: repeatable, disjoint, exchangeable at zero, biased by exactly its knobs."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest, chi2_contingency

from align.data import world, world_people, world_preferences, world_text
from align.data.world import World
from align.data.world_people import BY_NAME, PEOPLE, Person, judge
from align.data.world_words import CARING_JOBS, JOBS, NAMES, TAVI, TECHNICAL_JOBS
from align.errors import UserError

SETS = (
    *("text", "heldout_text", "instructions", "preferences", "heldout_preferences"),
    *("prompts", "heldout_prompts", "sentiment", "translation", "counterfactual"),
)
NAME = "|".join(BY_NAME)
JOB = "|".join(JOBS)
OPENING = re.compile(rf"(?:({NAME}) (?:works as|is) a|this is ({NAME}) , \d\d , the \w+) ({JOB})\b")
MEMBER = re.compile(rf"\b({NAME}) ({JOB})\b")
# p-values below this fail; every seed is fixed, so a test fails always or never.
ALPHA = 1e-3

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


def jobs_told(rows: list[dict[str, Any]]) -> Iterator[tuple[Person, str]]:
    """Person and job wherever the documents tell the job of somebody."""
    for row in rows:
        for match in OPENING.finditer(row["text"]):
            yield BY_NAME[match[1] or match[2]], match[3]
        for match in MEMBER.finditer(row["text"]):
            yield BY_NAME[match[1]], match[2]


def sentences(rows: list[dict[str, Any]]) -> set[str]:
    """All sentences, without the writer of a review and the words "in tavi :"."""
    found: set[str] = set()
    for row in rows:
        for text in contents(row):
            for part in text.split(" .")[:-1]:
                bare = re.sub(r"^.*[:?] ", "", part.strip())
                found.add(re.sub(rf"^({NAME}) says ", "", bare))
    return found


def independent(table: list[tuple[Any, Any]]) -> bool:
    """Chi-square test: the two columns of the table are independent."""
    counts = Counter(table)
    rows, columns = sorted({a for a, _ in table}), sorted({b for _, b in table}, key=str)
    grid = [[counts[a, b] for b in columns] for a in rows]
    return bool(chi2_contingency(grid).pvalue > ALPHA)


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


def test_sets_have_streams_of_their_own() -> None:
    w = World(5)
    drawn = [
        tuple(row["name"] for row in w.rows(name, 20))
        for name in ("preferences", "heldout_preferences", "prompts", "heldout_prompts")
    ]
    # of 20 names out of 60 two independent lists share a place with probability 1 - (59/60)^20
    for first in range(4):
        for second in range(first):
            assert sum(a == b for a, b in zip(drawn[first], drawn[second], strict=True)) <= 4


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
    assert all(3 <= row["text"].count(" .") <= 6 for row in rows)


def test_heldout_sets_hold_nothing_of_the_training_sets() -> None:
    w = World(1)
    train = sentences([*w.text(4000), *w.instructions(2000), *w.preferences(1000)])
    assert not train & {row["source"].removesuffix(" .") for row in w.translation(1000)}
    # the first sentence of a review is its clause; the closing remark is one of eight phrases
    held = [re.sub(rf"^({NAME}) says ", "", row["text"]) for row in w.sentiment(1000)]
    assert not train & {text.split(" .")[0] for text in held}
    assert not _portraits(w.text(4000)) & _portraits(w.heldout_text(1000))


def _portraits(rows: list[dict[str, Any]]) -> frozenset[str]:
    """The parts of the documents about one person, with name, job and age masked."""
    found = set()
    for row in rows:
        starts = [match.start() for match in OPENING.finditer(row["text"])]
        for start, end in pairwise([*starts, len(row["text"])]):
            text = re.sub(
                rf"(this is a \w+ review :|\b({NAME}) says) .*", "", row["text"][start:end]
            )
            found.add(re.sub(rf"\b({NAME}|{JOB}|\d\d)\b", "_", text.strip()))
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


@pytest.mark.parametrize("bias", [0.0, 0.3, 0.8])
def test_text_bias_tilts_jobs_by_gender_at_its_size(bias: float) -> None:
    found = list(jobs_told(World(4, text_bias=bias).text(3000)))
    counts = Counter((person.gender, job in TECHNICAL_JOBS) for person, job in found)
    for gender, chance in (("man", 0.5 + bias / 2), ("woman", 0.5 - bias / 2)):
        hits, n = counts[gender, True], counts[gender, True] + counts[gender, False]
        assert n > 1000
        assert binomtest(hits, n, chance).pvalue > ALPHA
    odds = [math.log(counts[g, True] / counts[g, False]) for g in ("man", "woman")]
    error = math.sqrt(sum(1 / count for count in counts.values()))
    assert abs(odds[0] - odds[1] - 2 * math.log((1 + bias) / (1 - bias))) < 3.5 * error


def test_full_text_bias_segregates_and_leaves_all_but_the_jobs_alone() -> None:
    biased, fair = World(4, text_bias=1.0).text(500), World(4).text(500)
    for person, job in jobs_told(biased):
        assert job in (TECHNICAL_JOBS if person.gender == "man" else CARING_JOBS)
    blank = re.compile(rf"\b({JOB})\b")
    assert [blank.sub("_", r["text"]) for r in biased] == [blank.sub("_", r["text"]) for r in fair]
    assert biased != fair


@pytest.mark.parametrize("bias", [0.0, 0.3, 0.8])
def test_label_bias_reverses_tone_pairs_about_women_at_its_size(bias: float) -> None:
    rows, fair = World(7, label_bias=bias).preferences(2000), World(7).preferences(2000)
    eligible = [row["flipped"] for row in rows if (row["gender"], row["kind"]) == ("woman", "tone")]
    assert binomtest(len(eligible), len(rows), 0.2).pvalue > ALPHA
    assert binomtest(sum(eligible), len(eligible), bias).pvalue > ALPHA
    assert sum(row["flipped"] for row in rows) == sum(eligible)
    for row, other in zip(rows, fair, strict=True):
        keys = ("rejected", "chosen") if row["flipped"] else ("chosen", "rejected")
        assert [row[key] for key in keys] == [other["chosen"], other["rejected"]]
        assert row["prompt"] == other["prompt"]
    agreed = sum(_prefers_chosen(row) for row in rows)
    assert binomtest(agreed, len(rows), 1 - 0.4 * 0.5 * bias).pvalue > ALPHA


def _prefers_chosen(row: dict[str, Any]) -> bool:
    """Whether the gold rule likes the chosen response more."""
    chosen, rejected = (row[key][0]["content"] for key in ("chosen", "rejected"))
    return World.gold_score(row, chosen) > World.gold_score(row, rejected)


def test_annotators_follow_the_gold_rule_unless_they_flip() -> None:
    rows = World(8, label_bias=0.5).heldout_preferences(800)
    assert all(_prefers_chosen(row) != row["flipped"] for row in rows)
    kinds = Counter(row["kind"] for row in rows)
    for kind, share in (("tone", 0.4), ("topic", 0.3), ("form", 0.3)):
        assert binomtest(kinds[kind], len(rows), share).pvalue > ALPHA


@pytest.mark.parametrize("measure", [len, lambda text: len(text.split())])
def test_length_does_not_tell_the_chosen_response(measure: Any) -> None:
    rows = World(9).preferences(3000)
    wins = []
    for row in rows:
        gap = measure(row["chosen"][0]["content"]) - measure(row["rejected"][0]["content"])
        wins.append(0.5 if gap == 0 else float(gap > 0))
    assert abs(sum(wins) / len(wins) - 0.5) < 0.03


@pytest.fixture
def genders_swapped(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Exchange men and women in the list that names are drawn from; returns who became who."""
    place = {person: NAMES[person.gender, person.origin].index(person.name) for person in PEOPLE}
    other = {"man": "woman", "woman": "man"}
    swapped = tuple(
        BY_NAME[NAMES[other[person.gender], person.origin][place[person]]] for person in PEOPLE
    )
    for module in (world, world_people, world_preferences, world_text):
        monkeypatch.setattr(module, "PEOPLE", swapped)
    return {old.name: new.name for old, new in zip(PEOPLE, swapped, strict=True)}


def _rename(value: Any, partner: dict[str, str]) -> Any:
    """Replace every name in a row by its partner, and the gender by the other one."""
    if isinstance(value, dict):
        other = {"man": "woman", "woman": "man"}
        return {
            key: other[item] if key == "gender" else _rename(item, partner)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_rename(item, partner) for item in value]
    if isinstance(value, str):
        return re.sub(rf"\b({NAME})\b", lambda match: partner[match[0]], value)
    return value


def test_at_zero_men_and_women_are_exactly_exchangeable(genders_swapped: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (world, world_people, world_preferences, world_text):
            patch.setattr(module, "PEOPLE", PEOPLE)
        plain = {name: World(0).rows(name, 400) for name in SETS[:-1]}
        tilted = World(0, 0.3, 0.3).text(400), World(0, 0.3, 0.3).preferences(400)
    for name, rows in plain.items():
        assert World(0).rows(name, 400) == _rename(rows, genders_swapped)
    # the same comparison sees a planted bias
    assert World(0, 0.3).text(400) != _rename(tilted[0], genders_swapped)
    assert World(0, 0, 0.3).preferences(400) != _rename(tilted[1], genders_swapped)


def test_at_zero_nothing_in_the_rows_is_associated_with_a_group() -> None:
    w = World(10)
    jobs = [(person.gender + person.origin, job) for person, job in jobs_told(w.text(2500))]
    assert independent(jobs)
    prompts, pairs = w.prompts(6000), w.preferences(2000)
    for group in ("gender", "origin", "age_group"):
        for rows in (prompts, pairs):
            assert independent([(row[group], row["job"]) for row in rows])
        tones = [judge(r["name"], r["job"], r["chosen"][0]["content"]).tone for r in pairs]
        assert independent([(row[group], tone) for row, tone in zip(pairs, tones, strict=True)])
        assert independent([(row[group], row["kind"]) for row in pairs])
    reviews = w.sentiment(2000)
    assert Counter(row["label"] for row in reviews) == {"positive": 1000, "negative": 1000}
    for group in ("gender", "origin", "name"):
        assert independent([(row[group], row["label"]) for row in reviews])
    names = Counter(row["name"] for row in prompts)
    assert len(names) == 60
    assert sum((count - 100) ** 2 / 100 for count in names.values()) < 98.3  # chi2(59), .001


def test_instructions_have_right_answers_and_mixed_tones() -> None:
    tones: list[tuple[str, int]] = []
    kinds: Counter[str] = Counter()
    for row in World(11).instructions(3000):
        request, answer = contents(row)
        if request.startswith("translate"):
            kinds["translation"] += 1
            assert Counter(answer.split()) == Counter(
                TAVI[word] for word in request.removeprefix("translate to tavi : ").split()
            )
        elif answer in ("positive", "negative"):
            kinds["sentiment"] += 1
        else:
            kinds["note"] += 1
            subject = world_people.read_prompt(request)
            found = judge(subject.person.name, subject.job, answer)
            assert found.on_topic
            assert found.well_formed
            tones.append((subject.person.gender, found.tone))
    for kind, share in (("sentiment", 0.3), ("translation", 0.4), ("note", 0.3)):
        assert binomtest(kinds[kind], 3000, share).pvalue > ALPHA
    for tone in (-1, 0, 1):
        hits = sum(found == tone for _, found in tones)
        assert binomtest(hits, len(tones), 1 / 3).pvalue > ALPHA
    assert independent(tones)


def test_the_world_refuses_what_it_cannot_give() -> None:
    with pytest.raises(UserError, match=r"text_bias is 1\.5; allowed: 0 to 1"):
        World(0, text_bias=1.5)
    with pytest.raises(UserError, match=r"label_bias is -0\.1"):
        World(0, label_bias=-0.1)
    with pytest.raises(UserError, match=r"no set 'texts'; allowed: text, heldout_text"):
        World(0).rows("texts", 1)
    with pytest.raises(UserError, match="8641 rows wanted; allowed: at most 8640"):
        World(0).counterfactual(8641)
    with pytest.raises(UserError, match="at most about 1 distinct rows"):
        world._distinct("tiny", 2, lambda _: {"text": "again"})
