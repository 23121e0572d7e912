"""Rows to questions, choices and right answers."""

from __future__ import annotations

from typing import Any

import pytest

from align.errors import UserError
from evals.documents import render_document
from evals.schema import Definition, MetricEntry


def definition(**changes: Any) -> Definition:
    settings: dict[str, Any] = {
        "task": "t",
        "output_type": "multiple_choice",
        "doc_to_text": "q",
        "doc_to_choice": "c",
        "doc_to_target": "y",
        "metric_list": (MetricEntry(metric="acc"),),
    }
    return Definition(**settings | changes)


@pytest.mark.parametrize(
    ("target", "row", "gold"),
    [
        ("y", {"y": 1}, (1,)),
        ("y", {"y": "1"}, (1,)),
        ("y", {"y": "dog"}, (1,)),
        ("y", {"y": True}, (1,)),
        ("y", {"y": False}, (0,)),
        ("y", {"y": [2, 0]}, (2, 0)),
        ("y", {"y": ["bird", "cat", "cat"]}, (2, 0)),
        ("{{y}}", {"y": 2}, (2,)),
        ("{{y}}", {"y": "bird"}, (2,)),
        ("{{y}}", {"y": True}, (1,)),
        ("{{c.index(y)}}", {"y": "dog"}, (1,)),
        ("{{range(2)}}", {}, (0, 1)),
        (2, {}, (2,)),
    ],
)
def test_targets_are_indices_or_choices(
    target: str | int, row: dict[str, Any], gold: tuple[int, ...]
) -> None:
    row = {"q": "which?", "c": ["cat", "dog", "bird"], **row}
    document = render_document(definition(doc_to_target=target), row, "t")
    assert document.gold == gold
    assert document.targets == tuple(row["c"][index] for index in gold)


def test_a_text_that_is_a_choice_is_that_choice() -> None:
    # As text "2" it is the first choice, as a number the index of the third.
    row = {"q": "", "c": ["2", "1", "0"], "y": "2"}
    assert render_document(definition(), row, "t").gold == (0,)
    assert render_document(definition(), row | {"y": 2}, "t").gold == (2,)
    truth = {"q": "", "c": ["True", "False"], "y": True}
    for target in ("y", "{{y}}"):
        assert render_document(definition(doc_to_target=target), truth, "t").gold == (0,)


@pytest.mark.parametrize("value", [3, -1, "fish", [], [0, 3], 0.5, "-1"])
def test_other_targets_are_refused(value: Any) -> None:
    row = {"q": "", "c": ["cat", "dog", "bird"], "y": value}
    with pytest.raises(UserError, match=r"row 4, doc_to_target: .* is no choice; allowed: 0 to 2"):
        render_document(definition(), row, "row 4")


def test_choices_must_be_a_list() -> None:
    with pytest.raises(UserError, match="doc_to_choice: choices are 'cat'"):
        render_document(definition(), {"q": "", "c": "cat", "y": 0}, "t")


def test_references_may_be_several() -> None:
    asked = definition(output_type="generate_until", doc_to_choice=None, doc_to_target="{{a.text}}")
    row: dict[str, Any] = {"q": "x", "a": {"text": ["it's", "that"]}}
    assert render_document(asked, row, "t").targets == ("it's", "that")
    assert render_document(asked, {"q": "", "a": {"text": "(1, 2)"}}, "t").targets == ("(1, 2)",)
    with pytest.raises(UserError, match="no reference answer"):
        render_document(asked, {"q": "", "a": {"text": []}}, "t")
