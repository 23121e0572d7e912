"""The ledger: every table of results, made from stored rows alone, without a model.

Stages are compared with the one before, and the last with the first; always item by item.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from evals.score import compare, estimate, pair_results, standard_error
from evals.stats import Resampling
from evals.task import BiasTask, Task, TaskResult
from evals.tasks.classification import ClassificationTask

Table = list[dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """All results of an evaluation."""

    stages: tuple[str, ...]
    """In the order of training."""
    tasks: Mapping[str, Task]
    signatures: Mapping[str, str]
    """Task -> signature without the model."""
    scored: Mapping[tuple[str, str], TaskResult]
    """(stage, task) -> result; all of them."""


def build_ledger(results: Results, resampling: Resampling) -> dict[str, Any]:
    """The ledger's tables that need nothing but the results."""
    return {
        "stages": list(results.stages),
        "tasks": task_table(results),
        "estimates": estimate_table(results, resampling),
        "comparisons": comparison_table(results, resampling),
        "groups": group_tables(results, resampling),
        "group_differences": difference_tables(results, resampling.confidence),
        "bias": bias_table(results, resampling.confidence),
        "bias_comparisons": bias_comparison_table(results, resampling.confidence),
        "samples": sample_table(results),
        "missing": missing_table(results),
    }


def stage_pairs(stages: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each stage with the one before, then the last with the first."""
    pairs = list(pairwise(stages))
    return [*pairs, (stages[0], stages[-1])] if len(stages) > 2 else pairs


def task_table(results: Results) -> Table:
    """What each task is; n and missing are those of the last stage."""
    rows = []
    for name, task in results.tasks.items():
        last = results.scored[results.stages[-1], name]
        rows.append(
            {
                "name": name,
                "kind": task.kind,
                "title": task.title,
                "n": len(last.ids),
                "missing": sum(last.missing.values()),
                "signature": results.signatures[name],
                "definition": task.definition,
                "metrics": {metric.name: metric.definition for metric in task.metrics},
            }
        )
    return rows


def estimate_table(results: Results, resampling: Resampling) -> Table:
    """Every metric of every task and stage with its interval."""
    return [
        {"stage": stage, "task": name, "metric": metric.name}
        | asdict(estimate(metric, result, resampling))
        | {"stderr": standard_error(metric, result), "better": metric.better}
        for stage, name, task, result in _each(results)
        for metric in task.metrics
    ]


def comparison_table(results: Results, resampling: Resampling) -> Table:
    """Every metric's paired difference between stages."""
    return [
        {"task": name, "metric": metric.name, "before": before, "after": after}
        | asdict(
            compare(
                metric,
                results.scored[before, name],
                results.scored[after, name],
                resampling,
            )
        )
        for before, after in stage_pairs(results.stages)
        for name, task in results.tasks.items()
        for metric in task.metrics
    ]


def group_tables(results: Results, resampling: Resampling) -> Table:
    """Rates by group of the tasks that name group columns."""
    return [
        {"stage": stage, "task": name, **row}
        for stage, name, task, result in _each(results)
        if isinstance(task, ClassificationTask)
        for row in task.groups(result, resampling)
    ]


def difference_tables(results: Results, confidence: float) -> Table:
    """Signed differences of rates between groups."""
    return [
        {"stage": stage, "task": name, **row}
        for stage, name, task, result in _each(results)
        if isinstance(task, ClassificationTask)
        for row in task.group_differences(result, confidence)
    ]


def bias_table(results: Results, confidence: float) -> Table:
    """What the bias suites measured at every stage."""
    return [
        {"stage": stage, "task": name, **row}
        for stage, name, task, result in _each(results)
        if isinstance(task, BiasTask)
        for row in task.bias(result, confidence)
    ]


def bias_comparison_table(results: Results, confidence: float) -> Table:
    """How it changed between stages, on identical items."""
    rows = []
    for before, after in stage_pairs(results.stages):
        for name, task in results.tasks.items():
            if isinstance(task, BiasTask):
                pair = pair_results(results.scored[before, name], results.scored[after, name])
                head = {"task": name, "before": before, "after": after}
                rows += [{**head, **row} for row in task.bias_changes(*pair, confidence)]
    return rows


def sample_table(results: Results) -> Table:
    """Responses of all stages to the same held-out prompts, with their scores."""
    if "prompts" not in results.tasks:
        return []
    answers: dict[str, dict[str, Mapping[str, Any]]] = {}
    for stage in results.stages:
        result = results.scored[stage, "prompts"]
        for item, sample in zip(result.ids, result.samples, strict=True):
            answers.setdefault(item, {})[stage] = sample
    rows = []
    for by_stage in answers.values():
        scores = {stage: sample["scores"] for stage, sample in by_stage.items()}
        gold = {stage: values["gold"] for stage, values in scores.items() if "gold" in values}
        rows.append(
            {
                "prompt": next(iter(by_stage.values()))["prompt"],
                "responses": {stage: sample["response"] for stage, sample in by_stage.items()},
                "scores": {
                    s: values["reward"] for s, values in scores.items() if "reward" in values
                },
                "gold": gold or None,
            }
        )
    return rows


def missing_table(results: Results) -> Table:
    """Items that could not be scored, with the reason."""
    return [
        {"stage": stage, "task": name, "count": count, "reason": reason}
        for stage, name, _, result in _each(results)
        for reason, count in sorted(result.missing.items())
    ]


def _each(results: Results) -> Iterator[tuple[str, str, Task, TaskResult]]:
    """(stage, name, task, result) of all results, task by task."""
    for name, task in results.tasks.items():
        for stage in results.stages:
            yield stage, name, task, results.scored[stage, name]
