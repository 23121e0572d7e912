"""The ledger: every table of results, made from stored rows alone, without a model.

Stages are compared with the one before, and the last with the first; always item by item.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from evals.baselines import BASELINES
from evals.bias.disparity import group_differences, group_gaps
from evals.bias.fairness import Classified, group_table
from evals.bias.shifts import group_changes
from evals.robustness import robustness_row
from evals.score import compare, estimate, pair_results, select, standard_error
from evals.stats import Resampling
from evals.task import BiasTask, FairTask, GroupTask, Metric, Task, TaskResult

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
    originals: Mapping[str, str] = field(default_factory=dict)
    """Perturbed version -> the task it is one of."""
    contaminated: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Task -> its items that share a passage with the training text, where that was checked."""


def build_ledger(results: Results, resampling: Resampling) -> dict[str, Any]:
    """The ledger's tables that need nothing but the results.

    Perturbed versions are in `robustness` and `missing` alone.
    """
    every = results
    own = {name: task for name, task in every.tasks.items() if name not in every.originals}
    results = replace(every, tasks=own)
    return {
        "stages": list(results.stages),
        "tasks": task_table(results),
        "estimates": estimate_table(results, resampling),
        "baselines": baseline_table(results, resampling),
        "robustness": robustness_table(every, resampling),
        "comparisons": comparison_table(results, resampling),
        "groups": group_tables(results, resampling),
        "group_differences": difference_tables(results, resampling.confidence),
        "group_gaps": gap_tables(results, resampling),
        "group_changes": change_tables(results, resampling),
        "bias": bias_table(results, resampling.confidence),
        "bias_comparisons": bias_comparison_table(results, resampling.confidence),
        "samples": sample_table(results),
        "missing": missing_table(every),
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
        | clean_fields(metric, result, results.contaminated.get(name), resampling)
        for stage, name, _, result in _each(results)
        for metric in held_metrics(results, name)
    ]


def held_metrics(results: Results, name: str) -> list[Metric]:
    """A task's metrics whose rows all results hold: older code may have stored fewer."""
    held = [results.scored[stage, name].stats for stage in results.stages]
    return [m for m in results.tasks[name].metrics if all(m.stat in stats for stats in held)]


def clean_fields(
    metric: Metric, result: TaskResult, found: frozenset[str] | None, resampling: Resampling
) -> dict[str, Any]:
    """Share of the scored items that are contaminated, and the metric on the others.

    `clean` is None where no item is contaminated, or all are.
    """
    if found is None:
        return {}
    ids = [item for item in result.ids if item not in found]
    share, clean = 1 - len(ids) / len(result.ids), None
    if 0 < share < 1:
        clean = asdict(estimate(metric, select(result, ids), resampling))
    return {"contaminated": share, "clean": clean}


def baseline_table(results: Results, resampling: Resampling) -> Table:
    """What guessing and a constant answer reach on the items that a stage was scored on."""
    return [
        {"stage": stage, "task": name, "metric": metric.name}
        | asdict(estimate(metric, result, resampling))
        | {"definition": metric.definition}
        for stage, name, _, result in _each(results)
        for metric in BASELINES
        if metric.stat in result.stats
    ]


def robustness_table(results: Results, resampling: Resampling) -> Table:
    """Every metric of the perturbed versions, with its paired change from the task's own."""
    return [
        {"stage": stage, "task": results.originals[name], "metric": metric.name}
        | robustness_row(metric, results.scored[stage, results.originals[name]], result, resampling)
        | {"perturbation": name.removeprefix(f"{results.originals[name]}+")}
        for stage, name, task, result in _each(results)
        if name in results.originals
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
        for before, after, name, _ in _changes(results)
        for metric in held_metrics(results, name)
    ]


def group_tables(results: Results, resampling: Resampling) -> Table:
    """Rates by group of the tasks that have groups."""
    own = [
        {"stage": stage, "task": name, **row}
        for stage, name, task, result in _each(results)
        if isinstance(task, GroupTask)
        for row in task.groups(result, resampling)
    ]
    return own + [
        {"stage": stage, "task": name, **row}
        for stage, name, data in _classified(results)
        for row in group_table(data, resampling)
    ]


def difference_tables(results: Results, confidence: float) -> Table:
    """Signed differences of rates between groups."""
    return [
        {"stage": stage, "task": name, **row}
        for stage, name, data in _classified(results)
        for row in group_differences(data, confidence)
    ]


def gap_tables(results: Results, resampling: Resampling) -> Table:
    """Gaps of rates over all groups: demographic parity, equalised odds."""
    return [
        {"stage": stage, "task": name, **row}
        for stage, name, data in _classified(results)
        for row in group_gaps(data, resampling)
    ]


def change_tables(results: Results, resampling: Resampling) -> Table:
    """How rates, differences and gaps changed between stages, on identical items."""
    rows = []
    for before, after, name, task in _changes(results):
        if isinstance(task, FairTask):
            pair = pair_results(results.scored[before, name], results.scored[after, name])
            old, new = (task.classified(result) for result in pair)
            if old is not None and new is not None:
                head = {"task": name, "before_stage": before, "after_stage": after}
                rows += [head | row for row in group_changes(old, new, resampling)]
    return rows


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
    for before, after, name, task in _changes(results):
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
        own = {s: v.get("score", v.get("reward")) for s, v in scores.items()}
        gold = {s: v["gold"] for s, v in scores.items() if "gold" in v}
        rows.append(
            {
                "prompt": next(iter(by_stage.values()))["prompt"],
                "responses": {stage: sample["response"] for stage, sample in by_stage.items()},
                "scores": {s: score for s, score in own.items() if score is not None},
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


def _classified(results: Results) -> Iterator[tuple[str, str, Classified]]:
    """(stage, task, items) of all tasks with labels, predictions and groups."""
    for stage, name, task, result in _each(results):
        data = task.classified(result) if isinstance(task, FairTask) else None
        if data is not None:
            yield stage, name, data


def _each(results: Results) -> Iterator[tuple[str, str, Task, TaskResult]]:
    """(stage, name, task, result) of all results, task by task."""
    for name, task in results.tasks.items():
        for stage in results.stages:
            yield stage, name, task, results.scored[stage, name]


def _changes(results: Results) -> Iterator[tuple[str, str, str, Task]]:
    """(before, after, name, task) of all compared stages."""
    for before, after in stage_pairs(results.stages):
        for name, task in results.tasks.items():
            yield before, after, name, task
