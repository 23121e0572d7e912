"""The metrics as `evaluate` modules that work offline: `Accuracy().compute(predictions=...)`.

`evaluate.load("name")` downloads code; these are subclasses of `evaluate.Metric` with the same
arithmetic as the report. They return plain values; intervals come from `evals.stats`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from evals.metrics import (
    accuracy_metric,
    bleu_metric,
    bleu_rows,
    chrf_metric,
    chrf_rows,
    confusion_rows,
    macro_f1,
    perplexity_metrics,
    perplexity_rows,
    value_rows,
)


def _info(description: str, **features: str) -> evaluate.MetricInfo:
    """What evaluate wants to know of a metric: a description and the type of each input."""
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=", ".join(f"{name}: {kind}" for name, kind in features.items()),
        features=datasets.Features({k: datasets.Value(v) for k, v in features.items()}),
    )


class Accuracy(evaluate.Metric):  # type: ignore[misc]
    """Share of predictions (class numbers) that equal their reference."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(accuracy_metric().definition, predictions="int64", references="int64")

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        rows = value_rows(np.equal(predictions, references).astype(np.float64))
        return {"accuracy": float(accuracy_metric().combine(rows.sum(axis=0)))}


class MacroF1(evaluate.Metric):  # type: ignore[misc]
    """Mean F1 over the classes that occur."""

    def _info(self) -> evaluate.MetricInfo:
        text = "mean over the classes that occur of 2 tp / (2 tp + fp + fn)"
        return _info(text, predictions="int64", references="int64")

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        classes = int(max(*predictions, *references)) + 1
        rows = confusion_rows(list(references), list(predictions), classes)
        return {"macro_f1": float(macro_f1(rows.sum(axis=0)))}


class CorpusBleu(evaluate.Metric):  # type: ignore[misc]
    """Corpus BLEU by sacrebleu against one reference each, with its signature."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(bleu_metric().definition, predictions="string", references="string")

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        metric, rows = bleu_metric(), bleu_rows(predictions, references)
        return {"bleu": float(metric.combine(rows.sum(axis=0))), "signature": metric.signature}


class CorpusChrf(evaluate.Metric):  # type: ignore[misc]
    """Corpus chrF2 by sacrebleu against one reference each, with its signature."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(chrf_metric().definition, predictions="string", references="string")

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        metric, rows = chrf_metric(), chrf_rows(predictions, references)
        return {"chrf": float(metric.combine(rows.sum(axis=0))), "signature": metric.signature}


class Perplexity(evaluate.Metric):  # type: ignore[misc]
    """Perplexity family from documents, their summed log-likelihoods (nats) and token counts."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "; ".join(f"{metric.name} = {metric.definition}" for metric in perplexity_metrics()),
            predictions="string",
            loglikelihoods="float64",
            tokens="int64",
        )

    def _compute(
        self, predictions: Sequence[str], loglikelihoods: Sequence[float], tokens: Sequence[int]
    ) -> dict[str, float]:
        nll = -np.asarray(loglikelihoods, dtype=np.float64)
        total = perplexity_rows(predictions, nll, tokens).sum(axis=0)
        return {metric.name: float(metric.combine(total)) for metric in perplexity_metrics()}
