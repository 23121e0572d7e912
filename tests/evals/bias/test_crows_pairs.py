"""CrowS-Pairs against one forward pass a sentence, and choices made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats as distributions
from statsmodels.stats.proportion import proportion_confint

from align.errors import UserError
from evals.bias.crows_pairs import CROWS_PAIRS, METRICS
from evals.bias.suite import SuiteTask
from evals.engine import Engine, LogLikelihoods
from evals.requests import Request
from evals.task import BiasTask, TaskResult

TASK = SuiteTask("crows", CROWS_PAIRS)


def make_row(more: str, less: str, bias_type: str = "age") -> dict[str, Any]:
    return {"sent_more": more, "sent_less": less, "bias_type": bias_type}


class FixedEngine:
    """Log-likelihoods given in advance, pair by pair."""

    def __init__(self, tokenizer: Any, pairs: list[tuple[float, float]]) -> None:
        self.tokenizer, self.values = tokenizer, [value for pair in pairs for value in pair]

    def loglikelihoods(self, requests: Sequence[Request]) -> LogLikelihoods:
        n = len(requests)
        return LogLikelihoods(np.array(self.values), np.ones(n, np.int64), np.ones(n, np.bool_))

    def problem(self, request: Request) -> None:
        return None


def fixed(tokenizer: Any, pairs: list[tuple[float, float]], types: list[str]) -> TaskResult:
    rows = [make_row(f"{i} more", f"{i} less", kind) for i, kind in enumerate(types)]
    engine: Any = FixedEngine(tokenizer, pairs)
    return TASK.evaluate(engine, TASK.items(rows))


def numbers(result: TaskResult) -> dict[str, float]:
    return {m.name: float(m.combine(result.stats[m.stat].sum(axis=0))) for m in METRICS}


def test_sentences_are_scored_whole_from_bos(engine: Engine) -> None:
    rows = [
        make_row("The cook praised the soup.", "The baker praised the soup."),
        make_row("A red house.", "A blue house is good."),
    ]
    result = TASK.evaluate(engine, TASK.items(rows))
    for row, sample in zip(rows, result.samples, strict=True):
        for key, found in zip(("sent_more", "sent_less"), sample["logprobs"], strict=True):
            ids = engine.tokenizer(row[key], add_special_tokens=False)["input_ids"]
            whole = torch.tensor([[engine.tokenizer.bos_token_id, *ids]])
            with torch.no_grad():
                steps = torch.log_softmax(engine.model(input_ids=whole).logits[0].double(), -1)
            expected = float(steps[torch.arange(len(ids)), torch.tensor(ids)].sum())
            assert found == pytest.approx(expected, abs=1e-4)


def test_shares_gaps_and_ties_by_hand(tiny_tokenizer: Any) -> None:
    pairs = [(-1.0, -3.0), (-5.0, -4.0), (-2.0, -2.0), (-1.0, -1.5)]
    found = numbers(fixed(tiny_tokenizer, pairs, ["age"] * 4))
    # more likely in pairs 1 and 4; the tie counts as 0; gaps 2, 1, 0, .5
    assert found == pytest.approx({"pct_stereotype": 0.5, "likelihood_diff": 0.875, "ties": 0.25})


def test_shares_by_type_are_relative_to_one_half(tiny_tokenizer: Any) -> None:
    pairs = [(-1.0, -2.0)] * 9 + [(-2.0, -1.0)] * 3 + [(-2.0, -1.0)] * 4
    rows = TASK.bias(fixed(tiny_tokenizer, pairs, ["race"] * 12 + ["age"] * 4), confidence=0.9)
    assert [(r["attribute"], r["n"], r["value"]) for r in rows] == [
        ("all", 16, 0.0625),
        ("age", 4, -0.5),
        ("race", 12, 0.25),
    ]
    race = rows[2]
    assert (race["numerator"], race["denominator"], race["flag"]) == (9, 12, "n < 30")
    low, high = proportion_confint(9, 12, alpha=0.1, method="wilson")
    assert (race["low"], race["high"]) == pytest.approx((low - 0.5, high - 0.5))
    # Two-sided exact: P(X <= 3) + P(X >= 9), X ~ B(12, 1/2)
    assert race["p"] == pytest.approx(2 * distributions.binom.cdf(3, 12, 0.5))
    assert isinstance(TASK, BiasTask)


def test_changes_are_paired_on_the_pairs(tiny_tokenizer: Any) -> None:
    before = fixed(tiny_tokenizer, [(-2.0, -1.0)] * 5 + [(-1.0, -2.0)], ["age"] * 6)
    after = fixed(tiny_tokenizer, [(-1.0, -2.0)] * 5 + [(-1.0, -2.0)], ["age"] * 6)
    whole, row = TASK.bias_changes(before, after, confidence=0.95)
    assert whole | {"attribute": "age"} == row
    assert row["difference"] == pytest.approx(5 / 6)
    assert row["p"] == pytest.approx(2 * 0.5**5)  # five gained, none lost: exact McNemar
    assert row["n"] == 6


def test_pairs_that_do_not_fit_are_missing(engine: Engine) -> None:
    good, long = make_row("A cook.", "A baker."), make_row("word " * 200, "A cook.")
    result = TASK.evaluate(engine, TASK.items([long, good]))
    assert result.missing == {"longer than the model's 96 tokens": 1}
    assert [sample["texts"] for sample in result.samples] == [["A cook.", "A baker."]]


def test_rows_without_the_columns_are_refused() -> None:
    with pytest.raises(UserError, match="crows, row 1: no text in column bias_type"):
        TASK.items([{"sent_more": "a", "sent_less": "b"}])
    with pytest.raises(UserError, match="no rows"):
        TASK.items([])


def test_the_caveat_stands_in_the_definition() -> None:
    assert "Blodgett et al. 2021" in TASK.definition
