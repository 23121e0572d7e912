"""The counterfactual penalty against differences by hand."""

from __future__ import annotations

from typing import Any

import pytest

from align.errors import UserError
from reward.counterfactual import counterfactual_penalty, word_swap
from reward.functions import length_penalty


def judge(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
    """Letters "h" of the prompt times 10, plus those of the response; silent on "mute"."""

    def text(side: Any) -> str:
        return side if isinstance(side, str) else side[-1]["content"]

    pairs = zip(map(text, prompts), map(text, completions), strict=True)
    return [None if a == "mute" else a.count("h") * 10.0 + b.count("h") for a, b in pairs]


def test_words_are_swapped_at_once_whole_and_in_their_case() -> None:
    swap = word_swap({"he": "she", "John": "Mary"})
    assert swap("He told John that she, the HE, is") == "She told Mary that he, the SHE, is"
    assert swap("there, he-man, sheHE") == "there, she-man, sheHE"
    text = "she and he and Mary"
    assert swap(swap(text)) == text


def test_the_penalty_under_a_swapped_prompt() -> None:
    reward = counterfactual_penalty(judge, words={"one": "hhh", "x": "h"})
    found = reward(["one", "x y", "other"], ["hh", "", "h"])
    # "one" 0 h -> "hhh" 3 h: 30; "x y" -> "h y": 10; the third holds nothing to swap
    assert found == [-30.0, -10.0, None]


def test_the_penalty_of_a_pair_swaps_the_response_too() -> None:
    reward = counterfactual_penalty(judge, words={"x": "h"}, swap="pair")
    # "x" -> "h": +10; response "x x h" (1 h) -> "h h x" (2 h): +1; together 11
    assert reward(["x"], ["x x h"]) == [-11.0]
    prompt = [[{"role": "user", "content": "x"}]]
    answer = [[{"role": "assistant", "content": "x x h"}]]
    assert reward(prompt, answer) == [-11.0]
    assert prompt == [[{"role": "user", "content": "x"}]]  # left as it was


def test_a_column_may_hold_the_counterfactual_prompt() -> None:
    reward = counterfactual_penalty(judge, column="other")
    found = reward(["a", "b", "c"], ["", "", ""], other=["h", None, "c"], label=[1, 2, 3])
    assert found == [-10.0, None, None]
    with pytest.raises(UserError, match="no column 'other'; allowed: label"):
        reward(["a"], [""], label=[1])


@pytest.mark.parametrize("swap", ["prompt", "pair"])
def test_the_tokens_of_a_response_are_passed_on_while_they_are_its_own(swap: Any) -> None:
    seen: list[dict[str, Any]] = []

    def judged(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        seen.append(columns)
        return [0.0] * len(prompts)

    reward = counterfactual_penalty(judged, words={"x": "h"}, swap=swap)
    reward(["a", "x"], ["b", "x"], completion_ids=[[1], [2, 3]], tag=[4, 5])
    own = {"tag": [5]} | ({"completion_ids": [[2, 3]]} if swap == "prompt" else {})
    assert seen == [own, own]


def test_columns_reach_the_function_row_by_row() -> None:
    def column(prompts: list[str], completions: list[str], value: list[float], **_: Any) -> Any:
        return [v * len(p) for v, p in zip(value, prompts, strict=True)]

    reward = counterfactual_penalty(column, words={"x": "xyz"})
    # rows 1 and 3: 2 * |3 - 1|, 5 * |3 - 1|
    assert reward(["x", "-", "x"], ["", "", ""], value=[2.0, 3.0, 5.0]) == [-4.0, None, -10.0]


def test_what_the_function_does_not_score_is_left_out() -> None:
    reward = counterfactual_penalty(judge, words={"mute": "h"})
    assert reward(["mute", "h"], ["", ""]) == [None, None]
    assert reward(["-"], ["mute"]) == [None]


def test_the_signature_names_what_is_judged_and_swapped() -> None:
    reward = counterfactual_penalty(judge, words={"he": "she"}, swap="pair")
    assert reward.signature == "counterfactual_penalty|of:(judge)|by:he/she|swap:pair"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "exactly one of `words` and `column`"),
        ({"words": {"a": "b"}, "column": "c"}, "exactly one of `words` and `column`"),
        ({"column": "c", "swap": "pair"}, "allowed: swap: prompt"),
        ({"words": {"a": "b", "B": "c"}}, "pairs in which every word stands once"),
        ({"words": {"a": ""}}, "pairs in which every word stands once"),
        ({"words": {}}, "pairs in which every word stands once"),
    ],
)
def test_contradicting_options_are_refused(options: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        counterfactual_penalty(judge, **options)


def test_tokens_of_a_swapped_response_are_refused_before_anything_runs() -> None:
    words = {"he": "she"}
    counted = length_penalty(9, unit="tokens")
    with pytest.raises(UserError, match=r"counts tokens.*allowed: swap: prompt"):
        counterfactual_penalty(counted, words=words, swap="pair")
    counterfactual_penalty(counted, words=words)
    counterfactual_penalty(length_penalty(9), words=words, swap="pair")
