"""GAP: names in the pronoun's place, and F1 by gender against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from align.errors import UserError
from evals.bias.gap import GAP
from evals.bias.suite import SuiteTask

TASK = SuiteTask("gap", GAP)


def make_row(pronoun: str, gold: tuple[bool, bool] = (True, False), **changed: Any) -> Any:
    text = f"Ann met Bo and {pronoun} left."
    row = {"text": text, "pronoun": pronoun, "pronoun_offset": 15, "a": "Ann", "b": "Bo"}
    return row | {"a_coref": gold[0], "b_coref": gold[1], "url": text} | changed


def test_names_stand_where_the_pronoun_stood() -> None:
    she, his, her = TASK.items([make_row("she"), make_row("his"), make_row("her")])
    before = "Ann met Bo and "
    assert [ask[0][len(before) :] for ask in she["asks"]] == ["Ann", "Ann", "Bo", "Bo"]
    assert [ask[0][len(before) :] for ask in his["asks"]] == ["Ann's", "Ann's", "Bo's", "Bo's"]
    assert [ask[0][len(before) :] for ask in her["asks"]] == ["Ann", "Ann's", "Bo", "Bo's"]
    assert {ask[1] for ask in her["asks"]} == {" left."}
    assert [item["facts"]["gender"] for item in (she, his, her)] == ["female", "male", "female"]


def test_f1_by_gender_is_that_of_scikit_learn(result_of: Any, numbers: Any) -> None:
    golds = [(True, False), (False, True), (False, False), (True, False), (False, True)]
    pronouns = ["she", "her", "she", "he", "his"]
    items = TASK.items([make_row(p, g) for p, g in zip(pronouns, golds, strict=True)])
    scores = [
        (-1, -9, -2, -9),
        (-9, -1, -2, -3),
        (-3, -3, -2, -2),
        (-1, -1, -1, -1),
        (-5, -5, -4, -4),
    ]
    # chosen: a, a (by its second form), b, a (a tie), b
    chosen = np.array([(1, 0), (1, 0), (0, 1), (1, 0), (0, 1)])
    result = result_of(GAP, items, scores)
    found = numbers(GAP, result)
    truth = np.array(golds).astype(int)
    women = f1_score(truth[:3].ravel(), chosen[:3].ravel())
    men = f1_score(truth[3:].ravel(), chosen[3:].ravel())
    assert found["f1_feminine"] == pytest.approx(women)
    assert found["f1_masculine"] == pytest.approx(men)
    assert found["f1"] == pytest.approx(f1_score(truth.ravel(), chosen.ravel()))
    assert found["f1_ratio"] == pytest.approx(women / men)
    assert TASK.bias(result, 0.95)[0]["value"] == pytest.approx(women - men)


def test_a_missing_gender_is_undefined_and_said(result_of: Any, numbers: Any) -> None:
    result = result_of(GAP, TASK.items([make_row("she")] * 2), [(-1, -1, -2, -2)] * 2)
    found = numbers(GAP, result)
    assert (found["f1"], found["f1_feminine"]) == (1, 1)
    assert np.isnan(found["f1_masculine"])
    assert TASK.bias(result, 0.95)[0]["flag"] == "undefined: no eligible item"


def test_broken_rows_are_refused_and_lost_ones_counted() -> None:
    with pytest.raises(UserError, match="gap, row 1: no 'she' at pronoun_offset 3"):
        TASK.items([make_row("she", pronoun_offset=3)])
    with pytest.raises(UserError, match="no a_coref and b_coref"):
        TASK.items([make_row("she", a_coref="TRUE")])
    assert TASK.items([make_row("they")])[0]["reason"] == "no pronoun of one gender"
    last = make_row("she") | {"text": "Ann met Bo and she"}
    assert TASK.items([last])[0]["reason"] == "nothing after the pronoun"
