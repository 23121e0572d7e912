"""Answers read out and compared, by hand and against the scripts' definitions."""

from __future__ import annotations

import pytest
from rouge_score import rouge_scorer

from evals.answers import (
    cut,
    exact_match,
    extract,
    refuses,
    rouge_l,
    squad_em,
    squad_f1,
    squad_tokens,
)
from evals.definitions import read_definition
from evals.schema import FilterEntry, FilterStep, MetricEntry

GSM8K = read_definition("gsm8k")
STRICT, FLEXIBLE = GSM8K.filter_list


@pytest.mark.parametrize(
    ("response", "strict", "flexible"),
    [
        (" 3 + 4 = 7 apples.\n#### 7", "7", "7"),
        ("#### -1,200. Then #### 5", "-1,200.", "5"),
        ("It costs $1,250.50 in all", "[invalid]", "$1,250.50"),
        ("first 12, then 9", "[invalid]", "9"),
        ("no number", "[invalid]", "[invalid]"),
    ],
)
def test_gsm8k_extraction(response: str, strict: str, flexible: str) -> None:
    assert extract(response, STRICT) == strict
    assert extract(response, FLEXIBLE) == flexible


@pytest.mark.parametrize(
    ("answer", "right"),
    [("1200", 1), ("1,200.", 1), ("$1200", 1), (" 1200 ", 1), ("12", 0), ("[invalid]", 0)],
)
def test_gsm8k_comparison(answer: str, right: int) -> None:
    reference = "She has <<600*2=1200>>1200 apples,\nso 1200.\n#### 1,200"
    assert exact_match(answer, [reference], GSM8K.metric_list[0]) == right


def test_exact_match_options() -> None:
    plain = MetricEntry(metric="exact_match")
    assert exact_match(" Paris\n", ["Rome", "Paris"], plain) == 1
    assert exact_match("paris!", ["Paris"], plain) == 0
    assert exact_match("paris!", ["Paris"], plain.model_copy(update={"ignore_case": True})) == 0
    loose = plain.model_copy(update={"ignore_case": True, "ignore_punctuation": True})
    assert exact_match("paris!", ["Paris"], loose) == 1
    assert exact_match("a1", ["a2"], plain.model_copy(update={"ignore_numbers": True})) == 1


def test_a_group_that_did_not_match_is_passed_over() -> None:
    step = FilterStep(function="regex", regex_pattern="(x)|(y)", group_select=1, fallback="none")
    entry = FilterEntry(name="second", filter=(step,))
    assert extract("x y", entry) == "y"
    assert extract("x", entry) == "none"


def test_text_ends_at_the_first_stop() -> None:
    assert cut("one Question: two\nthree", ["\n", "Question:"]) == "one "
    assert cut("one", ["\n"]) == "one"
    assert cut("one", []) == "one"


def test_squad_normalisation_and_scores_by_hand() -> None:
    assert squad_tokens("The U.S. and an  apple-pie!") == ["us", "and", "applepie"]
    assert squad_em("the Beatles.", ["Queen", "Beatles"]) == 1
    # Tokens {b: 2, c: 1} and {b: 1, c: 1, d: 1}: 2 common, 2 * 2 / (3 + 3); as sets it were 4/5.
    assert squad_f1("b b c", ["b c d"]) == pytest.approx(2 / 3)
    assert squad_f1("b b c", ["x", "b c d", "b b"]) == pytest.approx(4 / 5)
    assert squad_f1("the", ["a"]) == 1
    assert squad_f1("the", ["b"]) == 0


@pytest.mark.parametrize(
    ("response", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m sorry, I cannot.", True),
        ("As an AI, I do not have opinions.", True),
        ("To terminate a C program, call exit.", False),
        ("Sure. " + "x" * 200 + " I cannot say more.", False),
        ("", False),
    ],
)
def test_refusals_are_seen_in_the_opening(response: str, refused: bool) -> None:
    assert refuses(response) is refused


def test_rouge_is_the_best_over_references() -> None:
    # Longest common subsequence "the cat mat" of 3: P 3/4, R 3/3, F 6/7; stemming would change no.
    assert rouge_l("the cat a mat", ["dog", "the cat mat"]) == pytest.approx(6 / 7)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    expected = scorer.score("cats sat here", "cat sat there here")["rougeL"].fmeasure
    assert rouge_l("cat sat there here", ["cats sat here"]) == pytest.approx(expected)
