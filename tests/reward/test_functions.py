"""Scripted rewards against counts made by hand."""

from __future__ import annotations

import pytest

from reward.functions import completion_text, length_penalty, repetition_penalty, token_count

PROMPTS = ["a", "b", "c"]


def test_length_penalty_is_the_relative_distance_in_words() -> None:
    scores = length_penalty(4)(PROMPTS, ["one two three four", "one", "1 2 3 4 5 6"])
    # |4-4|/4, |1-4|/4, |6-4|/4
    assert scores == pytest.approx([0.0, -0.75, -0.5])


def test_token_count_counts_whole_words_without_case() -> None:
    scores = token_count("Good")(PROMPTS, ["good GOOD goods", "", "not bad"])
    assert scores == [2.0, 0.0, 0.0]


def test_repetition_penalty_is_the_share_of_repeated_ngrams() -> None:
    # bigrams of "a b a b a": ab ba ab ba -> 2 distinct of 4; "a b c": none repeated; "a": no bigram
    scores = repetition_penalty(2)(PROMPTS, ["a b a b a", "a b c", "a"])
    assert scores == pytest.approx([-0.5, 0.0, 0.0])


def test_reward_functions_read_assistant_messages_and_ignore_columns() -> None:
    completions = [[{"role": "assistant", "content": "yes yes"}]]
    assert token_count("yes")(["p"], completions, label=[1], other=["x"]) == [2.0]
    assert completion_text([{"role": "user", "content": "u"}, *completions[0]]) == "yes yes"


def test_reward_functions_carry_a_name_for_the_log() -> None:
    assert token_count("Yes").__name__ == "token_count_yes"
    assert length_penalty(9).__name__ == "length_penalty_9"
