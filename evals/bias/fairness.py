"""Classification by group: fairlearn's `MetricFrame` with intervals.

A rate is a share of *eligible* items: all of them (selection rate, accuracy), the positive ones
(true positive rate) or the negative ones (false positive rate). fairlearn and scikit-learn compute
the values; here they get numerator, denominator, interval (Wilson; over clusters Korn and
Graubard's) and a flag for small groups, which are shown, never dropped. Items without a group form
the group `unknown`. `evals.bias.disparity` compares the groups, `evals.bias.shifts` two models.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.metrics import binary_f1, confusion_rows, macro_f1
from evals.ratios import share_estimate
from evals.stats import Array, Resampling, bootstrap

UNKNOWN = "unknown"
NAMELESS = frozenset({"", "?", "nan", "unknown", "missing", "not stated", "n/a"})
"""Names, in lower case, of the group whose membership is not known."""
JOIN = " & "
"""Between the attributes, and the groups, of an intersection."""
SMALL = 30
"""Rates over fewer items are flagged."""
Flags = NDArray[np.bool_]
Groups = Mapping[str, Sequence[str | None]]


@dataclass(frozen=True)
class Classified:
    """Labels and predictions (n,) of one task, and the groups of its items.

    Two classes named 0 and 1, or any with a named `positive`, are binary; other sets of classes
    have accuracy and macro F1 alone.
    """

    labels: Sequence[Hashable]
    predictions: Sequence[Hashable]
    groups: Groups
    """Attribute -> group of each item (None: unknown)."""
    positive: Hashable | None = None
    """The class whose rates are reported."""
    clusters: Sequence[str] | None = None
    """Items that hang together; None where each stands alone."""
    same_classes: bool = True
    """False where a class means something else in every item: then accuracy alone counts."""

    def __post_init__(self) -> None:
        """Check the lengths and classes.

        Raises:
            ValueError: Nothing to judge, not one prediction, group and cluster a label, or
                `positive` and over two classes.
        """
        n = len(self.labels)
        if not n or n != len(self.predictions):
            sizes = f"{n} labels, {len(self.predictions)} predictions"
            raise ValueError(f"group tables need one prediction a label: {sizes}")
        wrong = [name for name, groups in self.groups.items() if len(groups) != n]
        if wrong:
            raise ValueError(f"{len(self.groups[wrong[0]])} groups of {wrong[0]!r} for {n} items")
        if self.clusters is not None and len(self.clusters) != n:
            raise ValueError(f"{len(self.clusters)} clusters for {n} items")
        if self.positive is not None and len({*self.labels, *self.predictions, self.positive}) > 2:
            raise ValueError("rates need two classes; make the others one class first")

    def codes(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int | None]:
        """Labels and predictions as class numbers, and the positive class's number."""
        classes = sorted({*self.labels, *self.predictions}, key=lambda c: (str(type(c)), str(c)))
        positive = self.positive
        if positive is None and {*classes} <= {0, 1} and self.same_classes:
            classes, positive = [0, 1], 1
        if positive is not None:
            index: dict[Hashable, int] = {c: int(c == positive) for c in [*classes, positive]}
        else:
            index = {c: i for i, c in enumerate(classes)}
        labels = np.array([index[c] for c in self.labels], dtype=np.int64)
        predictions = np.array([index[c] for c in self.predictions], dtype=np.int64)
        return labels, predictions, None if positive is None else 1

    def only(self, places: Sequence[int] | NDArray[np.intp]) -> Classified:
        """The items at these places, in that order."""
        groups = {name: [values[i] for i in places] for name, values in self.groups.items()}
        return replace(
            self,
            labels=[self.labels[i] for i in places],
            predictions=[self.predictions[i] for i in places],
            groups=groups,
            clusters=None if self.clusters is None else [self.clusters[i] for i in places],
        )

    def attributes(self) -> Iterator[tuple[str, NDArray[np.str_]]]:
        """Each attribute with its groups, every two crossed, and all where there are more."""
        named = {key: [group_name(x) for x in values] for key, values in self.groups.items()}
        sizes = [1, 2] if len(named) < 3 else [1, 2, len(named)]
        for size in dict.fromkeys(sizes):
            for keys in combinations(named, size):
                parts = zip(*(named[key] for key in keys), strict=True)
                yield JOIN.join(keys), np.array([JOIN.join(part) for part in parts])


class Share(NamedTuple):
    """A rate item by item: which items count, and which of those hit."""

    eligible: Flags
    hit: Flags

    def rows(self, inside: Flags) -> Array:
        """Rows [hit, 1] (n, 2) of the eligible items inside; 0 throughout for the others."""
        counted = self.eligible & inside
        return np.stack([self.hit & counted, counted], axis=1).astype(np.float64)


