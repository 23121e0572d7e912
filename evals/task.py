"""What a task is and what it returns: the one interface between scoring and statistics.

A task turns items into *rows of sufficient statistics*, one row an item. A `Metric` is a pure
function of the sum of those rows, so one resampler serves accuracy, F1, BLEU, perplexity and
group rates alike, and two stages are compared by pairing their rows on the items' hashes.
Nothing here knows a model: `Task.evaluate` receives the engine that does.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from evals.bias.fairness import Classified
    from evals.engine import Engine
    from evals.stats import Resampling

Row = Mapping[str, Any]
Array = NDArray[np.float64]
Better = Literal["higher", "lower", "none"]
MetricKind = Literal["proportion", "share", "mean", "ratio", "positive", "biased", "function"]


@dataclass(frozen=True)
class Metric:
    """A number that is a function of the sum of its statistics' rows.

    `combine` maps sums (..., k) to values (...): it works on the last axis, so that all
    resamples are computed in one call. It returns NaN where the metric is undefined.
    """

    name: str
    stat: str
    """Key of `TaskResult.stats` whose rows are summed."""
    combine: Callable[[Array], Array]
    better: Better
    definition: str
    """One sentence with the formula."""
    kind: MetricKind = "function"
    """proportion: rows [hit, 1] with hit 0 or 1 (Wilson, McNemar); share: rows [hit, eligible]
    (Wilson over the eligible); mean: rows [value, 1] (t interval over clusters, sign-flip
    permutation); ratio: any smooth function (t with the jackknife's error); positive: above 0
    without an upper bound (t interval of the logarithm); biased: too far from the truth on few
    items for an interval of its own; function: anything else (bootstrap)."""
    signature: str = ""
    """Settings of the metric itself, such as sacrebleu's signature."""


@dataclass(frozen=True)
class TaskResult:
    """Scores of one model on one task; every per-item field is in the same order."""

    ids: tuple[str, ...]
    """Hashes of the scored items' content, unique (see `item_ids`)."""
    stats: Mapping[str, Array]
    """Name -> rows (items, k), float64."""
    samples: Sequence[Mapping[str, Any]]
    """Name -> value of each item, JSON types: prompt, response, scores - what a reader checks."""
    clusters: tuple[str, ...] | None = None
    """Unit of resampling of each item (template, name pair); None: the item itself."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Text labels of each item that the analysis needs: groups, measure, attribute, category."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of items that could not be scored; they are in no other field."""

    def __post_init__(self) -> None:
        """Check that every per-item field has one entry an item.

        Raises:
            ValueError: A field has another length, or two items share an id.
        """
        n = len(self.ids)
        lengths = {f"stats[{key}]": len(rows) for key, rows in self.stats.items()}
        lengths |= {f"columns[{key}]": len(values) for key, values in self.columns.items()}
        lengths["samples"] = len(self.samples)
        if self.clusters is not None:
            lengths["clusters"] = len(self.clusters)
        wrong = {key: length for key, length in lengths.items() if length != n}
        if wrong:
            raise ValueError(f"a result of {n} items has fields of other lengths: {wrong}")
        if len(set(self.ids)) != n:
            raise ValueError("two items of a result share an id")


class Task(Protocol):
    """One way to score a model: classification, translation, perplexity, a bias suite."""

    @property
    def name(self) -> str:
        """Key of the task in the configuration; it names the folder and the ledger's rows."""
        ...

    @property
    def kind(self) -> str:
        """The configuration's `kind`."""
        ...

    @property
    def title(self) -> str:
        """Heading in the report."""
        ...

    @property
    def definition(self) -> str:
        """How items are scored, in one or two sentences with the formula and its caveats."""
        ...

    @property
    def decoding(self) -> str:
        """How responses come about, for the signature: loglikelihood, greedy, ..."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The task's numbers, most important first; empty for pure bias suites."""
        ...

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Score every item; unscorable ones are counted in `missing`, never given a 0.

        Raises:
            UserError: A row lacks a column, or no item could be scored.
        """
        ...

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """The items' text, one string an item, for the overlap with the training text."""
        ...


@runtime_checkable
class BiasTask(Protocol):
    """A task whose result also fills the ledger's `bias` and `bias_comparisons` tables."""

    def bias(self, result: TaskResult, confidence: float) -> list[dict[str, Any]]:
        """Rows of the ledger's `bias`, without `stage` and `task`."""
        ...

    def bias_changes(
        self, before: TaskResult, after: TaskResult, confidence: float
    ) -> list[dict[str, Any]]:
        """Rows of the ledger's `bias_comparisons` without `task`, `before` and `after`.

        The two results hold the same items in the same order.
        """
        ...


@runtime_checkable
class GroupTask(Protocol):
    """A task whose result also fills the ledger's `groups` table."""

    def groups(self, result: TaskResult, resampling: Resampling) -> list[dict[str, Any]]:
        """Rows of the ledger's `groups`, without `stage` and `task`."""
        ...


@runtime_checkable
class FairTask(Protocol):
    """A task whose items have a label, a prediction and groups (`evals.bias.fairness`)."""

    def classified(self, result: TaskResult) -> Classified | None:
        """Labels, predictions and groups; None where the task names no groups."""
        ...


def item_ids(rows: Sequence[Row]) -> list[str]:
    """Identity of each item: sha256 of its content as canonical JSON (64 hex digits).

    A second item with equal content gets the suffix "-2", a third "-3", so ids are unique and do
    not depend on the items' order otherwise.
    """
    seen: Counter[str] = Counter()
    ids = []
    for row in rows:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        seen[digest] += 1
        ids.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return ids
