"""Metrics as rows of sufficient statistics: accuracy, F1, BLEU, chrF, TER, perplexity.

For each metric there is a function that makes the items' rows and a `Metric` that turns their sum
into the number, equal to scikit-learn's or sacrebleu's on the same data. sacrebleu's own functions
count the n-grams and compute the scores; nothing is re-implemented here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from evals.task import Array, Better, Metric

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU, CHRF, TER

_WORDS = re.compile(r"\s+")


def ratio(sums: Array, numerator: int = 0, denominator: int = 1, scale: float = 1.0) -> Array:
    """Column over column of sums (..., k), times `scale`; NaN where the denominator is 0."""
    below = sums[..., denominator]
    out = np.full(below.shape, math.nan)
    return cast("Array", scale * np.divide(sums[..., numerator], below, out=out, where=below != 0))


def value_rows(values: Sequence[float] | Array) -> Array:
    """Rows [value, 1] (n, 2) of a mean or a proportion."""
    column = np.asarray(values, dtype=np.float64)
    return np.stack([column, np.ones_like(column)], axis=1)


def spoken_rows(values: Array) -> Array:
    """Rows [value, 1] (n, 2) of a mean over the items that have a value; [0, 0] for NaN."""
    there = np.isfinite(values)
    return np.stack([np.where(there, values, 0.0), there.astype(np.float64)], axis=1)


def mean_metric(name: str, stat: str, better: Better, definition: str) -> Metric:
    """The mean of values; rows from `value_rows`."""
    return Metric(name, stat, ratio, better, definition, "mean")


def accuracy_metric(stat: str = "accuracy") -> Metric:
    """Share of correct items; rows [correct, 1]."""
    return Metric("accuracy", stat, ratio, "higher", "correct items / scored items", "proportion")


def confusion_rows(labels: Sequence[int], predictions: Sequence[int], classes: int) -> Array:
    """Rows [tp, fp, fn] a class, (n, 3 * classes), for the F1 family.

    Raises:
        ValueError: A label or prediction is not in range(classes).
    """
    rows = np.zeros((len(labels), classes, 3))
    for index, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
        if not (0 <= label < classes and 0 <= prediction < classes):
            raise ValueError(f"item {index}: label {label}, prediction {prediction} of {classes}")
        if label == prediction:
            rows[index, label, 0] = 1
        else:
            rows[index, prediction, 1] = 1
            rows[index, label, 2] = 1
    return rows.reshape(len(labels), 3 * classes)


def _class_f1(sums: Array) -> Array:
    """F1 = 2 tp / (2 tp + fp + fn) of each class, (..., classes); NaN for an absent class."""
    tp, fp, fn = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 3), -1, 0)
    below = 2 * tp + fp + fn
    out = np.full(below.shape, math.nan)
    return cast("Array", np.divide(2 * tp, below, out=out, where=below > 0))


def macro_f1(sums: Array) -> Array:
    """Mean F1 over the classes that occur as label or prediction (scikit-learn's default set)."""
    scores = _class_f1(sums)
    present = np.isfinite(scores)
    total = np.where(present, scores, 0.0).sum(axis=-1)
    return ratio(np.stack([total, present.sum(axis=-1).astype(np.float64)], axis=-1))


def micro_f1(sums: Array) -> Array:
    """2 sum tp / (2 sum tp + sum fp + sum fn); equals accuracy when every item has one label."""
    pooled = sums.reshape(*sums.shape[:-1], -1, 3).sum(axis=-2)
    return _class_f1(pooled)[..., 0]


def binary_f1(sums: Array, positive: int = 1) -> Array:
    """F1 of one class; 0 when it occurs nowhere, as scikit-learn's zero_division=0."""
    return cast("Array", np.nan_to_num(_class_f1(sums)[..., positive], nan=0.0))


def f1_metrics(stat: str = "f1", positive: int | None = None) -> tuple[Metric, ...]:
    """Macro F1, and binary F1 of the class `positive` where one is named."""
    macro = "mean over the classes that occur of 2 tp / (2 tp + fp + fn)"
    metrics = [Metric("macro_f1", stat, macro_f1, "higher", macro)]
    if positive is not None:
        text = f"2 tp / (2 tp + fp + fn) of class {positive}"
        combine = partial(binary_f1, positive=positive)
        signature = f"class {positive}"
        metrics.append(Metric("binary_f1", stat, combine, "higher", text, signature=signature))
    return tuple(metrics)


def _bleu() -> BLEU:
    """BLEU with sacrebleu's defaults: 13a tokenisation, mixed case, exponential smoothing."""
    from sacrebleu.metrics import BLEU

    # force: says nothing about texts that end in a full stop apart; the number is the same
    return BLEU(force=True)


def _chrf() -> CHRF:
    """chrF2 with sacrebleu's defaults: six character orders, beta 2, effective order."""
    from sacrebleu.metrics import CHRF

    return CHRF()


def _ter() -> TER:
    """TER with sacrebleu's defaults: tercom's tokens, any case, shifts allowed."""
    from sacrebleu.metrics import TER

    return TER()


def _statistics(scorer: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Array:
    """Count n-grams of each hypothesis and its one reference by sacrebleu, (n, k)."""
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    rows = scorer._extract_corpus_statistics(list(hypotheses), [list(references)])
    return np.asarray(rows, dtype=np.float64)


def bleu_rows(hypotheses: Sequence[str], references: Sequence[str]) -> Array:
    """Rows of BLEU, by sacrebleu: [lengths of both, 4 matches, 4 totals], (n, 10)."""
    return _statistics(_bleu(), hypotheses, references)


def chrf_rows(hypotheses: Sequence[str], references: Sequence[str]) -> Array:
    """Rows of chrF, by sacrebleu: n-grams of [hypothesis, reference, both] an order, (n, 18)."""
    return _statistics(_chrf(), hypotheses, references)


def ter_rows(hypotheses: Sequence[str], references: Sequence[str]) -> Array:
    """Rows of TER, by sacrebleu: [edits, words of the reference], (n, 2)."""
    return _statistics(_ter(), hypotheses, references)


def _score(sums: Array, scorer: Callable[[], Any]) -> Array:
    """Apply sacrebleu's own formula to each sum (..., k); scores in 0-100."""
    computer = scorer()
    flat = sums.reshape(-1, sums.shape[-1])
    scores = [computer._compute_score_from_stats(row.tolist()).score for row in flat]
    return np.asarray(scores, dtype=np.float64).reshape(sums.shape[:-1])


def _signature(scorer: Any) -> str:
    """Signature by sacrebleu of a metric with one reference an item."""
    scorer.num_refs = 1
    return str(scorer.get_signature())


def bleu_metric(stat: str = "bleu") -> Metric:
    """Corpus BLEU, equal to `sacrebleu.corpus_bleu`."""
    text = "100 BP exp(mean of ln p_1..p_4), n-gram precisions p of the whole corpus"
    combine = partial(_score, scorer=_bleu)
    return Metric("bleu", stat, combine, "higher", text, signature=_signature(_bleu()))


def chrf_metric(stat: str = "chrf") -> Metric:
    """Corpus chrF2, equal to `sacrebleu.corpus_chrf`."""
    text = "100 F_2 of character n-gram precision and recall, n = 1..6, of the whole corpus"
    combine = partial(_score, scorer=_chrf)
    return Metric("chrf", stat, combine, "higher", text, signature=_signature(_chrf()))


def ter_metric(stat: str = "ter") -> Metric:
    """Corpus TER, equal to `sacrebleu.corpus_ter`."""
    text = "100 edits (insert, delete, replace, shift) / words of the references"
    combine = partial(_score, scorer=_ter)
    return Metric("ter", stat, combine, "lower", text, signature=_signature(_ter()))


def count_words(text: str) -> int:
    r"""Words as lm-evaluation-harness counts them: len(re.split(r"\s+", text))."""
    return len(_WORDS.split(text))


def perplexity_rows(texts: Sequence[str], nll: ArrayLike, tokens: ArrayLike) -> Array:
    """Rows [nll, tokens, words, bytes] a document, (n, 4); nll in nats, summed over tokens."""
    sizes = [(count_words(text), len(text.encode("utf-8", "surrogatepass"))) for text in texts]
    words, lengths = np.asarray(sizes, dtype=np.float64).reshape(-1, 2).T
    columns = [np.asarray(nll, np.float64), np.asarray(tokens, np.float64), words, lengths]
    return np.stack(columns, axis=1)


def _exp_ratio(sums: Array, denominator: int) -> Array:
    """exp(nll / unit); infinite where the double overflows."""
    with np.errstate(over="ignore"):
        return cast("Array", np.exp(ratio(sums, 0, denominator)))


def perplexity_metrics(stat: str = "perplexity") -> tuple[Metric, ...]:
    """Word, token and byte perplexity and bits per byte from the same four columns."""
    bits = partial(ratio, numerator=0, denominator=3, scale=1 / math.log(2))
    named: list[tuple[str, Callable[[Array], Array], str]] = [
        (
            "word_perplexity",
            partial(_exp_ratio, denominator=2),
            r"exp(total nll / words), words = len(re.split(r'\s+', document))",
        ),
        (
            "token_perplexity",
            partial(_exp_ratio, denominator=1),
            "exp(total nll / tokens); comparable only between models with one tokenizer",
        ),
        (
            "byte_perplexity",
            partial(_exp_ratio, denominator=3),
            "exp(total nll / UTF-8 bytes)",
        ),
        ("bits_per_byte", bits, "total nll / UTF-8 bytes / ln 2"),
    ]
    return tuple(
        Metric(name, stat, combine, "lower", text, "positive") for name, combine, text in named
    )