def group_name(value: Any) -> str:
    """The group that a value names; `unknown` for one that names none."""
    text = "" if value is None else str(value).strip()
    return UNKNOWN if text.casefold() in NAMELESS else text


def is_known(group: str) -> bool:
    """Whether membership is known, of an intersection in all its attributes."""
    return UNKNOWN not in group.split(JOIN)


def group_table(data: Classified, resampling: Resampling | None = None) -> list[dict[str, Any]]:
    """Every metric of every group, of each attribute and of their intersections.

    Returns:
        Rows of the ledger's `groups` without `stage` and `task`. `n` is the group's size; the
        value is null and the flag says why where a rate has no eligible item.
    """
    resampling = resampling or Resampling()
    rows, shares = [], rates(data)
    for attribute, names in data.attributes():
        values = _metric_frame(data, names)
        for group in sorted(set(names.tolist())):
            inside = names == group
            head = {"attribute": attribute, "group": group}
            for metric, share in shares.items():
                value = values.loc[group, metric]
                rows.append(head | _rate_row(metric, share, inside, value, data, resampling))
            if data.same_classes:
                rows.append(head | _f1_row(data, inside, values.loc[group], resampling))
    return rows


def rates(data: Classified) -> dict[str, Share]:
    """The rates that the classes allow."""
    labels, predictions, positive = data.codes()
    everyone = np.ones(len(labels), dtype=bool)
    shares = {"accuracy": Share(everyone, labels == predictions)}
    if positive is not None:
        selected = predictions == positive
        shares["selection_rate"] = Share(everyone, selected)
        shares["true_positive_rate"] = Share(labels == positive, selected)
        shares["false_positive_rate"] = Share(labels != positive, selected)
    return shares


def _metric_frame(data: Classified, names: NDArray[np.str_]) -> Any:
    """Metrics by group, by fairlearn and scikit-learn: a frame indexed by group."""
    from fairlearn import metrics as fair
    from sklearn.metrics import accuracy_score, f1_score

    labels, predictions, positive = data.codes()
    functions: dict[str, Callable[..., Any]] = {"accuracy": accuracy_score}
    if positive is None:
        functions["macro_f1"] = partial(f1_score, average="macro")
    else:
        functions["f1"] = partial(f1_score, zero_division=0.0)
        functions["selection_rate"] = fair.selection_rate
        functions["true_positive_rate"] = fair.true_positive_rate
        functions["false_positive_rate"] = fair.false_positive_rate
    frame = fair.MetricFrame(
        metrics=functions, y_true=labels, y_pred=predictions, sensitive_features=names.tolist()
    )
    return frame.by_group


def _rate_row(
    metric: str, share: Share, inside: Flags, value: Any, data: Classified, resampling: Resampling
) -> dict[str, Any]:
    """One rate of one group."""
    counts = share.rows(inside)
    numerator, denominator = (int(count) for count in counts.sum(axis=0))
    row: dict[str, Any] = {"metric": metric, "value": None, "low": None, "high": None}
    row |= {"n": int(inside.sum()), "numerator": numerator, "denominator": denominator}
    if denominator == 0:  # fairlearn says 0 here
        return row | {"flag": "undefined: no eligible item"}
    found = share_estimate(counts, data.clusters, resampling.confidence)
    row |= {"value": float(value), "low": known(found.low), "high": known(found.high)}
    return row | {"flag": small_flag(denominator)}


def _f1_row(data: Classified, inside: Flags, values: Any, resampling: Resampling) -> dict[str, Any]:
    """F1 of one group with a bootstrap interval; binary, or macro for several classes."""
    labels, predictions, positive = data.codes()
    labels, predictions = labels[inside], predictions[inside]
    classes = 2 if positive is not None else int(max(labels.max(), predictions.max())) + 1
    rows = confusion_rows(labels.tolist(), predictions.tolist(), classes)
    metric, combine = ("macro_f1", macro_f1) if positive is None else ("f1", binary_f1)
    clusters = None if data.clusters is None else np.asarray(data.clusters)[inside].tolist()
    estimate = bootstrap(rows, combine, clusters, resampling)
    tp, fp, fn = rows.sum(axis=0).reshape(-1, 3)[slice(None) if positive is None else [1]].sum(0)
    row: dict[str, Any] = {"metric": metric, "value": float(values[metric])}
    row |= {"low": known(estimate.low), "high": known(estimate.high), "n": len(labels)}
    # Macro F1 is a mean of ratios: the counts pooled over the classes stand beside it.
    return row | {
        "numerator": int(2 * tp),
        "denominator": int(2 * tp + fp + fn),
        "flag": small_flag(len(labels)),
    }


def known(value: float) -> float | None:
    """The number, or null where it is undefined."""
    return float(value) if np.isfinite(value) else None


def small_flag(n: int) -> str:
    """The flag of a rate over `n` items."""
    return f"n < {SMALL}" if n < SMALL else ""
