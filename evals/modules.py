"""The metrics as `evaluate` modules that work offline: `AlignMetric("ece").compute(...)`.

`evaluate.load("name")` downloads code; this is a subclass of `evaluate.Metric` with the arithmetic
of the report, one configuration a metric. It returns plain values; intervals come from
`evals.stats`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
from datasets import Sequence as Each
from datasets import Value

from align.complaints import nearest
from align.errors import UserError
from evals.documents import Document
from evals.metrics import (
    accuracy_metric,
    confusion_rows,
    f1_metrics,
    perplexity_metrics,
    perplexity_rows,
    value_rows,
)
from evals.schema import METRICS, MetricEntry
from evals.task import Array, Metric
from evals.tasks.generation import answer_metric, answer_rows
from evals.tasks.likelihood import METRICS as LIKELIHOOD
from evals.tasks.multiple_choice import choice_metric, choice_rows

Columns = Mapping[str, Any]


def _class_rows(name: str, columns: Columns) -> Array:
    """Rows of predicted class numbers."""
    guesses, labels = list(columns["predictions"]), list(columns["references"])
    if name == "accuracy":
        return value_rows(np.equal(guesses, labels).astype(np.float64))
    return confusion_rows(labels, guesses, max(*guesses, *labels, 1) + 1)


def _class_metric(name: str) -> Metric:
    """A metric of class numbers; class 1 is the positive one."""
    known = (accuracy_metric(), *f1_metrics(positive=1))
    return next(metric for metric in known if metric.name == name)


def _choice_rows(name: str, columns: Columns) -> Array:
    """Rows of log-likelihoods of choices."""
    found = zip(columns["predictions"], columns["choices"], columns["references"], strict=True)
    kept = [(np.array(ll), Document("", tuple(c), tuple(right), ())) for ll, c, right in found]
    return choice_rows(name, kept)


def _answer_rows(name: str, columns: Columns) -> Array:
    """Rows of generated answers."""
    documents = [Document("", (), (), tuple(targets)) for targets in columns["references"]]
    return answer_rows(MetricEntry(metric=name), list(columns["predictions"]), documents)


def _document_rows(_: str, columns: Columns) -> Array:
    """Rows of documents with their log-likelihoods in nats."""
    nll = -np.asarray(columns["loglikelihoods"], dtype=np.float64)
    return perplexity_rows(columns["predictions"], nll, columns["tokens"])


class Kind(NamedTuple):
    """What several metrics have in common."""

    inputs: Mapping[str, Any]
    """Column -> its type."""
    rows: Callable[[str, Columns], Array]
    metric: Callable[[str], Metric]


TEXT, NUMBER, WHOLE = Value("string"), Value("float64"), Value("int64")
CLASSES = Kind({"predictions": WHOLE, "references": WHOLE}, _class_rows, _class_metric)
CHOICES = Kind(
    {"predictions": Each(NUMBER), "choices": Each(TEXT), "references": Each(WHOLE)},
    _choice_rows,
    choice_metric,
)
"""Log-likelihood of each choice, the choices, the indices of the right ones."""
LIKELIHOODS = Kind(
    {"predictions": NUMBER},
    lambda name, columns: value_rows([-ll for ll in columns["predictions"]]),
    lambda name: LIKELIHOOD[name],
)
"""Log-likelihood of each whole answer."""
ANSWERS = Kind(
    {"predictions": TEXT, "references": Each(TEXT)},
    _answer_rows,
    lambda name: answer_metric(MetricEntry(metric=name)),
)
"""References: right answers, or the label safe or unsafe (refusal)."""
DOCUMENTS = Kind(
    {"predictions": TEXT, "loglikelihoods": NUMBER, "tokens": WHOLE},
    _document_rows,
    lambda name: next(metric for metric in perplexity_metrics() if metric.name == name),
)
MODULES: Mapping[str, Kind] = {
    **dict.fromkeys(("accuracy", "macro_f1", "binary_f1"), CLASSES),
    **dict.fromkeys(("acc", "acc_norm", "acc_bytes", "mc2", "brier_score", "ece"), CHOICES),
    "perplexity": LIKELIHOODS,
    **dict.fromkeys(METRICS["generate_until"], ANSWERS),
    **dict.fromkeys(METRICS["loglikelihood_rolling"], DOCUMENTS),
}
"""Metric -> what it reads."""


class AlignMetric(evaluate.Metric):  # type: ignore[misc]
    """One of `MODULES`, by its name as the configuration: `AlignMetric("squad_f1")`."""

    def _info(self) -> evaluate.MetricInfo:
        name = self.config_name
        if name not in MODULES:
            raise UserError(f"no metric is called {name!r}", allowed=nearest(name, list(MODULES)))
        kind = MODULES[name]
        return evaluate.MetricInfo(
            description=kind.metric(name).definition,
            citation="",
            inputs_description=", ".join(f"{key}: {value}" for key, value in kind.inputs.items()),
            features=datasets.Features(dict(kind.inputs)),
        )

    def _compute(self, **columns: Any) -> dict[str, Any]:
        kind = MODULES[self.config_name]
        metric = kind.metric(self.config_name)
        value = float(metric.combine(kind.rows(self.config_name, columns).sum(axis=0)))
        signature = {"signature": metric.signature} if metric.signature else {}
        return {self.config_name: value} | signature
