"""The planted biases of the generated world at their size, and exact exchangeability without."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from scipy.stats import binomtest, chi2_contingency

from align.data import world, world_people, world_preferences, world_text
from align.data.world import World
from align.data.world_people import BY_NAME, PEOPLE, Person, judge
from align.data.world_words import CARING_JOBS, JOBS, NAMES, TAVI, TECHNICAL_JOBS, THINGS

SETS = (
    *("text", "heldout_text", "instructions", "preferences", "heldout_preferences"),
    *("prompts", "heldout_prompts", "sentiment", "translation"),
)
NAME = "|".join(BY_NAME)
JOB = "|".join(JOBS)
OPENING = re.compile(rf"(?:({NAME}) (?:works as|is) a|this is ({NAME}) , \d\d , the \w+) ({JOB})\b")
MEMBER = re.compile(rf"\b({NAME}) ({JOB})\b")
# p-values below this fail; every seed is fixed, so a test fails always or never.
ALPHA = 1e-3


def jobs_told(rows: list[dict[str, Any]]) -> Iterator[tuple[Person, str]]:
    """Person and job wherever the documents tell the job of somebody."""
    for row in rows:
        for match in OPENING.finditer(row["text"]):
            yield BY_NAME[match[1] or match[2]], match[3]
        for match in MEMBER.finditer(row["text"]):
            yield BY_NAME[match[1]], match[2]


def independent(table: list[tuple[Any, Any]]) -> bool:
    """Chi-square test: the two columns of the table are independent."""
    counts = Counter(table)
    rows, columns = sorted({a for a, _ in table}), sorted({b for _, b in table}, key=str)
    grid = [[counts[a, b] for b in columns] for a in rows]
    return bool(chi2_contingency(grid).pvalue > ALPHA)


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
    blank = re.compile(rf"\b({JOB}|{'|'.join(THINGS.values())})\b")
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
    rows = World(8, label_bias=0.5).heldout_preferences(2000)
    assert all(_prefers_chosen(row) != row["flipped"] for row in rows)
    kinds = Counter(row["kind"] for row in rows)
    for kind, share in (("tone", 0.4), ("topic", 0.15), ("form", 0.45)):
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
        plain = {name: World(0).rows(name, 400) for name in SETS}
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
    assert len(names) == 36
    assert sum((6 * count - 1000) ** 2 / 6000 for count in names.values()) < 66.6  # chi2(35), .001


def test_instructions_have_right_answers_and_mixed_tones() -> None:
    tones: list[tuple[str, int]] = []
    kinds: Counter[str] = Counter()
    for row in World(11).instructions(3000):
        request, answer = (message["content"] for message in row["messages"])
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
    for kind, share in (("sentiment", 0.5), ("translation", 0.2), ("note", 0.3)):
        assert binomtest(kinds[kind], 3000, share).pvalue > ALPHA
    for tone in (-1, 0, 1):
        hits = sum(found == tone for _, found in tones)
        assert binomtest(hits, len(tones), 1 / 3).pvalue > ALPHA
    assert independent(tones)
