"""Classification by group: fairlearn's `MetricFrame` with intervals, and signed differences.

A rate is a share of *eligible* items: all of them (selection rate, accuracy), the positive ones
(true positive rate) or the negative ones (false positive rate). fairlearn and scikit-learn compute
the values; here they get numerator, denominator, Wilson interval and a flag for small groups, which
are shown, never dropped. Items without a group form the group `unknown`. `evals.bias.disparity`
compares the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.metrics import binary_f1, confusion_rows, macro_f1
from evals.stats import Resampling, bootstrap, wilson

UNKNOWN = "unknown"
SMALL = 30
"""Rates over fewer items are flagged."""
Flags = NDArray[np.bool_]
Groups = Mapping[str, Sequence[str | None]]


@dataclass(frozen=True)
class Classified:
    """Labels and predictions (n,) of one task.

    Two classes named 0 and 1, or any with a named `positive`, are binary; other sets of classes
    have accuracy and macro F1 alone.
    """

    labels: Sequence[Hashable]
    predictions: Sequence[Hashable]
    positive: Hashable | None = None
    """The class whose rates are reported."""

    def __post_init__(self) -> None:
        """Check the lengths and classes.

        Raises:
            ValueError: Nothing to judge, not one prediction a label, or `positive` and over two
                classes.
        """
        if not self.labels or len(self.labels) != len(self.predictions):
            sizes = f"{len(self.labels)} labels, {len(self.predictions)} predictions"
            raise ValueError(f"group tables need one prediction a label: {sizes}")
        if self.positive is not None and len({*self.labels, *self.predictions, self.positive}) > 2:
            raise ValueError("rates need two classes; make the others one class first")

    def codes(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int | None]:
        """Labels and predictions as class numbers, and the positive class's number."""
        classes = sorted({*self.labels, *self.predictions}, key=lambda c: (str(type(c)), str(c)))
        positive = self.positive
        if positive is None and {*classes} <= {0, 1}:
            classes, positive = [0, 1], 1
        if positive is not None:
            index: dict[Hashable, int] = {c: int(c == positive) for c in [*classes, positive]}
        else:
            index = {c: i for i, c in enumerate(classes)}
        labels = np.array([index[c] for c in self.labels], dtype=np.int64)
        predictions = np.array([index[c] for c in self.predictions], dtype=np.int64)
        return labels, predictions, None if positive is None else 1


class Share(NamedTuple):
    """A rate item by item: which items count, and which of those hit."""

    eligible: Flags
    hit: Flags


def group_table(
    labels: Sequence[Hashable],
    predictions: Sequence[Hashable],
    groups: Groups,
    *,
    positive: Hashable | None = None,
    resampling: Resampling | None = None,
) -> list[dict[str, Any]]:
    """Every metric of every group, of each attribute and of their intersection.

    Args:
        labels: (n,) true classes.
        predictions: (n,) predicted classes.
        groups: Attribute -> group of each item (None: unknown).
        positive: The class whose rates are reported; see `Classified`.
        resampling: Confidence, and the bootstrap of F1.

    Returns:
        Rows of the ledger's `groups` without `stage` and `task`. `n` is the group's size; the
        value is null and the flag says why where a rate has no eligible item.

    Raises:
        ValueError: Lengths differ, or there is nothing to judge.
    """
    data = Classified(labels, predictions, positive)
    resampling = resampling or Resampling()
    rows = []
    for attribute, names in attributes(groups, len(labels)):
        values, shares = _metric_frame(data, names), rates(data)
        for group in sorted(set(names)):
            inside = np.array([name == group for name in names])
            head = {"attribute": attribute, "group": group}
            for metric, share in shares.items():
                rows.append(head | _rate_row(metric, share, inside, values, group, resampling))
            rows.append(head | _f1_row(data, inside, values, group, resampling))
    return rows


def attributes(groups: Groups, n: int) -> Iterator[tuple[str, list[str]]]:
    """Each attribute with its groups, then the intersection of all where there are several."""
    named: dict[str, list[str]] = {}
    for attribute, names in groups.items():
        if len(names) != n:
            raise ValueError(f"{len(names)} groups of {attribute!r} for {n} items")
        named[attribute] = [UNKNOWN if name is None else str(name) for name in names]
    if len(named) > 1:
        crossed = [" & ".join(parts) for parts in zip(*named.values(), strict=True)]
        named[" & ".join(named)] = crossed
    yield from named.items()


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


def _metric_frame(data: Classified, names: Sequence[str]) -> Any:
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
        metrics=functions, y_true=labels, y_pred=predictions, sensitive_features=list(names)
    )
    return frame.by_group


def _rate_row(
    metric: str, share: Share, inside: Flags, values: Any, group: str, resampling: Resampling
) -> dict[str, Any]:
    """One rate of one group."""
    numerator = int((share.hit & share.eligible & inside).sum())
    denominator = int((share.eligible & inside).sum())
    row: dict[str, Any] = {"metric": metric, "value": None, "low": None, "high": None}
    row |= {"n": int(inside.sum()), "numerator": numerator, "denominator": denominator}
    if denominator == 0:  # fairlearn says 0 here
        return row | {"flag": "undefined: no eligible item"}
    low, high = wilson(numerator, denominator, resampling.confidence)
    value = float(values.loc[group, metric])
    return row | {"value": value, "low": low, "high": high, "flag": small_flag(denominator)}


def _f1_row(
    data: Classified, inside: Flags, values: Any, group: str, resampling: Resampling
) -> dict[str, Any]:
    """F1 of one group with a bootstrap interval; binary, or macro for several classes."""
    labels, predictions, positive = data.codes()
    labels, predictions = labels[inside], predictions[inside]
    classes = 2 if positive is not None else int(max(labels.max(), predictions.max())) + 1
    rows = confusion_rows(labels.tolist(), predictions.tolist(), classes)
    metric, combine = ("macro_f1", macro_f1) if positive is None else ("f1", binary_f1)
    estimate = bootstrap(rows, combine, None, resampling)
    tp, fp, fn = rows.sum(axis=0).reshape(-1, 3)[slice(None) if positive is None else [1]].sum(0)
    row: dict[str, Any] = {"metric": metric, "value": float(values.loc[group, metric])}
    row |= {"low": estimate.low, "high": estimate.high, "n": len(labels)}
    # Macro F1 is a mean of ratios: the counts pooled over the classes stand beside it.
    return row | {
        "numerator": int(2 * tp),
        "denominator": int(2 * tp + fp + fn),
        "flag": small_flag(len(labels)),
    }


def small_flag(n: int) -> str:
    """The flag of a rate over `n` items."""
    return f"n < {SMALL}" if n < SMALL else ""
