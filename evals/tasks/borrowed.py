"""Tasks of an installed lm-evaluation-harness, asked through our engine.

Prompts, examples, filters and scores of an item are its own; every item's score becomes a row, so
that intervals, paired tests and the report are the same as of any task. Departures: what is too
long for the model is missing, never cut; groups have no mean of their own; metrics whose value is
no function of a sum of rows (F1, Matthews, Brier) are left out.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from align.errors import UserError
from evals.metrics import ratio, value_rows
from evals.task import Array, Metric, MetricKind, Row, TaskResult, item_ids
from evals.tasks.asking import require_items, require_scored
from evals.tasks.generation import CORPUS

if TYPE_CHECKING:
    from evals.engine import Engine

KIND = "lm_eval"
SHARES = ("acc", "acc_norm", "acc_bytes", "exact_match")
"""Means whose items are 0 or 1."""


def _exp(sums: Array) -> Array:
    """exp(-sum of ll / sum of units)."""
    with np.errstate(over="ignore"):
        return cast("Array", np.exp(-ratio(sums)))


def _pair_rows(values: Sequence[Any]) -> Array:
    """Rows [ll, units] (n, 2)."""
    return np.asarray(values, dtype=np.float64).reshape(-1, 2)


def _corpus_rows(rows: Callable[..., Array], values: Sequence[Any]) -> Array:
    """Rows of sacrebleu's statistics of (reference, hypothesis) pairs."""
    return rows([hypothesis for _, hypothesis in values], [reference for reference, _ in values])


ROWS: Mapping[str, Callable[[Sequence[Any]], Array]] = {
    "mean": value_rows,
    "perplexity": value_rows,
    "weighted_perplexity": _pair_rows,
    "bits_per_byte": _pair_rows,
    **{name: partial(_corpus_rows, rows) for name, (rows, _) in CORPUS.items()},
}
"""Aggregation of lm-evaluation-harness -> rows of its items' values."""
COMBINE: Mapping[str, tuple[Callable[[Array], Array], MetricKind, str]] = {
    "mean": (ratio, "mean", "mean over items"),
    "perplexity": (_exp, "function", "exp(-mean over items of ll)"),
    "weighted_perplexity": (_exp, "positive", "exp(-sum of ll / sum of words or bytes)"),
    "bits_per_byte": (
        partial(ratio, scale=-1 / math.log(2)),
        "positive",
        "-sum of ll / sum of bytes / ln 2",
    ),
}


@dataclass(frozen=True)
class BorrowedTask:
    """One task of lm-evaluation-harness."""

    name: str
    settings: Mapping[str, Any]
    """What its scores depend on: version, prompts, examples, metrics."""
    task: Any = None
    """`lm_eval.api.task.Task`; None where the results are read back."""
    kind: str = KIND

    @property
    def title(self) -> str:
        """Heading in the report."""
        return f"lm-evaluation-harness: {self.name}"

    @property
    def decoding(self) -> str:
        """How the model is used."""
        return str(self.settings["output_type"])

    @property
    def definition(self) -> str:
        """How an item is scored."""
        known = self.settings
        return (
            f"Asked ({known['output_type']}, {known['num_fewshot']} examples) and scored by "
            f"lm-evaluation-harness {known['lm_eval']}, answered by our engine"
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Its numbers that have rows, for every filter."""
        return tuple(_metric(name, **entry) for name, entry in self.settings["metrics"].items())

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """The rows as they are."""
        return [json.dumps(row, ensure_ascii=False) for row in rows]

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Let lm-evaluation-harness ask and score the first `len(rows)` items.

        Raises:
            UserError: No item could be scored, or a metric has no value for an item.
        """
        from evals.borrowing import EngineLM, run_task

        require_items(rows, self.name)
        adapter = EngineLM(engine)
        samples = run_task(adapter, self.name, self.task, len(rows))
        by_item: dict[int, dict[str, Any]] = defaultdict(dict)
        for sample in samples:
            by_item[sample["doc_id"]][sample["filter"]] = sample
        places = [place for place in sorted(by_item) if place not in adapter.problems]
        missing = adapter.missing()
        require_scored(places, missing, self.name)
        ids = item_ids(rows)
        scored = [by_item[place] for place in places]
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats={
                name: ROWS[entry["aggregation"]]([self._value(name, item) for item in scored])
                for name, entry in self.settings["metrics"].items()
            },
            samples=[_sample(next(iter(item.values()))) for item in scored],
            missing=missing,
        )

    def _value(self, name: str, item: Mapping[str, Any]) -> Any:
        """An item's value of a metric, under its filter.

        Raises:
            UserError: It has none.
        """
        metric, _, reading = name.partition(",")
        sample = item[reading or "none"]
        if metric not in sample:
            raise UserError(f"lm-evaluation-harness gave no {metric}", where=f"task {self.name}")
        return sample[metric]


def _metric(name: str, aggregation: str, better: Any) -> Metric:
    """A number by its name and how lm-evaluation-harness aggregates it."""
    if aggregation in CORPUS:
        found = CORPUS[aggregation][1]()
        return Metric(name, name, found.combine, found.better, found.definition)
    combine, kind, text = COMBINE[aggregation]
    if name.partition(",")[0] in SHARES:
        kind = "proportion"
    return Metric(name, name, combine, better, f"{text} (lm-evaluation-harness)", kind)


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader checks of one item."""
    return {
        "prompt": str(sample["arguments"][0][0]),
        "response": json.dumps(sample["filtered_resps"], ensure_ascii=False, default=str),
        "label": str(sample["target"]),
        "choices": [str(arguments[-1]) for arguments in sample["arguments"]],
    }
