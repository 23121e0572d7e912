"""Counterfactual pairs: which words change, in which case, and what is refused."""

from pathlib import Path

import pytest

from align.config import SwapConfig
from align.data.sources import DataContext
from align.data.swaps import augment, both_ways, load_swaps, swap_text
from align.data.world import World
from align.data.world_people import BY_NAME
from align.errors import UserError

NOWHERE = DataContext(None, None, 0)
SWAPS = both_ways([("he", "she"), ("Man", "woman"), ("mr smith", "ms smith")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("he saw the man", "she saw the woman"),
        ("She and he", "He and she"),  # both ways at once
        ("HE IS THE MAN", "SHE IS THE WOMAN"),
        ("the hero shed a womanly tear", "the hero shed a womanly tear"),  # whole words only
        ("(he), he's.", "(she), she's."),
        ("Mr Smith left", "Ms smith left"),
        ("nobody", "nobody"),
    ],
)
def test_words_are_exchanged_whole_in_their_case(text: str, expected: str) -> None:
    assert swap_text(text, SWAPS) == expected


def test_exchanging_twice_gives_the_text_back() -> None:
    text = "She told the man that he knew a woman"
    assert swap_text(swap_text(text, SWAPS), SWAPS) == text != swap_text(text, SWAPS)


def test_every_pair_stands_beside_its_counterpart_with_its_label() -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": "is he in ?"}],
            "chosen": [{"role": "assistant", "content": "she is"}],
            "rejected": [{"role": "assistant", "content": "no"}],
            "margin": 2,
        },
        {"prompt": "what ?", "chosen": "this", "rejected": "that"},
    ]
    found = augment(rows, SWAPS)
    assert found.unchanged == 1
    assert found.rows[0] == rows[0]
    assert found.rows[2] == rows[1]
    assert len(found.rows) == 3
    assert found.rows[1] == {
        "prompt": [{"role": "user", "content": "is she in ?"}],
        "chosen": [{"role": "assistant", "content": "he is"}],
        "rejected": [{"role": "assistant", "content": "no"}],
        "margin": 2,
    }


def test_the_world_s_labels_no_longer_depend_on_gender() -> None:
    world = World(1, label_bias=1.0)
    rows = [row for row in world.preferences(60) if row["kind"] == "tone"]
    found = augment(rows, load_swaps(SwapConfig(world="gender"), NOWHERE)).rows
    assert len(found) == 2 * len(rows)
    for before, after in zip(found[::2], found[1::2], strict=True):
        name = before["name"]
        (other,) = set(after["chosen"][0]["content"].split()) & set(BY_NAME)
        assert BY_NAME[other].gender != BY_NAME[name].gender
        assert BY_NAME[other].origin == BY_NAME[name].origin
        assert after["chosen"][0]["content"].replace(other, name) == before["chosen"][0]["content"]
        assert after["prompt"][0]["content"].replace(other, name) == before["prompt"][0]["content"]


def test_a_file_of_two_columns(tmp_path: Path) -> None:
    (tmp_path / "swaps.csv").write_text("a,b\nhe,she\nhis,hers\n", encoding="utf-8")
    context = DataContext(tmp_path, None, 0)
    found = load_swaps(SwapConfig(path="swaps.csv"), context)
    assert found == {"he": "she", "she": "he", "his": "hers", "hers": "his"}
    (tmp_path / "swaps.csv").write_text("a,c\nhe,she\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"row 1: column 'b' .*a word in each of the columns"):
        load_swaps(SwapConfig(path="swaps.csv"), context)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("he", "she"), ("he", "they")], "'he' has two counterparts, 'she' and 'they'"),
        ([("his", "her"), ("him", "her")], "'her' has two counterparts"),
        ([("he", " ")], "cannot be exchanged"),
        ([("he", "He")], "cannot be exchanged"),
    ],
)
def test_an_exchange_that_is_none_is_refused(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_swaps(SwapConfig(words=tuple(pairs)), NOWHERE)


def test_exactly_one_kind_of_exchange() -> None:
    for given in ({}, {"world": "gender", "path": "x.csv"}):
        with pytest.raises(ValueError, match="exactly one of world, path, words"):
            SwapConfig.model_validate(given)
