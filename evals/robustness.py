"""Robustness: a task asked again with its questions perturbed, compared item by item."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from evals.score import compare, estimate, pair_results
from evals.stats import Resampling
from evals.task import Metric, Task, TaskResult
from evals.tasks.classification import ClassificationTask
from evals.tasks.multiple_choice import MultipleChoiceTask


def perturbed_task(task: Task, kind: str) -> Task:
    """The same task with its questions perturbed; items keep their ids, so results can be paired.

    Raises:
        TypeError: The task has no questions to choose an answer to.
    """
    name = f"{task.name}+{kind}"
    if isinstance(task, ClassificationTask):
        return replace(task, name=name, question=replace(task.question, perturbation=kind))
    if isinstance(task, MultipleChoiceTask):
        return replace(task, name=name, asking=replace(task.asking, perturbation=kind))
    raise TypeError(f"{task.kind} cannot be perturbed")


def robustness_row(
    metric: Metric, own: TaskResult, version: TaskResult, resampling: Resampling
) -> dict[str, Any]:
    """The metric under a perturbation, and its paired change.

    Returns:
        An estimate's fields; `changed`, the share of items whose question differs at all; `better`;
        `change`, a `Difference`: perturbed minus own.
    """
    pair = pair_results(own, version)
    texts = zip(*([sample["prompt"] for sample in side.samples] for side in pair), strict=True)
    return {
        **asdict(estimate(metric, version, resampling)),
        "better": metric.better,
        "changed": float(np.mean([before != after for before, after in texts])),
        "change": asdict(compare(metric, own, version, resampling)),
    }
