"""Rewards for right answers against values by hand and against the libraries behind them."""

from __future__ import annotations

from decimal import Decimal
from importlib.util import find_spec

import pytest
import sacrebleu

from align.errors import UserError
from reward import answers
from reward.answers import bleu, exact_answer, last_number, number, rouge_l

PROMPTS = ["p", "q", "r"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### 1,234", "1234"),
        ("the answer is 1,234.", "1234"),
        ("5-3", "3"),  # a minus between numbers is no sign
        ("it is -3.50 now", "-3.50"),
        ("x = .5", ".5"),
        ("first 7, then 8 apples", "8"),
        ("from 10 to -2", "-2"),
        ("$75", "75"),
    ],
)
def test_the_last_number_of_a_text(text: str, expected: str) -> None:
    assert last_number(text) == Decimal(expected)


def test_a_text_may_hold_no_number() -> None:
    assert last_number("none at all - .") is None


def test_number_compares_values_not_spellings() -> None:
    reward = number(library="none")
    solution = "2 * 3 = 6, so 6 + 1 = 7\n#### 7"
    found = reward(PROMPTS, ["6 and then 7.0", "7 or 6", "no idea"], answer=[solution] * 3)
    assert found == [1.0, 0.0, 0.0]
    # several references; a number that is no text; nothing to compare with
    found = reward(PROMPTS, ["12", "12", "12"], answer=[["11", "12"], 12, None])
    assert found == [1.0, 1.0, None]
    assert reward(["p"], ["12"], answer=["unknown"]) == [None]
    assert reward.signature == "number|column:answer|library:none"  # type: ignore[attr-defined]


def test_number_says_which_library_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "version", lambda _: "9.9")
    assert number().signature.endswith("library:math-verify:9.9")  # type: ignore[attr-defined]
    assert number(library="none").signature.endswith("library:none")  # type: ignore[attr-defined]

    def missing(name: str) -> str:
        raise answers.PackageNotFoundError(name)

    monkeypatch.setattr(answers, "version", missing)
    assert number().signature.endswith("library:none")  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^number.library: math-verify is not installed"):
        number(library="math-verify")


@pytest.mark.skipif(find_spec("math_verify") is None, reason="math-verify is not installed")
def test_math_verify_knows_expressions() -> None:
    reward = number(library="math-verify")
    texts = [r"so it is $\frac{1}{2}$", "it is 0.5", "it is 2"]
    assert reward(PROMPTS, texts, answer=["#### 1/2"] * 3) == [1.0, 1.0, 0.0]


def test_exact_answer_compares_words_or_the_text() -> None:
    texts = ["The  Eiffel tower!", "eiffel tower ", "tower"]
    gold = [["Eiffel Tower", "La tour Eiffel"]] * 3
    assert exact_answer()(PROMPTS, texts, answer=gold) == [1.0, 1.0, 0.0]
    plain = exact_answer("gold", "text")
    assert plain(PROMPTS, [" a", "A", "b"], gold=["a ", "a", None]) == [1.0, 0.0, None]


def test_bleu_is_sacrebleu_s_sentence_score() -> None:
    text, references = "the cat sat on a mat", ["the cat sat on the mat", "a cat is on a mat"]
    expected = sacrebleu.sentence_bleu(text, references).score / 100
    assert 0.3 < expected < 0.9
    # three words have no 4-gram: effective order leaves it out, so equal texts score 1
    found = bleu()(PROMPTS, [text, "a b c", "x"], reference=[references, "a b c", None])
    assert found[:2] == pytest.approx([expected, 1.0])
    assert found[2] is None


def test_rouge_l_is_the_best_f_measure() -> None:
    # LCS of "a b c" and "a c d e" is 2: P 2/3, R 2/4, F = 4/7; of "a b c" and "b c": 2/3, 1: .8
    found = rouge_l()(["p"], ["a b c"], reference=[["a c d e", "b c"]])
    assert found == pytest.approx([0.8])
    assert rouge_l()(["p"], ["a b c"], reference=["a c d e"]) == pytest.approx([4 / 7])


def test_a_column_that_is_missing_is_named() -> None:
    message = r"^reward function bleu: the prompts have no column 'reference'; allowed: label, x"
    with pytest.raises(UserError, match=message):
        bleu()(["p"], ["a"], x=[1], label=[2])
