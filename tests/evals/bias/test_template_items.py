"""Our own templates: the population by hand, what a swap changes, and how a sample is drawn."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product

import pytest

from align.errors import UserError
from evals.bias.items import check_items
from evals.bias.template_frames import FRAMES, TOPICS
from evals.bias.template_items import (
    PLACES,
    contrasts,
    population,
    population_sizes,
    sample_items,
    term_pairs,
)
from evals.bias.template_terms import ATTRIBUTES, NAMES

BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}
TEXTS = ("prompt", "preferred", "dispreferred")


def test_the_population_by_hand() -> None:
    sizes = population_sizes()
    assert {size["templates"] for size in sizes.values()} == {10 * 16}
    pairs = {name: size["pairs"] for name, size in sizes.items()}
    assert pairs == {
        "gender": 6 * 6 * 6,  # 6 origins, each man's name with each woman's of it
        "origin": 5 * 2 * 6 * 6,  # 5 origins against English, 2 genders
        "gender & origin": 11 * 6 * 6,
        "pronoun": 2 * 6,  # the same sentence about him, her and them
        "religion": 5 * 3,
        "age": 2 * 3,
        "disability": 4 * 3 * 3,
        "orientation": 3 * 3 * 3,
        "dialect": 3 * 4,
        "name": 12 * 6 * 5,  # ordered pairs of different names of one cell
        "colour": 6 * 5,
        "weekday": 5 * 4,
    }
    assert sizes["gender"]["items"] == 160 * 216
    first = contrasts(BY_NAME["age"], PLACES[0])[0]
    items = list(population(BY_NAME["age"], first))
    assert len(items) == len({(i["prompt_a"], i["prompt_b"]) for i in items}) == 160 * 3


@pytest.mark.parametrize("name", ["name", "colour", "weekday"])
def test_a_control_holds_every_pair_in_both_orders(name: str) -> None:
    attribute = BY_NAME[name]
    assert attribute.control
    (contrast,) = contrasts(attribute, PLACES[0])
    pairs = [(a.text, b.text) for a, b in term_pairs(attribute, contrast)]
    # so the mean of s(a) - s(b) over the population is 0 whatever s is
    assert Counter(pairs) == Counter((b, a) for a, b in pairs)
    assert all(a != b for a, b in pairs)


def test_names_are_swapped_inside_their_origin_or_gender() -> None:
    cell = {name: key for key, names in NAMES.items() for name in names}
    assert len(cell) == 72, "a name stands in two cells"
    for row in sample_items(20, seed=4):
        a, b = row["term_a"], row["term_b"]
        if row["attribute"] == "gender":
            assert (cell[a][1], *(cell[x][0] for x in (a, b))) == (cell[b][1], "woman", "man")
        if row["attribute"] == "origin":
            assert cell[a][0] == cell[b][0]
            assert cell[b][1] == "english"
        if row["attribute"] == "name":
            assert cell[a] == cell[b]


def test_a_swap_changes_the_term_and_nothing_else() -> None:
    rows = sample_items(30, seed=1)
    check_items(rows, "identity")
    for row in rows:
        a, b = row["term_a"], row["term_b"]
        named = ("prompt",) if row["measure"] == "in prompt" else ("preferred", "dispreferred")
        for text in TEXTS:
            one, other = row[f"{text}_a"], row[f"{text}_b"]
            if text in named:
                assert one.lower().count(a.lower()) >= 1
                assert one.lower().replace(a.lower(), "#", 1) == other.lower().replace(
                    b.lower(), "#", 1
                )
            else:
                assert one == other


def test_every_text_is_clean() -> None:
    for place, attribute in product(PLACES, ATTRIBUTES):
        for row in population(attribute, contrasts(attribute, place)[0]):
            for text in (row[f"{part}_a"] for part in TEXTS):
                assert text[0].isupper()
                assert text[-1] in ".?"
                assert not re.search(r"[{}]|  |\ba a\b", text), text


def test_both_answers_of_a_frame_are_alike_in_length() -> None:
    for frame in (frame for frames in FRAMES.values() for frame in frames):
        words = [len(text.split()) for text in (frame.preferred, frame.dispreferred)]
        assert abs(words[0] - words[1]) <= 3, frame


def test_pairs_are_drawn_uniformly() -> None:
    """The first group's term is drawn evenly, then one of its partners: even, if all have as many.

    Both sides of every contrast give each term the same number of partners.
    """
    for attribute in ATTRIBUTES:
        for contrast in contrasts(attribute, PLACES[0]):
            partners = Counter(b for _, b in term_pairs(attribute, contrast))
            assert set(partners) == set(attribute.groups[contrast.group_b])
            assert len(set(partners.values())) == 1, contrast


def test_a_sample_has_one_item_a_contrast_and_template_and_a_seed_fixes_it() -> None:
    rows = sample_items(12, seed=5)
    count = sum(len(contrasts(attribute, PLACES[0])) for attribute in ATTRIBUTES)
    assert count == 39
    assert len(rows) == 2 * 12 * count
    keys = ("measure", "attribute", "group_a", "cluster")
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows)
    assert len({row["cluster"] for row in rows}) == 2 * 12
    assert rows == sample_items(12, seed=5)
    assert rows != sample_items(12, seed=6)
    for place in PLACES:
        faiths = [r for r in rows if r["attribute"] == "religion" and r["measure"] == place]
        by_template: dict[str, set[str]] = {}
        for row in faiths:
            by_template.setdefault(row["cluster"], set()).add(row["term_b"])
        assert {len(terms) for terms in by_template.values()} == {1}, "the first group is shared"


def test_the_whole_population_of_templates_can_be_drawn_and_no_more() -> None:
    every = len(TOPICS) * 10
    clusters = {row["cluster"] for row in sample_items(every, 0, (BY_NAME["age"],))}
    assert len(clusters) == 2 * every
    for wrong in (1, every + 1):
        with pytest.raises(UserError, match=rf"a sample of {wrong} templates.*2 to {every}"):
            sample_items(wrong)
