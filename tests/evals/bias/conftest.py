"""Suites without a model: results from log-likelihoods given in advance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from evals.bias.scoring import Scored
from evals.bias.suite import Suite
from evals.task import TaskResult


def make_result(suite: Suite, items: Sequence[Any], scores: Any, tokens: Any = 1) -> TaskResult:
    """A suite's result on items with these scores (n, k) and tokens."""
    array = np.array(scores, dtype=np.float64)
    scored = Scored([*range(len(array))], array, np.ones_like(array) * tokens, {})
    together = items[0]["cluster"] is not None
    return TaskResult(
        ids=tuple(str(place) for place in range(len(items))),
        stats=suite.stats([item["facts"] for item in items], scored),
        samples=[{}] * len(items),
        clusters=tuple(item["cluster"] for item in items) if together else None,
        columns={key: tuple(item["columns"][key] for item in items) for key in items[0]["columns"]},
    )


@pytest.fixture
def result_of() -> Callable[..., TaskResult]:
    """See `make_result`."""
    return make_result


@pytest.fixture
def numbers() -> Callable[[Suite, TaskResult], dict[str, float]]:
    """The values of a suite's metrics."""

    def values(suite: Suite, result: TaskResult) -> dict[str, float]:
        return {m.name: float(m.combine(result.stats[m.stat].sum(axis=0))) for m in suite.metrics}

    return values


@pytest.fixture
def pick() -> Callable[..., dict[str, Any]]:
    """The one row of a table with these values."""

    def one(rows: list[dict[str, Any]], **keys: str) -> dict[str, Any]:
        (row,) = [row for row in rows if all(row[key] == value for key, value in keys.items())]
        return row

    return one


@pytest.fixture
def random_table() -> Callable[..., tuple[list[int], list[int], list[str]]]:
    """Labels, predictions that are right in seven of ten, and three groups, one of them small."""

    def draw(n: int = 400) -> tuple[list[int], list[int], list[str]]:
        rng = np.random.default_rng(5)
        groups = rng.choice(["x", "y", "z"], size=n, p=[0.5, 0.45, 0.05])
        labels = rng.integers(0, 2, n)
        predictions = np.where(rng.random(n) < 0.7, labels, 1 - labels)
        return labels.tolist(), predictions.tolist(), groups.tolist()

    return draw
