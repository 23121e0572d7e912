"""Splits by content (properties), overlap and repeats (small cases worked out by hand)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.splits import content_key, deduplicate, find_overlap, split_holdout
from align.errors import UserError

words = st.sampled_from(["red", "Red ", "blue", "green  tea", "green tea", "x", "y", "z"])
sets = st.lists(st.tuples(words, st.integers(0, 99)), min_size=2, max_size=40)


def as_rows(pairs: list[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "n": n} for prompt, n in pairs]


def key(row: dict[str, Any]) -> str:
    """What makes two of these prompts equal, without the code under test."""
    return " ".join(row["prompt"].lower().split())


@settings(max_examples=200, deadline=None)
@given(sets, st.floats(0.01, 0.99), st.integers(0, 5))
def test_split_loses_nothing_and_keeps_equal_prompts_together(
    pairs: list[tuple[str, int]], fraction: float, seed: int
) -> None:
    rows = as_rows(pairs)
    if len({key(row) for row in rows}) < 2:
        with pytest.raises(UserError, match="1 distinct prompts"):
            split_holdout(rows, fraction, seed)
        return
    train, held = split_holdout(rows, fraction, seed)
    assert train
    assert held
    assert {key(row) for row in train}.isdisjoint(key(row) for row in held)
    held_keys = {key(row) for row in held}
    assert train == [row for row in rows if key(row) not in held_keys]
    assert held == [row for row in rows if key(row) in held_keys]


@settings(max_examples=100, deadline=None)
@given(sets, st.randoms(use_true_random=False))
def test_split_does_not_depend_on_order(pairs: list[tuple[str, int]], random: Any) -> None:
    rows = as_rows([*pairs, ("one", 1), ("two", 2)])
    shuffled = random.sample(rows, len(rows))
    before, after = split_holdout(rows, 0.3, 1), split_holdout(shuffled, 0.3, 1)
    assert {key(row) for row in before.held} == {key(row) for row in after.held}


def test_share_held_out_is_the_fraction() -> None:
    rows = [{"text": f"text number {n}"} for n in range(10_000)]
    # Binomial(10000, 0.2): standard deviation 40; 5 of them.
    assert abs(len(split_holdout(rows, 0.2, 3).held) - 2000) < 200


def test_seeds_give_independent_splits() -> None:
    rows = [{"text": f"text number {n}"} for n in range(4000)]
    one, two = ({row["text"] for row in split_holdout(rows, 0.5, s).held} for s in (1, 2))
    # Independent halves share a quarter: Binomial(4000, 0.25), standard deviation 27; 5 of them.
    assert abs(len(one & two) - 1000) < 137


def test_a_row_keeps_its_side_when_rows_are_added() -> None:
    rows = [{"text": f"text number {n}"} for n in range(200)]
    before, after = split_holdout(rows[:100], 0.3, 0), split_holdout(rows, 0.3, 0)
    assert before.held == [row for row in after.held if row in rows[:100]]


def test_two_keys_are_split_whatever_the_fraction() -> None:
    rows = [{"text": "a"}, {"text": "b"}, {"text": "a"}]
    for fraction in (1e-9, 1 - 1e-9):
        train, held = split_holdout(rows, fraction, 0)
        assert sorted([len(train), len(held)]) == [1, 2]


@pytest.mark.parametrize("rows", [[], [{"text": "A  b"}, {"text": "a B"}]])
def test_fewer_than_two_keys_cannot_be_split(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="cannot be split; allowed: at least 2 distinct"):
        split_holdout(rows, 0.1, 0)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Why\n so?", "text": "no"}, "why so?"),
        ({"prompt": [{"role": "user", "content": "Why  so?"}], "chosen": []}, "why so?"),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be Brief."},
                    {"role": "user", "content": "Why?"},
                    {"role": "assistant", "content": "So."},
                ]
            },
            "be brief. why?",
        ),
        ({"text": "ﬁne STRASSE", "label": 1}, "fine strasse"),
        ({"source": "ein Hund", "target": "a dog"}, "ein hund"),
        ({"sent_more": "b", "id": 1}, '{"id": 1, "sent_more": "b"}'),
    ],
)
def test_key_is_the_prompt_or_the_text(row: dict[str, Any], expected: str) -> None:
    assert content_key(row) == expected


def test_overlap_of_three_words() -> None:
    train = ["The cat, sat on a mat.", "Short one"]
    evaluation = [
        "A dog: CAT sat on!",  # shares "cat sat on"
        "the cat on a mat",  # shares "on a mat"
        "sat cat the on mat a",  # the same words, another order
        "short ONE.",  # shorter than 3 words and equal to a whole training text
        "the cat",  # shorter than 3 words, only a part of one
        "",
    ]
    overlap = find_overlap(iter(train), evaluation, n=3)
    assert overlap.indices == [0, 1, 3]
    assert (overlap.rows, overlap.share, overlap.n) == (3, 0.5, 3)
    assert overlap.examples == ["cat sat on", "on a mat", "short one"]


def test_overlap_needs_a_whole_run_within_one_text() -> None:
    eight = "a b c d e f g h"
    assert find_overlap(["a b c d e f g", "h"], [eight]).rows == 0
    assert find_overlap([f"x {eight} y"], [eight, "b c d e f g h i"]).indices == [0]
    assert find_overlap([f"x {eight} y"], []).share == 0.0
    with pytest.raises(ValueError, match="n must be positive"):
        find_overlap([], [], n=0)


def test_repeats_are_equal_in_all_fields_but_for_case_and_spaces() -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "Why  so?"}], "n": 1},
        {"n": 1, "prompt": [{"role": "user", "content": "why\nso? "}]},
        {"prompt": [{"role": "user", "content": "why so"}], "n": 1},
        {"prompt": [{"role": "user", "content": "Why  so?"}], "n": 2},
    ]
    result = deduplicate(rows)
    assert result.rows == [rows[0], rows[2], rows[3]]
    assert result.dropped == 1
