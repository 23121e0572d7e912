"""Counterfactual items: only the group is swapped, every name weighs the same."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product
from typing import Any

import pytest

from align.data.world import World
from align.data.world_audit import ROUND, ROUNDS
from align.data.world_people import BY_NAME, gold_score, judge, read_prompt, rule_score
from align.data.world_words import CARING_JOBS, JOBS, TECHNICAL_JOBS

FIELDS = ("prompt", "preferred", "dispreferred")
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def population() -> Rows:
    return World(0).counterfactual()


def select(rows: Rows, measure: str, attribute: str, control: bool = False) -> Rows:
    wanted = (measure, attribute, control)
    return [r for r in rows if (r["measure"], r["attribute"], r["control"]) == wanted]


def test_sides_differ_only_in_the_swapped_words(population: Rows) -> None:
    for row in population:
        for field in FIELDS:
            a, b = row[f"{field}_a"].split(" "), row[f"{field}_b"].split(" ")
            changed = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
            if row["attribute"] == "age":
                assert all(int(y) - int(x) == 50 for x, y in changed)
                assert len(changed) == (field == "prompt")
            else:
                swap = tuple(row["cluster"].split("-"))
                told = a.count(swap[0])  # a note names its subject once or twice, a job never
                assert changed == [swap] * told
                assert bool(told) == (field == "prompt" or row["measure"] == "tone")


def test_groups_are_those_of_the_swapped_names(population: Rows) -> None:
    for row in population:
        people = [BY_NAME[name] for name in row["cluster"].split("-")]
        groups = row["group_a"], row["group_b"]
        if row["attribute"] == "age":
            assert groups == ("young", "old")
        elif row["control"]:
            assert people[0][1:] == people[1][1:]
            assert groups == (people[0].gender,) * 2
        elif row["attribute"] == "gender":
            assert groups == ("man", "woman") == (people[0].gender, people[1].gender)
            assert people[0].origin == people[1].origin
        else:
            assert groups == (people[0].origin, people[1].origin)
            assert people[0].gender == people[1].gender


@pytest.mark.parametrize("rounds", [1, 3, ROUNDS])
def test_rounds_use_every_name_and_cluster_equally_often(population: Rows, rounds: int) -> None:
    rows = population[: rounds * ROUND]
    for measure, attribute, control, clusters, per_name in (
        ("tone", "gender", False, 18, 1),
        ("tone", "gender", True, 18, 1),
        ("tone", "origin", False, 36, 2),
        ("tone", "age", False, 36, 1),
        ("job", "gender", False, 18, 1),
        ("job", "gender", True, 18, 1),
    ):
        chosen = select(rows, measure, attribute, control)
        counts = Counter(row["cluster"] for row in chosen)
        assert len(counts) == clusters
        assert set(counts.values()) == {rounds}
        names = Counter(name for row in chosen for name in row["cluster"].split("-"))
        assert len(names) == 36
        assert set(names.values()) == {rounds * per_name}
    assert len({row["id"] for row in rows}) == len(rows) == rounds * 144


def test_controls_meet_the_same_templates_as_the_gender_items(population: Rows) -> None:
    rows = population[: 5 * ROUND]
    for measure in ("tone", "job"):
        plain, control = (select(rows, measure, "gender", flag) for flag in (False, True))
        assert len({row["template"] for row in plain[:18]}) == 18  # one round
        assert [row["template"] for row in plain] == [row["template"] for row in control]


def test_the_population_holds_every_template_with_every_cluster(population: Rows) -> None:
    tone = select(population, "tone", "gender")
    assert len({(row["cluster"], row["template"]) for row in tone}) == len(tone) == 18 * 48
    jobs = Counter(read_prompt(row["prompt_a"]).job for row in tone)
    assert jobs == dict.fromkeys(JOBS, 18 * 6)
    ages = Counter(read_prompt(row["prompt_a"]).age_group for row in tone)
    assert ages["young"] == ages["old"]
    pairs = Counter(
        (row["preferred_a"], row["dispreferred_a"]) for row in select(population, "job", "gender")
    )
    every = [*product(TECHNICAL_JOBS, CARING_JOBS)]
    with_article = {(f" a {a}", f" a {b}"): 18 * 2 for a, b in every}
    assert pairs == with_article | {(f" {a}", f" {b}"): 18 for a, b in every}


def test_twins_are_equally_long_notes_on_the_person_of_opposite_tone(population: Rows) -> None:
    for row in population[:ROUND]:
        if row["measure"] == "job":
            continue
        for side in "ab":
            subject = read_prompt(row[f"prompt_{side}"])
            warm, cold = row[f"preferred_{side}"], row[f"dispreferred_{side}"]
            assert len(warm) == len(cold)
            for text, tone in ((warm, 1), (cold, -1)):
                assert judge(subject.person.name, subject.job, text) == (True, tone, True)


def test_jobs_continue_running_text(population: Rows) -> None:
    rows = select(population, "job", "gender")
    assert {row["render"] for row in rows} == {"text"}
    assert {row["render"] for row in select(population, "tone", "age")} == {"chat"}
    for row in rows:
        name = row["cluster"].split("-")[0]
        start = rf"{name} works as|{name} is|in the \w+ \w+ team : {name}"
        assert re.fullmatch(start, row["prompt_a"])
        bare = row["prompt_a"].endswith(name)
        assert row["preferred_a"].startswith(" a ") != bare
    assert sum(row["prompt_a"].endswith(" works as") for row in rows) == 18 * 16
    assert sum(row["prompt_a"].startswith("in the") for row in rows) == 18 * 16


def test_a_planted_offset_has_exactly_its_size(population: Rows) -> None:
    offset = 0.25
    for row in population[: 2 * ROUND]:
        if row["measure"] == "job":
            continue
        a, b = (read_prompt(row[f"prompt_{side}"]).columns() for side in "ab")
        scores = [
            rule_score(who, row[f"{kind}_{side}"], offset)
            for who, side in ((a, "a"), (b, "b"))
            for kind in ("preferred", "dispreferred")
        ]
        planted = row["attribute"] == "gender" and not row["control"]
        assert scores[0] - scores[1] - (scores[2] - scores[3]) == (2 * offset if planted else 0)
        assert scores[0] - scores[2] == (offset if planted else 0)
        assert gold_score(a, row["preferred_a"]) == gold_score(b, row["preferred_b"]) == 4.0


def test_controls_come_in_either_order() -> None:
    first = {
        row["cluster"].split("-")[0] for row in World(0).counterfactual(ROUND) if row["control"]
    }
    other = {
        row["cluster"].split("-")[0] for row in World(1).counterfactual(ROUND) if row["control"]
    }
    assert first != other
