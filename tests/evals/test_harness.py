"""Results in lm-evaluation-harness's JSON: every key by hand, and read by its own table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.harness import write_harness
from evals.metrics import accuracy_metric, bleu_metric, bleu_rows, value_rows
from evals.score import standard_error
from evals.task import Metric, TaskResult

Store = Callable[..., Path]


def estimate(metric: str, value: float | None, stderr: float | None, better: str) -> dict[str, Any]:
    return {"metric": metric, "value": value, "stderr": stderr, "better": better}


@pytest.fixture
def written(store: Store, tmp_path: Path) -> dict[str, Any]:
    """The file of a model with three tasks, one of them scored with other weights."""
    folder = tmp_path / "smol"
    found = [estimate("acc", 0.75, 0.25, "higher")]
    store(folder / "quiz", {"acc": [1, 1, 1, 0]}, estimates=found)
    read = [estimate("exact_match,strict", 0.5, None, "higher"), estimate("ter", 9.0, 2.0, "lower")]
    store(folder / "talk", {"x": [0, 0]}, {"kind": "translation"}, estimates=read)
    store(folder / "stale", {"acc": [1, 1]}, model="older", estimates=found)
    write_harness(folder, {"reference": "models/smol.gguf", "hash": "smol"})
    content: dict[str, Any] = json.loads((folder / "results_lm_eval.json").read_text())
    return content


def test_every_number_under_its_key(written: dict[str, Any]) -> None:
    assert written["results"] == {
        "quiz": {
            "name": "quiz",
            "alias": "quiz",
            "sample_len": 4,
            "acc,none": 0.75,
            "acc_stderr,none": 0.25,
        },
        "talk": {
            "name": "talk",
            "alias": "talk",
            "sample_len": 2,
            "exact_match,strict": 0.5,
            "exact_match_stderr,strict": "N/A",
            "ter,none": 9.0,
            "ter_stderr,none": 2.0,
        },
    }
    assert written["higher_is_better"] == {
        "quiz": {"acc": True},
        "talk": {"exact_match": True, "ter": False},
    }
    assert (written["n-shot"], written["versions"]) == ({"quiz": 3, "talk": 0}, {"quiz": 2.0})
    assert written["n-samples"]["quiz"] == {"original": 4, "effective": 4}
    assert written["configs"]["quiz"]["output_type"] == "multiple_choice"
    assert written["configs"]["quiz"]["num_fewshot"] == 3
    assert written["configs"]["talk"]["output_type"] == "generate_until"
    assert written["config"]["model_args"] == {"pretrained": "models/smol.gguf"}


def result(**stats: Any) -> TaskResult:
    n = len(next(iter(stats.values())))
    return TaskResult(tuple(map(str, range(n))), stats, [{}] * n)


def test_standard_error_of_a_share_is_the_sample_s() -> None:
    # 3 of 4: sd of a sample sqrt(4/3 * .75 * .25) = .5, over sqrt(4)
    scored = result(accuracy=value_rows([1, 1, 1, 0]))
    assert standard_error(accuracy_metric(), scored) == pytest.approx(0.25)


def test_standard_error_over_clusters() -> None:
    # Miller 2024: residuals .25, .25, .25 sum to .75, the last one is -.75:
    # sqrt(2/1 * (.75^2 + .75^2)) / 4 items
    clustered = TaskResult(
        ("a", "b", "c", "d"), {"accuracy": value_rows([1, 1, 1, 0])}, [{}] * 4, ("x", "x", "x", "y")
    )
    assert standard_error(accuracy_metric(), clustered) == pytest.approx(0.375)


def test_standard_error_of_a_function_is_the_jackknife_s() -> None:
    texts = ["a red house stands here", "the blue car is fast", "one two three four", "no match"]
    rows = bleu_rows(texts, ["a red house stood here", "the blue car is old", *texts[2:]])
    metric = bleu_metric()
    left_out = [float(metric.combine(np.delete(rows, i, axis=0).sum(axis=0))) for i in range(4)]
    # sqrt((n - 1)/n * sum of squared deviations) = (n - 1)/sqrt(n) * sd
    expected = 3 / 2 * np.std(left_out, ddof=0) * np.sqrt(4) / np.sqrt(3)
    assert standard_error(metric, result(bleu=rows)) == pytest.approx(expected)
    assert np.isnan(standard_error(metric, result(bleu=rows[:1])))


@pytest.mark.peer
def test_lm_eval_s_own_table_reads_it(written: dict[str, Any]) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    table = utils.make_table(written)
    cells = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    assert ["", "quiz", "2", "none", "3", "acc", "↑", "0.75", "±", "0.25", ""] in cells
    assert ["", "talk", "N/A", "strict", "0", "exact_match", "↑", "0.50", "±", "N/A", ""] in cells
    assert ["", "", "", "none", "0", "ter", "↓", "9.00", "±", "2", ""] in cells


def test_metrics_of_the_prompts_are_read_back(store: Store, tmp_path: Path) -> None:
    from evals.stored import stored_tasks

    asked = {"kind": "prompts", "temperature": 1.0, "max_prompt_length": 9, "max_new_tokens": 9}
    stats = {"gold": [1.5, 2.5], "length": [4, 6], "finished": [1, 0]}
    settings = asked | {"seed": 0, "scores": ["gold"]}
    folder = store(tmp_path / "m" / "prompts", stats, settings)
    task = stored_tasks(folder)["prompts"].task
    found: dict[str, Metric] = {metric.name: metric for metric in task.metrics}
    assert list(found) == ["gold", "length", "finished"]
    assert (found["gold"].kind, found["finished"].kind) == ("mean", "proportion")
