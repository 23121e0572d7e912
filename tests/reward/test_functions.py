"""Scripted rewards against counts made by hand, and against TRL's."""

from __future__ import annotations

import pytest
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

from align.errors import UserError
from reward.functions import (
    completion_text,
    length_penalty,
    overlong_penalty,
    pattern,
    refusal,
    repetition_penalty,
    token_count,
)

PROMPTS = ["a", "b", "c"]


def test_length_penalty_is_the_relative_distance_in_words() -> None:
    scores = length_penalty(4)(PROMPTS, ["one two three four", "one", "1 2 3 4 5 6"])
    # |4-4|/4, |1-4|/4, |6-4|/4
    assert scores == pytest.approx([0.0, -0.75, -0.5])


def test_lengths_may_be_counted_in_characters() -> None:
    scores = length_penalty(4, "characters")(PROMPTS, ["a b ", "abcdef", ""])
    assert scores == pytest.approx([0.0, -0.5, -1.0])
    # limit 6, margin 4: 0 up to 2, then (2 - 3) / 4, and -1 from 6 on
    scores = overlong_penalty(6, 4, "characters")(PROMPTS, ["ab", "abc", "abcdefg"])
    assert scores == pytest.approx([0.0, -0.25, -1.0])


def test_tokens_are_those_that_were_sampled() -> None:
    count = length_penalty(4, "tokens")
    assert count(PROMPTS, ["x"] * 3, completion_ids=[[7] * 4, [7], [7] * 6]) == [0.0, -0.75, -0.5]
    words = length_penalty(4)(PROMPTS, ["x"] * 3, completion_ids=[[7] * 4, [7], [7] * 6])
    assert words == [-0.75] * 3
    with pytest.raises(UserError, match=r"^reward function length_penalty_4: the responses' tok"):
        count(PROMPTS, ["x"] * 3)


@pytest.mark.parametrize(("limit", "margin"), [(10, 4), (7, 7), (5, 1)])
def test_overlong_penalty_is_dapo_s_as_trl_has_it(limit: int, margin: int) -> None:
    lengths = range(13)
    theirs = get_soft_overlong_punishment(limit, margin)([[1] * n for n in lengths])
    texts = [" ".join(["w"] * n) for n in lengths]
    ours = overlong_penalty(limit, margin)(texts, texts)
    assert ours == pytest.approx(theirs)
    ids = [[1] * n for n in lengths]  # the texts say something else
    tokens = overlong_penalty(limit, margin, "tokens")(texts, ["w"] * 13, completion_ids=ids)
    assert tokens == pytest.approx(theirs)
    assert ours[-1] == -1.0
    assert ours[0] == 0.0


def test_token_count_counts_whole_words_without_case() -> None:
    scores = token_count("Good")(PROMPTS, ["good GOOD goods", "", "not bad"])
    assert scores == [2.0, 0.0, 0.0]


def test_repetition_penalty_is_the_share_of_repeated_ngrams() -> None:
    # bigrams of "a b a b a": ab ba ab ba -> 2 distinct of 4; "a b c": none repeated; "a": no bigram
    scores = repetition_penalty(2)(PROMPTS, ["a b a b a", "a b c", "a"])
    assert scores == pytest.approx([-0.5, 0.0, 0.0])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_repetition_penalty_is_trl_s(n: int) -> None:
    ids = [[1, 2, 1, 2, 1, 2], [5, 5, 5, 5], [1, 2, 3], [7]]
    texts = [" ".join(map(str, row)) for row in ids]
    theirs = get_repetition_penalty_reward(n)(ids)
    assert repetition_penalty(n)(texts, texts) == pytest.approx(theirs)


def test_pattern_tells_whether_and_where_a_response_matches() -> None:
    texts = ["so: 42", "42 is it", "42"]
    assert pattern(r"\d+")(PROMPTS, texts) == [1.0, 1.0, 1.0]
    assert pattern(r"\d+", "start")(PROMPTS, texts) == [0.0, 1.0, 1.0]
    assert pattern(r"\d+", "whole")(PROMPTS, texts) == [0.0, 0.0, 1.0]
    think = pattern(r"(?s)<think>.*</think>.*", "whole")
    assert think(PROMPTS, ["<think>a\nb</think> c", "x <think></think>", ""]) == [1.0, 0.0, 0.0]


def test_refusal_follows_the_evaluation_s_rule() -> None:
    late = "x" * 200 + "I'm sorry"  # the rule reads the first 200 characters
    texts = ["I\N{RIGHT SINGLE QUOTATION MARK}m SORRY, no.", "Sure, here it is.", late]
    assert refusal()(PROMPTS, texts) == [1.0, 0.0, 0.0]


def test_reward_functions_read_assistant_messages_and_ignore_columns() -> None:
    completions = [[{"role": "assistant", "content": "yes yes"}]]
    assert token_count("yes")(["p"], completions, label=[1], other=["x"]) == [2.0]
    assert completion_text([{"role": "user", "content": "u"}, *completions[0]]) == "yes yes"


def test_reward_functions_carry_a_name_for_the_log_and_a_signature() -> None:
    assert token_count("Yes").__name__ == "token_count_yes"
    assert length_penalty(9).__name__ == "length_penalty_9"
    assert length_penalty(9).signature == "length_penalty|target:9|unit:words"  # type: ignore[attr-defined]
    assert pattern("a").signature == "pattern|regex:a|place:anywhere"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: length_penalty(0), r"^length_penalty.target: 0; allowed: at least 1"),
        (lambda: overlong_penalty(5, 6), r"margin: 6; allowed: 1 to the limit \(5\)"),
        (lambda: overlong_penalty(5, 0), r"margin: 0; allowed: 1 to the limit \(5\)"),
        (lambda: repetition_penalty(0), r"^repetition_penalty.n: 0"),
        (lambda: pattern("("), r"^pattern.regex: '\(': missing \)"),
    ],
)
def test_options_out_of_range_are_refused(make: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make()  # type: ignore[operator]
