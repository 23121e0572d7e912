"""Suites as tasks: drawing clusters, missing items, the configuration, results on disk."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from align.config import SourceConfig, TaskConfig
from align.config.evaluation import SUITES as NAMES
from align.errors import UserError
from evals.bias.crows_pairs import CROWS_PAIRS
from evals.bias.suite import SuiteTask, draw_clusters, lost_item, make_item
from evals.bias.suites import SUITES
from evals.bias.text_pairs import TEXT_PAIRS
from evals.engine import Engine, LogLikelihoods
from evals.ledger import Results, build_ledger
from evals.report.lines import ledger_lines
from evals.score import estimate
from evals.stats import Resampling
from evals.task import BiasTask, GroupTask
from evals.tasks import build_task


def pair(a: str, b: str, **further: Any) -> dict[str, Any]:
    return {"text_a": a, "text_b": b, "group_a": "x", "group_b": "y", **further}


TASK = SuiteTask("pairs", TEXT_PAIRS)


def test_the_configuration_names_every_suite() -> None:
    assert set(NAMES) == set(SUITES)
    for name in NAMES:
        task = build_task("t", TaskConfig(kind=name, data=SourceConfig(path="x")))
        assert isinstance(task, SuiteTask)
        assert task.kind == name
        assert isinstance(task, BiasTask)
        assert isinstance(task, GroupTask)
        assert "Caveat: " in task.definition


def test_settings_of_other_kinds_are_refused() -> None:
    with pytest.raises(UserError, match="prompt is never read by kind bbq"):
        build_task("t", TaskConfig(kind="bbq", prompt="x", data=SourceConfig(path="x")))
    with pytest.raises(UserError, match="clusters is never read by kind perplexity"):
        build_task("t", TaskConfig(kind="perplexity", clusters=3, data=SourceConfig(path="x")))


def test_clusters_are_drawn_whole_and_repeatably() -> None:
    items = [make_item([("", "x")], name, {}) for name in "aabbccdd"]
    kept = draw_clusters(items, 2, seed=1)
    names = [item["cluster"] for item in kept]
    assert len(names) == 4
    assert len(set(names)) == 2
    assert names == sorted(names), "in their order"
    assert kept == draw_clusters(items, 2, seed=1)
    draws = {tuple(i["cluster"] for i in draw_clusters(items, 2, s)) for s in range(30)}
    assert len(draws) == 6, "every pair of clusters can be drawn"
    assert draw_clusters(items, 9, seed=1) == items
    lone = [make_item([("", str(n))], None, {}) for n in range(5)]
    assert len(draw_clusters(lone, 2, seed=0)) == 2
    task = replace(TASK, clusters=1, seed=5)
    rows = [pair("A cook.", "A baker.", cluster=name) for name in "aabb"]
    assert len(task.items(rows)) == 2
    assert "At most 1 whole clusters, drawn by seed 5" in task.definition


def test_texts_are_scored_from_bos_and_lost_items_are_counted(engine: Engine) -> None:
    rows = [pair("A red house.", "A blue house."), pair("", "x"), pair("word " * 200, "x")]
    result = TASK.evaluate(engine, TASK.items(rows))
    assert result.missing == {"empty text": 1, "longer than the model's 96 tokens": 1}
    (sample,) = result.samples
    assert sample["texts"] == ["A red house.", "A blue house."]
    first, second = sample["logprobs"]
    bits = -first / 12 / math.log(2) + second / 13 / math.log(2)  # 12 and 13 bytes
    assert result.stats["effect"].tolist() == [[pytest.approx(bits), 1]]


def test_scores_that_are_not_numbers_are_missing(tiny_tokenizer: Any) -> None:
    class Broken:
        tokenizer = tiny_tokenizer

        def loglikelihoods(self, requests: Any) -> LogLikelihoods:
            sums = np.array([-1.0, math.nan, -1.0, -2.0, -math.inf, -1.0])
            return LogLikelihoods(sums, np.ones(6, np.int64), np.ones(6, np.bool_))

        def problem(self, request: Any) -> None:
            return None

    engine: Any = Broken()
    result = TASK.evaluate(engine, TASK.items([pair("a", "b"), pair("c", "d"), pair("e", "f")]))
    assert result.missing == {"not finite": 2}
    assert len(result.ids) == 1


def test_no_rows_and_no_scorable_item_are_errors(engine: Engine) -> None:
    with pytest.raises(UserError, match="no rows"):
        TASK.items([])
    with pytest.raises(UserError, match="no item could be scored"):
        TASK.evaluate(engine, [lost_item("no pair", {"a": 1})])
    with pytest.raises(UserError, match="pairs, row 1: no text in column group_b"):
        TASK.items([{"text_a": "a", "text_b": "b", "group_a": "x"}])


def test_a_single_item_has_a_value_and_no_interval(engine: Engine) -> None:
    result = TASK.evaluate(engine, TASK.items([pair("A red house.", "A blue car.")]))
    rows = TASK.bias(result, 0.95)
    assert [row["flag"] for row in rows] == ["n < 30, no interval: one cluster"] * 2
    assert math.isfinite(rows[0]["value"])
    assert math.isnan(rows[0]["low"])
    found = estimate(TEXT_PAIRS.metrics[0], result, Resampling())
    assert found.value == pytest.approx(rows[0]["value"])
    assert math.isnan(found.low)


def test_ledger_and_table_show_counts_flags_and_caveats(engine: Engine) -> None:
    task = SuiteTask("crows", CROWS_PAIRS)
    rows = [
        {"sent_more": f"The cook {n}.", "sent_less": f"A baker {n}.", "bias_type": kind}
        for n, kind in enumerate(["age", "age", "race"])
    ]
    result = task.evaluate(engine, task.items(rows))
    results = Results(
        stages=("base", "sft"),
        tasks={"crows": task},
        signatures={"crows": "s"},
        scored={("base", "crows"): result, ("sft", "crows"): result},
    )
    ledger = build_ledger(results, Resampling())
    assert {row["attribute"] for row in ledger["bias"]} == {"all", "age", "race"}
    assert all(row["difference"] == 0 and row["p"] == 1 for row in ledger["bias_comparisons"])
    text = "\n".join(ledger_lines(ledger))
    hits = int(result.stats["stereotype"][:, 0].sum())
    assert f"{hits} / 3" in text
    assert "n < 30" in text
    assert "CrowS-Pairs - caveat: many pairs are not valid stereotypes" in text
