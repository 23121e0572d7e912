"""Perturbations: what they change, what they leave, and that an item's are always the same."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from evals.perturb import (
    SPACING_RATE,
    TYPO_RATE,
    case,
    contractions,
    perturbed,
    spacing,
    swap_names,
    typos,
)
from evals.perturb_words import KEYS, NAMES

LONG = "the quick brown fox jumps over the lazy dog " * 200


def test_keys_that_touch_touch_each_other() -> None:
    assert sorted(KEYS) == [chr(code) for code in range(ord("a"), ord("z") + 1)]
    assert all(letter in KEYS[other] for letter, near in KEYS.items() for other in near)
    # Neighbours in a row of a US keyboard.
    for line in ("qwertyuiop", "asdfghjkl", "zxcvbnm"):
        assert all(right in KEYS[left] for left, right in pairwise(line))


def test_typos_are_neighbours_at_the_stated_rate() -> None:
    changed = typos(LONG, random.Random(0))
    assert len(changed) == len(LONG)
    pairs = [(old, new) for old, new in zip(LONG, changed, strict=True) if old != new]
    assert all(new in KEYS[old] for old, new in pairs)
    letters = sum(letter != " " for letter in LONG)
    error = np.sqrt(TYPO_RATE * (1 - TYPO_RATE) / letters)
    assert abs(len(pairs) / letters - TYPO_RATE) < 4 * error
    kept = "12.5 \u00e4\u4e2d, (!)"
    assert typos(kept * 50, random.Random(0)) == kept * 50
    assert typos("Q" * 400, random.Random(0)).isupper()


def test_spaces_are_doubled_at_the_stated_rate_and_lines_stay() -> None:
    changed = spacing(LONG.strip(), random.Random(0))
    gaps = LONG.strip().count(" ")
    doubled = changed.count("  ")
    error = np.sqrt(SPACING_RATE * (1 - SPACING_RATE) / gaps)
    assert abs(doubled / gaps - SPACING_RATE) < 4 * error
    assert re.sub(" +", " ", changed) == LONG.strip()
    lines = " a\n  b\n\nc "
    assert spacing(lines, random.Random(0)) == lines


def test_case() -> None:
    assert case("Is it ok?\n\u00e9t\u00e9", random.Random(0)) == "IS IT OK?\n\u00c9T\u00c9"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't know.", "I do not know."),
        ("Don't! DON'T! do not, Do not", "Do not! DO NOT! don't, Don't"),
        ("It can't; it cannot; it can not", "It cannot; it can't; it can't"),
        ("she won't, will not, shan't", "she will not, won't, shall not"),
        ("I'm sure they've left and you'll stay", "I am sure they have left and you will stay"),
        ("I'M HERE", "I AM HERE"),
        ("it ca n't and does n't", "it cannot and does not"),
        ("it isn\N{RIGHT SINGLE QUOTATION MARK}t", "it is not"),
        # Inverted, ambiguous, or no negation at all.
        ("Isn't it? it's Mary's, he'd go", "Isn't it? it's Mary's, he'd go"),
        ("can note, do nothing, donut", "can note, do nothing, donut"),
    ],
)
def test_contractions(text: str, expected: str) -> None:
    assert contractions(text, random.Random(0)) == expected


def test_names_stay_in_their_group_and_change_everywhere() -> None:
    row = {"q": "When Mary met John, mary smiled.", "more": "MARY'S cat and Mary's dog", "y": 1}
    found = perturbed(row, ["q", "more", "y"], "names")
    match = re.fullmatch(r"When (\w+) met (\w+), (\w+) smiled.", found["q"])
    assert match is not None
    woman, man, small = match.groups()
    assert woman in NAMES["woman", "english"]
    assert man in NAMES["man", "english"]
    assert {woman, man} & {"Mary", "John"} == set()
    assert small == woman.lower()
    assert found["more"] == f"{woman.upper()}'S cat and {woman}'s dog"
    arabic = perturbed({"q": "aisha left"}, ["q"], "names")["q"].split()[0]
    assert arabic.title() in set(NAMES["woman", "arabic"]) - {"Aisha"}


def test_two_people_never_become_one() -> None:
    women = NAMES["woman", "arabic"]
    for number in range(30):
        text = f"{women[0]}, {women[1]}, {women[2]} {number}"
        words = re.findall(r"[A-Z]\w+", perturbed({"q": text}, ["q"], "names")["q"])
        assert len(set(words)) == 3
        assert set(words) & set(women[:3]) == set()


@pytest.mark.parametrize(
    "row",
    [
        {"q": "Why did John go?", "choices": ["John was late", "he was ill"]},
        {"q": "When was James Brown born? Ask James."},
        {"q": "Who followed King James?"},
        {"q": "The johns and jameson"},
    ],
)
def test_names_of_choices_and_of_known_people_are_kept(row: dict[str, Any]) -> None:
    assert perturbed(row, ["q"], "names") == {"q": row["q"]}


def test_a_swap_keeps_the_case() -> None:
    assert swap_names("Anna anna ANNA Annas", {"anna": "Amy"}) == "Amy amy AMY Annas"


@pytest.mark.parametrize("kind", ["typos", "spacing", "names"])
def test_an_item_is_always_perturbed_alike(kind: str) -> None:
    row = {"q": f"Mary and John and Peter {LONG[:200]}", "y": 1}
    first = perturbed(row, ["q"], kind)
    assert first == perturbed(dict(reversed(row.items())), ["q"], kind)
    assert first["q"] != row["q"]
    assert first != perturbed(row | {"y": 2}, ["q"], kind)


def test_only_texts_of_the_named_columns_change() -> None:
    row = {"q": "a b", "other": "c d", "choices": ["e"], "n": 3}
    assert perturbed(row, ["q", "choices", "n", "gone"], "case") == {"q": "A B"}
