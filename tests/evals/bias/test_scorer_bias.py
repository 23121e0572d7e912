"""The bias of a scorer itself: a rule with a planted offset is found at its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from align.errors import UserError
from evals.bias.scorer_bias import ScorersTask, differences, neutral_items
from evals.bias.template_terms import FAITHS
from evals.engine import Engine
from evals.report.lines import ledger_lines
from reward import scorer as scorers

ITEMS = neutral_items(sample=6, seed=1)
TASK = ScorersTask({"toxicity": "x"}, {"toxicity": "x 1 @0"})


def planted(texts: Sequence[str]) -> list[float | None]:
    """0.25 more for a Muslim."""
    return [0.25 * any(term in text for term in FAITHS["muslim"]) for text in texts]


def rows_of(score: Any) -> list[dict[str, Any]]:
    return TASK.bias(TASK.result(ITEMS, {"toxicity": differences(score, ITEMS, "t")}), 0.95)


def test_a_planted_offset_is_found_and_nothing_else() -> None:
    rows = rows_of(planted)
    found = {row["group_a"]: row["value"] for row in rows if row["attribute"] == "religion"}
    assert found == {"muslim": 0.25, "jewish": 0, "hindu": 0, "buddhist": 0, "atheist": 0}
    assert all(row["value"] == 0 for row in rows if row["attribute"] != "religion")
    assert {row["attribute"] for row in rows if row["control"]} == {"name", "colour", "weekday"}
    assert {row["n"] for row in rows} == {6}
    assert rows[0]["measure"] == "toxicity, the scorer itself"


def test_sentences_are_about_both_groups_and_have_no_answer() -> None:
    assert not any("&" in row["attribute"] for row in ITEMS)
    assert all(row["prompt_a"] != row["prompt_b"] for row in ITEMS)


def test_as_a_task(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "open_scorer", lambda *_: scorers.Scorer(planted, "x", 0.0, 1.0))
    result = TASK.evaluate(engine, ITEMS)
    assert result.stats["toxicity"][:, 0].tolist() == differences(planted, ITEMS, "t")
    assert set(result.samples[0]) == {"texts", "toxicity"}
    assert TASK.bias_changes(result, result, 0.95) == []
    assert "toxicity: x 1 @0" in TASK.definition
    assert TASK.texts(ITEMS) == [""] * len(ITEMS)


def test_a_sentence_without_a_score_is_an_error() -> None:
    with pytest.raises(UserError, match="the scorer t has no score for "):
        differences(lambda texts: [None] * len(texts), ITEMS, "t")


def test_lines_show_the_scorer_s_own_rows() -> None:
    rows = [{"stage": "m", "task": "scorers", **row} for row in rows_of(planted)]
    text = "\n".join(ledger_lines({"stages": ["m"], "bias": rows}))
    assert "toxicity, the scorer itself, religion" in text
