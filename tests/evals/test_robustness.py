"""Perturbed versions of tasks: what is asked, and how they are paired with the task's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align.config import SourceConfig, TaskConfig
from align.errors import UserError
from evals.engine import Engine
from evals.perturb import perturbed
from evals.robustness import perturbed_task, robustness_row
from evals.schema import Definition, MetricEntry
from evals.shots import Asking, question_columns
from evals.significance import mcnemar
from evals.stats import Resampling
from evals.task import TaskResult
from evals.tasks import build_task
from evals.tasks.multiple_choice import MultipleChoiceTask

SOURCE = SourceConfig(path="rows.jsonl")
DRAWS = Resampling(100)


def definition(**changes: Any) -> Definition:
    settings: dict[str, Any] = {
        "task": "t",
        "output_type": "multiple_choice",
        "doc_to_text": "Look at {{q}} of {{c[0]}}:",
        "doc_to_choice": "c",
        "doc_to_target": "y",
        "metric_list": (MetricEntry(metric="acc"), MetricEntry(metric="ece")),
    }
    return Definition(**settings | changes)


ROWS = [
    {"q": f"the {word} is good", "c": ["good", "bad soup"], "y": index % 2}
    for index, word in enumerate(("soup", "bread", "house", "car"))
]


def test_only_the_question_s_own_columns_are_perturbed(engine: Engine) -> None:
    asking = Asking("t", definition(), shots=1, seed=3)
    version = perturbed_task(MultipleChoiceTask("t", asking), "case")
    assert version.name == "t+case"
    own = MultipleChoiceTask("t", asking).evaluate(engine, ROWS)
    result = version.evaluate(engine, ROWS)
    assert result.ids == own.ids
    for row, before, after in zip(ROWS, own.samples, result.samples, strict=True):
        # The same example, unchanged, then the question with its template and choices unchanged.
        example, question = before["prompt"].split("\n\n")
        assert question == f"Look at {row['q']} of good:"
        assert after["prompt"] == f"{example}\n\nLook at {row['q'].upper()} of good:"
        assert after["choices"] == ["good", "bad soup"]
        assert after["label"] == before["label"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["q"]),
        ({"doc_to_text": "q"}, ["q"]),
        ({"doc_to_text": "{{a}} {{b.x}} {{range(2)}}", "doc_to_choice": ("x", "y")}, ["a", "b"]),
        ({"doc_to_text": "{{a}} {{b}}", "doc_to_choice": "{{[b, d]}}"}, ["a"]),
        ({"doc_to_text": "{{a}} {{b}}", "doc_to_target": "{{c.index(b)}}"}, ["a"]),
        ({"doc_to_text": ""}, []),
    ],
)
def test_columns_of_the_question(changes: dict[str, Any], expected: list[str]) -> None:
    assert question_columns(definition(**changes)) == expected


def test_classification_perturbs_columns_not_the_template(engine: Engine) -> None:
    config = TaskConfig(
        kind="classification",
        data=SOURCE,
        prompt="it is {q} and",
        target="y",
        choices=("good", "bad"),
        perturb=("typos",),
    )
    task = build_task("reviews", config)
    rows = [{"q": f"{row['q']} " * 3, "y": row["y"]} for row in ROWS]
    samples = perturbed_task(task, "typos").evaluate(engine, rows).samples
    expected = [f"it is {perturbed(row, ['q'], 'typos')['q']} and" for row in rows]
    assert [sample["prompt"] for sample in samples] == expected
    assert expected != [f"it is {row['q']} and" for row in rows]
    assert [sample["label"] for sample in samples] == ["good", "bad", "good", "bad"]


def result(hits: list[int], prompts: str, ids: str, **missing: int) -> TaskResult:
    rows = np.stack([np.array(hits, float), np.ones(len(hits))], axis=1)
    samples = [{"prompt": prompt} for prompt in prompts]
    return TaskResult(tuple(ids), {"acc": rows}, samples, missing=missing)


def test_the_change_is_paired_by_hand() -> None:
    metric = MultipleChoiceTask("t", Asking("t", definition())).metrics[0]
    own = result([1, 1, 1, 0, 1], "abcde", "vwxyz")
    version = result([0, 0, 1, 1], "aBcD", "vwxy", long=1)
    row = robustness_row(metric, own, version, DRAWS)
    # z is missing; of the other four two are lost, one is won, and two questions differ.
    assert (row["value"], row["n"], row["better"]) == (0.5, 4, "higher")
    assert row["changed"] == 0.5
    change = row["change"]
    assert change["difference"] == pytest.approx(-0.25)
    assert (change["gained"], change["lost"], change["n"]) == (1, 2, 4)
    assert change["p"] == mcnemar(1, 2)
    assert change["low"] < -0.25 < change["high"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            TaskConfig(definition="gsm8k", data=SOURCE, perturb=("names",)),
            r"evals.tasks.x.perturb: is never read by generate_until",
        ),
        (TaskConfig(kind="perplexity", data=SOURCE, perturb=("case",)), "perturb is never read by"),
    ],
)
def test_tasks_without_choices_are_refused(config: TaskConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_task("x", config)
    with pytest.raises(TypeError, match="perplexity cannot be perturbed"):
        perturbed_task(build_task("x", TaskConfig(kind="perplexity", data=SOURCE)), "case")


def test_a_question_without_a_text_of_its_own_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(
        "{task: t, output_type: multiple_choice, doc_to_text: '{{c[0]}}', doc_to_choice: c, "
        "doc_to_target: 0, metric_list: [{metric: acc}]}"
    )
    config = TaskConfig(definition=str(path), data=SOURCE, perturb=("case",))
    with pytest.raises(UserError, match=r"evals.tasks.x.perturb: doc_to_text has no column"):
        build_task("x", config)


def test_a_change_is_named_once() -> None:
    with pytest.raises(ValueError, match="names a change twice"):
        TaskConfig(definition="boolq", data=SOURCE, perturb=("case", "case"))
    with pytest.raises(UserError, match="cannot be used"):
        build_task("a+b", TaskConfig(definition="boolq", data=SOURCE))
