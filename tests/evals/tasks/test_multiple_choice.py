"""Multiple choice: hand-derived scores on a stub engine, and a real one, one pass an answer."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from align.errors import UserError
from evals.bias.fairness import group_table
from evals.engine import Engine
from evals.schema import Definition, MetricEntry
from evals.score import estimate
from evals.shots import Asking
from evals.stats import Resampling
from evals.task import TaskResult
from evals.tasks.multiple_choice import MultipleChoiceTask


class StubEngine:
    """Says what log-likelihood each continuation has, by its text."""

    def __init__(self, tokenizer: Any, scores: dict[str, float]) -> None:
        self.tokenizer, self.scores = tokenizer, scores

    def problem(self, request: Any) -> str | None:
        return "longer than the model" if math.isnan(self._score(request)) else None

    def _score(self, request: Any) -> float:
        return self.scores[self.tokenizer.decode(request.continuation)]

    def loglikelihoods(self, requests: Any) -> Any:
        return SimpleNamespace(sums=np.array([self._score(r) for r in requests]))


def task(*metrics: str, **changes: Any) -> MultipleChoiceTask:
    settings: dict[str, Any] = {
        "task": "t",
        "output_type": "multiple_choice",
        "doc_to_text": "q",
        "doc_to_choice": "c",
        "doc_to_target": "y",
        "metric_list": tuple(MetricEntry(metric=name) for name in metrics),
    }
    return MultipleChoiceTask("t", Asking("t", Definition(**settings | changes)))


def values(task: MultipleChoiceTask, result: TaskResult) -> dict[str, float]:
    return {m.name: estimate(m, result, Resampling(100)).value for m in task.metrics}


def test_lengths_decide_which_choice_wins(tiny_tokenizer: Any) -> None:
    # ll: -2, -4, -3. By itself "a" leads; a character: -2, -1, -1.5; a byte ("\u00e9" has two):
    # -2, -1, -0.75.
    engine: Any = StubEngine(tiny_tokenizer, {" a": -2.0, " bbbb": -4.0, " \u00e9\u00e9": -3.0})
    row = {"q": "which", "c": ["a", "bbbb", "\u00e9\u00e9"]}
    expected = {0: (1, 0, 0), 1: (0, 1, 0), 2: (0, 0, 1)}
    measured = task("acc", "acc_norm", "acc_bytes")
    for gold, hits in expected.items():
        result = measured.evaluate(engine, [row | {"y": gold}])
        assert tuple(result.stats[m.stat][0, 0] for m in measured.metrics) == hits
        assert result.samples[0]["response"] == "a"
        assert result.samples[0]["logprobs"] == [-2.0, -4.0, -3.0]
    # Several right answers: any of them counts.
    assert measured.evaluate(engine, [row | {"y": [1, 2]}]).stats["acc_norm"][0, 0] == 1


def test_mc2_and_brier_by_hand(tiny_tokenizer: Any) -> None:
    # Probabilities .1, .2, .3 of their sum .6: right are the first and the third, (.1 + .3) / .6.
    scores = {f" {key}": math.log(p) - 900 for key, p in zip("abc", (0.1, 0.2, 0.3), strict=True)}
    engine: Any = StubEngine(tiny_tokenizer, scores)
    row = {"q": "which", "c": ["a", "b", "c"]}
    measured = task("mc2", "brier_score")
    result = measured.evaluate(engine, [row | {"y": [0, 2]}])
    assert result.stats["mc2"][0].tolist() == pytest.approx([2 / 3, 1])
    # Gold a: (1/6 - 1)^2 + (2/6)^2 + (3/6)^2 = 38/36.
    one = measured.evaluate(engine, [row | {"y": 0}])
    assert values(measured, one)["brier_score"] == pytest.approx(38 / 36)
    assert [m.better for m in measured.metrics] == ["higher", "lower"]


def test_calibration_and_baselines_come_with_the_items(tiny_tokenizer: Any) -> None:
    engine: Any = StubEngine(tiny_tokenizer, {" a": math.log(0.7), " b": math.log(0.3)})
    rows = [{"q": str(i), "c": ["a", "b"], "y": y} for i, y in enumerate((0, 1, 1))]
    measured = task("acc", "ece")
    result = measured.evaluate(engine, rows)
    # The first choice with probability .7, right once in three.
    assert values(measured, result) == pytest.approx({"acc": 1 / 3, "ece": 0.7 - 1 / 3})
    assert measured.metrics[1].better == "lower"
    assert result.stats["majority_answer"][:, 0].tolist() == [0, 1, 1]
    assert result.stats["uniform_guess"][:, 0].tolist() == [0.5] * 3


def test_items_without_a_number_are_missing(tiny_tokenizer: Any) -> None:
    engine: Any = StubEngine(tiny_tokenizer, {" a": -1.0, " b": -2.0, " l": math.nan, " ": -1.0})
    rows = [
        {"q": "1", "c": ["a", "b"], "y": 0},
        {"q": "2", "c": ["a", "l"], "y": 0},
        {"q": "3", "c": ["a", ""], "y": 0},
        {"q": "4", "c": ["b", "a", "b"], "y": 0},
    ]
    measured = task("acc", "acc_norm")
    result = measured.evaluate(engine, rows)
    assert result.missing == {"longer than the model": 1, "empty choice": 1}
    assert [sample["prompt"] for sample in result.samples] == ["1", "4"]
    assert values(measured, result) == {"acc": 0.5, "acc_norm": 0.5}
    with pytest.raises(UserError, match="no item could be scored"):
        measured.evaluate(engine, rows[1:3])


def test_f1_needs_the_same_choices(tiny_tokenizer: Any) -> None:
    engine: Any = StubEngine(tiny_tokenizer, {" a": -1.0, " b": -2.0})
    rows = [{"q": "1", "c": ["a", "b"], "y": 0}, {"q": "2", "c": ["b", "a"], "y": 0}]
    with pytest.raises(UserError, match=r"row 2: macro_f1 with choices \['b', 'a'\]"):
        task("acc", "macro_f1").evaluate(engine, rows)


def continuation_logprob(model: Any, context: list[int], answer: list[int]) -> float:
    """Sum of log p(token | all before) by one pass without padding."""
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([context + answer])).logits[0].double()
    rows = rows.log_softmax(-1)
    return sum(float(rows[len(context) - 1 + i, t]) for i, t in enumerate(answer))


def test_a_model_s_choices_by_definition(engine: Engine) -> None:
    choices = ("good", "bad soup")
    measured = task(
        "acc",
        "acc_norm",
        "f1",
        "macro_f1",
        doc_to_text="Review: {{q}} It is",
        doc_to_choice=choices,
    )
    rows = [
        {"q": f"{a} {b}", "y": (i + j) % 2}
        for i, a in enumerate(("the soup", "a car", "bread"))
        for j, b in enumerate(("sold", "is red", "and the cook"))
    ]
    result = measured.evaluate(engine, rows)
    answers, normal = [], []
    for row, sample in zip(rows, result.samples, strict=True):
        text = f"Review: {row['q']} It is"
        context = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        scores = []
        for choice in choices:
            whole = engine.tokenizer(f"{text} {choice}", add_special_tokens=False)["input_ids"]
            scores.append(continuation_logprob(engine.model, context, whole[len(context) :]))
        assert sample["logprobs"] == pytest.approx(scores, abs=1e-4)
        answers.append(int(np.argmax(scores)))
        normal.append(int(np.argmax([s / len(c) for s, c in zip(scores, choices, strict=True)])))
    labels = [row["y"] for row in rows]
    assert answers != normal, "the test shows no difference"
    assert values(measured, result) == pytest.approx(
        {
            "acc": accuracy_score(labels, answers),
            "acc_norm": accuracy_score(labels, normal),
            "f1": f1_score(labels, answers),
            "macro_f1": f1_score(labels, answers, average="macro"),
        }
    )


def test_groups_and_clusters_of_rows(tiny_tokenizer: Any) -> None:
    engine: Any = StubEngine(tiny_tokenizer, {" yes": -1.0, " no": -2.0, " so": -3.0})
    measured = replace(task("acc"), group_columns=("sex",), cluster="frame")
    rows = [
        {"q": "one", "c": ["yes", "no"], "y": 0, "sex": "f", "frame": "t1"},
        {"q": "two", "c": ["yes", "no"], "y": 1, "sex": None, "frame": "t1"},
        {"q": "three", "c": ["yes", "no"], "y": 1, "sex": ["m", "f"], "frame": ""},
    ]
    result = measured.evaluate(engine, rows)
    assert result.clusters == ("t1", "t1", "row 3")
    data = measured.classified(result)
    assert data is not None
    assert data.groups == {"sex": ("f", "unknown", "f + m")}
    assert (data.labels, data.predictions) == (["yes", "no", "no"], ["yes"] * 3)
    assert (data.positive, data.clusters) == ("yes", result.clusters)
    assert {row["metric"] for row in group_table(data)} >= {"selection_rate", "f1", "accuracy"}
    assert task("acc").classified(result) is None
    with pytest.raises(UserError, match="no row has the cluster column 'x'"):
        replace(measured, cluster="x").evaluate(engine, rows)
    with pytest.raises(UserError, match="no row has the group column 'x'"):
        replace(measured, group_columns=("x",)).evaluate(engine, rows)


def test_choices_that_vary_have_accuracy_alone(tiny_tokenizer: Any) -> None:
    engine: Any = StubEngine(tiny_tokenizer, {" yes": -1.0, " no": -2.0, " so": -3.0})
    measured = replace(task("acc"), group_columns=("sex",))
    rows = [
        {"q": "one", "c": ["yes", "no"], "y": 0, "sex": "f"},
        {"q": "two", "c": ["so", "no"], "y": 0, "sex": "f"},
        {"q": "three", "c": ["yes", "no"], "y": [0, 1], "sex": "m"},
    ]
    data = measured.classified(measured.evaluate(engine, rows))
    assert data is not None
    found = {(row["group"], row["metric"]): row["value"] for row in group_table(data)}
    assert found == {("f", "accuracy"): 0.5, ("m", "accuracy"): 1.0}
