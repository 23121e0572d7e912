"""Tasks of lm-evaluation-harness on our engine: rows by hand, numbers beside its own model."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from sacrebleu import corpus_ter

from evals.stats import Resampling
from evals.tasks.borrowed import ROWS, BorrowedTask

RESAMPLING = Resampling(200)
PLACES = ["soup", "bread or soup or bread", "house", "car", "baker", "cook"]
ITEMS = [
    {"q": f"the {word} is", "choices": ["good ", "bad bread", "sold"], "gold": i % 3}
    for i, word in enumerate(PLACES)
]
COMMON = {"dataset_path": "json", "test_split": "test", "metadata": {"version": 1.5}}
QUIZ = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "brier_score"}],
}
TALK = {
    "output_type": "generate_until",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"until": [" "], "max_gen_toks": 6},
    "filter_list": [
        {
            "name": "letters",
            "filter": [
                {"function": "regex", "regex_pattern": "([a-z]+)"},
                {"function": "take_first"},
            ],
        }
    ],
    "metric_list": [{"metric": "exact_match"}, {"metric": "ter"}],
}
ROLL = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{q}} {{choices[1]}}",
    "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
}


def number(task: BorrowedTask, name: str, values: list[Any]) -> float:
    """A metric of items' values."""
    (metric,) = [metric for metric in task.metrics if metric.name == name]
    rows = ROWS[task.settings["metrics"][name]["aggregation"]](values)
    return float(metric.combine(rows.sum(axis=0)))


def test_metrics_are_functions_of_sums_of_rows() -> None:
    ways = {
        "acc,strict": "mean",
        "ppl": "perplexity",
        "words": "weighted_perplexity",
        "bits": "bits_per_byte",
        "ter": "ter",
    }
    settings = {"metrics": {k: {"aggregation": way, "better": "lower"} for k, way in ways.items()}}
    task = BorrowedTask("t", settings)
    assert number(task, "acc,strict", [1.0, 0.0, 1.0, 1.0]) == 0.75
    assert number(task, "ppl", [-1.0, -3.0]) == pytest.approx(math.exp(2))
    pairs = [(-6.0, 2), (-2.0, 2)]  # 8 nats over 4 words, or 4 bytes
    assert number(task, "words", pairs) == pytest.approx(math.exp(2))
    assert number(task, "bits", pairs) == pytest.approx(2 / math.log(2))
    texts = [("a red car", "a red house"), ("bread", "soup")]  # reference, response
    expected = corpus_ter([b for _, b in texts], [[a for a, _ in texts]]).score
    assert number(task, "ter", texts) == pytest.approx(expected)
    kinds = {metric.name: metric.kind for metric in task.metrics}
    assert kinds["acc,strict"] == "proportion"
    assert (kinds["words"], kinds["ter"]) == ("positive", "function")


@pytest.fixture(scope="module")
def borrowed(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[BorrowedTask, list[dict[str, Any]]]]:
    """The three definitions as lm-evaluation-harness reads them."""
    pytest.importorskip("lm_eval")
    from evals.borrowing import borrow_tasks

    tmp_path = tmp_path_factory.mktemp("tasks")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    files = {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    for name, own in (("quiz", QUIZ), ("talk", TALK), ("roll", ROLL)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"task": name, **COMMON, **files, **own}))
    found = borrow_tasks(["quiz", "talk", "roll"], tmp_path, None, None)
    return {task.name: (task, rows) for task, rows in found}


@pytest.mark.peer
@pytest.mark.filterwarnings("default")
def test_every_item_is_scored_as_by_its_own_model(
    engine: Any, tiny_model: Any, tiny_tokenizer: Any, borrowed: Any
) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    peer = HFLM(pretrained=tiny_model, tokenizer=tiny_tokenizer, batch_size=1)
    for name, (task, rows) in borrowed.items():
        ours = task.evaluate(engine, rows)
        theirs = evaluate(
            lm=peer, task_dict={"tasks": {name: task.task}, "groups": {}}, bootstrap_iters=0
        )
        expected = sorted(theirs["samples"][name], key=lambda sample: sample["doc_id"])
        assert len(ours.ids) == len(expected) == 6
        for metric in task.metrics:
            key = metric.name if "," in metric.name else f"{metric.name},none"
            value = float(metric.combine(ours.stats[metric.stat].sum(axis=0)))
            assert value == pytest.approx(theirs["results"][name][key], rel=1e-5, abs=1e-4), key
        found = [json.loads(sample["response"]) for sample in ours.samples]
        answers = [sample["filtered_resps"] for sample in expected]
        if name == "talk":
            assert found == answers
        else:  # of a choice [ll, greedy], of a document ll
            for mine, other in zip(found, answers, strict=True):
                np.testing.assert_allclose(np.ravel(mine), np.ravel(other), atol=1e-4)


@pytest.mark.peer
def test_what_its_scores_depend_on(borrowed: Any) -> None:
    task, rows = borrowed["quiz"]
    assert rows == ITEMS
    assert list(task.settings["metrics"]) == ["acc", "acc_norm"]  # Brier has no rows
    assert (task.settings["version"], task.settings["num_fewshot"]) == (1.5, 0)
    assert list(borrowed["talk"][0].settings["metrics"]) == ["exact_match,letters", "ter,letters"]
    text = json.dumps([entry.settings for entry, _ in borrowed.values()])
    assert "0x" not in text
    assert "rows.jsonl" not in text  # the rows' place changes no number


@pytest.mark.peer
def test_what_is_too_long_is_missing(borrowed: Any, tiny_model: Any, tiny_tokenizer: Any) -> None:
    from evals.engine import Engine

    engine = Engine(tiny_model, tiny_tokenizer)
    engine.max_length = 12
    task, rows = borrowed["talk"]
    lengths = [len(tiny_tokenizer(row["q"])["input_ids"]) for row in rows]
    fitting = [length for length in lengths if length <= 6]
    assert 0 < len(fitting) < 6
    result = task.evaluate(engine, rows)
    assert len(result.ids) == len(fitting)
    assert result.missing == {"longer than 6 tokens": 6 - len(fitting)}


@pytest.mark.peer
def test_an_unknown_task_is_refused(borrowed: Any) -> None:
    from align.errors import UserError
    from evals.borrowing import borrow_tasks

    with pytest.raises(UserError, match=r"no task 'arc_esay'; allowed: arc_easy \(nearest\)"):
        borrow_tasks(["arc_esay"], None, None, None)
