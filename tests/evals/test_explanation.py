"""Words of a contrast: left out one at a time on a rule of known weights, and by gradients."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

from align.errors import UserError
from evals.engine import Engine
from evals.explanation import (
    beyond,
    contrasts,
    explain_cases,
    integrated_gradients,
    join_words,
    leave_one_out,
    require_captum,
)

ROW = {
    "measure": "in prompt",
    "attribute": "gender",
    "group_a": "woman",
    "group_b": "man",
    "control": False,
    "render": "text",
    "prompt_a": "the cook Ann is good and Ann sold bread:",
    "prompt_b": "the cook Bob is good and Bob sold bread:",
    "preferred_a": " good soup",
    "dispreferred_a": " bad soup",
    "preferred_b": " good soup",
    "dispreferred_b": " bad soup",
    "term_a": "Ann",
    "term_b": "Bob",
}


def by_hand(engine: Engine, prompt: str, answer: str) -> float:
    """Log-likelihood of an answer behind a prompt, one pass."""
    ids = engine.tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    start = len(engine.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logs = engine.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logs[at - 1, ids[at]]) for at in range(start, len(ids)))


def test_drops_are_differences_of_contrasts(engine: Engine) -> None:
    drops = leave_one_out(engine, ROW, "a")
    whole = by_hand(engine, ROW["prompt_a"], " good soup")
    whole -= by_hand(engine, ROW["prompt_a"], " bad soup")
    assert contrasts(engine, [(ROW["prompt_a"], " good soup", " bad soup")], "text") == [
        pytest.approx(whole, abs=1e-4)
    ]
    found = {(drop["place"], drop["span"]): drop["drop"] for drop in drops}
    hole = "the Ann is good and Ann sold bread:"
    rest = by_hand(engine, hole, " good soup") - by_hand(engine, hole, " bad soup")
    assert found["prompt", "cook"] == pytest.approx(whole - rest, abs=1e-4)
    # a word of both answers is left out of both
    rest = by_hand(engine, ROW["prompt_a"], " good") - by_hand(engine, ROW["prompt_a"], " bad")
    assert found["response", "soup"] == pytest.approx(whole - rest, abs=1e-4)
    # one of a single answer only there
    rest = by_hand(engine, ROW["prompt_a"], " good soup")
    rest -= by_hand(engine, ROW["prompt_a"], " soup")
    assert found["response", "bad"] == pytest.approx(whole - rest, abs=1e-4)
    assert [drop["span"] for drop in drops if drop["place"] == "response"] == [
        "good",
        "soup",
        "bad",
    ]


def test_what_both_sides_share_cancels_by_occurrence() -> None:
    def drops(*values: tuple[str, float]) -> list[dict[str, Any]]:
        return [{"place": "prompt", "span": span, "drop": drop} for span, drop in values]

    found = beyond(
        drops(("and", 5.0), ("Ann", 2.0), ("and", 1.0)), drops(("and", 4.0), ("and", -3.0))
    )
    assert [one["drop"] for one in found] == [1.0, 2.0, 4.0]


def test_cases_hold_both_sides_and_leave_controls_out(engine: Engine) -> None:
    rows = [ROW, ROW | {"control": True, "attribute": "name"}, ROW | {"attribute": "age"}]
    cases = explain_cases(engine, rows, np.array([0.5, 9.0, -2.0]), None)
    assert [case["attribute"] for case in cases] == ["age", "gender"]
    assert [case["difference"] for case in cases] == [-2.0, 0.5]
    side = cases[0]["side_a"]
    assert side["response"] == " good soup |  bad soup"
    assert side["score"] == pytest.approx(
        by_hand(engine, ROW["prompt_a"], " good soup")
        - by_hand(engine, ROW["prompt_a"], " bad soup"),
        abs=1e-4,
    )
    sizes = [abs(span["drop"]) for span in side["spans"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 5
    assert "gradients" not in side


def test_a_text_that_cannot_be_scored_has_no_contrast(engine: Engine) -> None:
    values = contrasts(engine, [("the cook", "", " good")], "text")
    assert math.isnan(values[0])


def test_tokens_add_up_to_words(engine: Engine) -> None:
    text = "praised the soup"
    ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    words = join_words(engine, ids, [1.0] * len(ids))
    assert [word["span"] for word in words] == ["praised", "the", "soup"]
    assert sum(word["drop"] for word in words) == len(ids)


def test_gradients_are_complete(engine: Engine) -> None:
    pytest.importorskip("captum", reason="needs the extra `explain`")
    found = integrated_gradients(engine, ROW, "a", 256)
    ids = engine.tokenizer(ROW["prompt_a"], add_special_tokens=False)["input_ids"]
    end = engine.tokenizer.eos_token_id

    def contrast(prompt: list[int]) -> float:
        sums = []
        for answer in (" good soup", " bad soup"):
            whole = engine.tokenizer(ROW["prompt_a"] + answer, add_special_tokens=False)[
                "input_ids"
            ]
            row = torch.tensor([[*prompt, *whole[len(ids) :]]])
            with torch.no_grad():
                logs = engine.model(row).logits[0].double().log_softmax(-1)
            places = range(len(ids), row.shape[1])
            sums.append(sum(float(logs[at - 1, row[0, at]]) for at in places))
        return sums[0] - sums[1]

    # completeness: the attributions add up to c(text) - c(all EOS)
    total = contrast(ids) - contrast([end] * len(ids))
    assert found["total"] == pytest.approx(total, abs=1e-4)
    assert abs(found["gap"]) < 0.02 * max(1.0, abs(total))
    coarse = integrated_gradients(engine, ROW, "a", 2)
    assert abs(coarse["gap"]) > abs(found["gap"])


def test_without_captum_a_user_is_told_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(UserError, match=r"alignkit\[explain\]"):
        require_captum()
