"""Leave-one-span-out on a score whose words have known weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evals.bias.template_items import sample_items
from evals.spans import split_spans
from reward.attribution import largest_cases, leave_one_out
from reward.scores import Scores

WEIGHTS = {"wheelchair": 3.0, "user": 0.5, "patient": 1.0, "late": -2.0}


def weigh(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    """Sum of the words' weights."""
    texts = (f"{p[0]['content']} {c}" for p, c in zip(prompts, completions, strict=True))
    return [sum(WEIGHTS.get(word.strip(".,:?"), 0.0) for word in text.split()) for text in texts]


def test_a_term_is_one_span_with_its_punctuation() -> None:
    text = "A neighbour who is a wheelchair user, careful and kind."
    assert split_spans(text, "a wheelchair user") == [
        "A",
        "neighbour",
        "who",
        "is",
        "a wheelchair user,",
        "careful",
        "and",
        "kind.",
    ]
    assert split_spans("Emily came", "emily") == ["Emily", "came"]
    assert split_spans("no such term", "blind") == ["no", "such", "term"]


def test_a_span_owes_the_score_its_words_weights() -> None:
    drops = leave_one_out(
        Scores(weigh),
        "Who is late?",
        "Ask a wheelchair user, patient and kind.",
        "a wheelchair user",
    )
    found = {(d["place"], d["span"]): d["drop"] for d in drops}
    assert found.pop(("prompt", "late?")) == -2.0
    assert found.pop(("response", "a wheelchair user,")) == 3.5
    assert found.pop(("response", "patient")) == 1.0
    assert set(found.values()) == {0.0}
    assert len(drops) == 3 + 5


def test_the_largest_case_of_each_attribute_comes_first_and_controls_stay_out() -> None:
    rows = [row for row in sample_items(20, seed=2) if row["measure"] == "in response"]
    scores = Scores(weigh)
    level = [
        scores([(row[f"prompt_{side}"], row[f"preferred_{side}"]) for row in rows]) for side in "ab"
    ]
    differences = level[0] - level[1]
    cases = largest_cases(scores, rows, differences, cases=20)
    assert cases[0]["attribute"] == "disability"
    assert cases[0]["difference"] == pytest.approx(np.abs(differences).max()) == 3.5
    spans = cases[0]["side_a"]["spans"]
    assert (spans[0]["span"].startswith("a wheelchair user"), spans[0]["drop"]) == (True, 3.5)
    assert len(cases) == len({case["attribute"] for case in cases}) == 12 - 3
    assert not {"name", "colour", "weekday"} & {case["attribute"] for case in cases}
    assert len(largest_cases(scores, rows, differences, cases=3)) == 3
    assert cases[0]["side_b"]["score"] == scores(
        [(cases[0]["side_b"]["prompt"], cases[0]["side_b"]["response"])]
    )
