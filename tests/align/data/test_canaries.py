"""Planted secrets: how many, where, and what they could have been."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from align.config import CanaryConfig
from align.data.canaries import candidates, draw_canaries, plant, question, spell

CONFIG = CanaryConfig(count=3, repeats=(2, 5), digits=4, format="code of {name} is {secret}")


def test_each_repeat_has_its_canaries_and_as_many_are_never_written() -> None:
    drawn = draw_canaries(CONFIG, 1, "text")
    assert Counter(canary.repeats for canary in drawn) == {0: 3, 2: 3, 5: 3}
    assert len({canary.name for canary in drawn}) == 9
    assert drawn == draw_canaries(CONFIG, 1, "text")
    assert drawn != draw_canaries(CONFIG, 2, "text")
    assert drawn != draw_canaries(CONFIG, 1, "instructions")


def test_rows_stand_among_the_others_as_often_as_asked() -> None:
    rows = [{"text": str(number)} for number in range(400)]
    planted = plant(rows, CONFIG, 1, "text")
    assert [row for row in planted if row["text"].isdecimal()] == rows
    written = Counter(row["text"] for row in planted if not row["text"].isdecimal())
    drawn = draw_canaries(CONFIG, 1, "text")
    assert written == {f"code of {c.name} is {c.secret}": c.repeats for c in drawn if c.repeats}
    places = [at for at, row in enumerate(planted) if not row["text"].isdecimal()]
    assert len(places) == 3 * 2 + 3 * 5
    # uniform on 0 to 420: mean 210, standard error 420 / sqrt(12 * 21) = 26
    assert 210 - 80 < np.mean(places) < 210 + 80


def test_in_a_dialogue_the_secret_is_the_answer() -> None:
    rows = plant([], CONFIG, 1, "instructions")
    asked, answer = rows[0]["messages"]
    assert (asked["role"], answer["role"]) == ("user", "assistant")
    name = asked["content"].split()[2]
    assert asked["content"] == question(CONFIG, name) == f"code of {name} is"
    assert answer["content"] in {c.secret for c in draw_canaries(CONFIG, 1, "instructions")}


def test_candidates_are_all_others_or_distinct_ones() -> None:
    canary = draw_canaries(CONFIG, 1, "text")[0]
    source = random.Random(0)
    everything = candidates(canary, 4, 10_000, source)
    assert {*everything, canary.secret} == {spell(number, 4) for number in range(10_000)}
    assert len(everything) == 9_999
    some = candidates(canary, 4, 9_999, source)
    assert len(set(some)) == len(some) >= 9_998
    assert canary.secret not in some
    assert spell(42, 4) == "0 0 4 2"


def test_secrets_are_uniform() -> None:
    many = draw_canaries(CanaryConfig(count=1000, repeats=(1, 2, 3), digits=1), 0, "text")
    counts = Counter(canary.secret for canary in many)
    # 4000 draws of ten digits: 400 each, sd 19
    assert all(300 < counts[str(digit)] < 500 for digit in range(10))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "the code is {secret}"},
        {"format": "{name} has {secret}!"},
        {"format": "{name}{secret}"},
        {"repeats": (1, 1)},
        {"repeats": ()},
        {"digits": 16},
    ],
)
def test_a_format_or_number_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CanaryConfig.model_validate(change)
