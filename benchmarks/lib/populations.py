"""Populations of evaluation items whose true metrics are known: what simulations draw from.

A population is a finite table: the rows of sufficient statistics that an item can have under two
models, side by side, and how often it has them. Its metrics are exact, so coverage is too.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from evals.calibration import ECE, ece_rows
from evals.metrics import bleu_metric, bleu_rows, confusion_rows, macro_f1, perplexity_metrics
from evals.significance import Pair
from evals.stats import Array, Combine

SENTENCES, WORDS = 2000, 1500
DOCUMENTS = QUESTIONS = 20_000


class Population(NamedTuple):
    """Items of one task under two models."""

    table: Array
    """(m, 2k) rows of the first and the second model."""
    chances: Array
    """(topics, m): how often an item of a topic is each of them; each row sums to 1."""
    combine: Combine

    def truth(self) -> tuple[float, float]:
        """The metric of the first and of the second model; topics are equally frequent."""
        before, after = np.split(self.chances.mean(axis=0) @ self.table, 2)
        return float(self.combine(before)), float(self.combine(after))

    def draw(self, generator: np.random.Generator, n: int) -> Pair:
        """`n` independent items of all topics."""
        chances = self.chances.mean(axis=0)
        rows = self.table[generator.choice(len(self.table), n, p=chances)]
        return Pair(*np.split(rows, 2, axis=1))

    def draw_clusters(self, generator: np.random.Generator, clusters: int) -> Pair:
        """Clusters of 1 + Poisson(7) items; all items of a cluster have one topic."""
        sizes = 1 + generator.poisson(7, clusters)
        topics = generator.integers(len(self.chances), size=clusters)
        items = len(self.table)
        chosen = [
            generator.choice(items, size, p=self.chances[topic])
            for size, topic in zip(sizes, topics, strict=True)
        ]
        labels = [str(label) for label in np.repeat(np.arange(clusters), sizes)]
        return Pair(*np.split(self.table[np.concatenate(chosen)], 2, axis=1), labels)


def exchange(pair: Pair, generator: np.random.Generator) -> Pair:
    """The pair with the models exchanged in items (or clusters) chosen by chance: the null."""
    labels = pair.clusters or [str(index) for index in range(len(pair.before))]
    names, index = np.unique(labels, return_inverse=True)
    swap = (generator.random(len(names)) < 0.5)[index][:, None]
    before = np.where(swap, pair.after, pair.before)
    return Pair(before, np.where(swap, pair.before, pair.after), pair.clusters)


@cache
def answers() -> Population:
    """Four classes of .4 to .1, accuracy .7 and .76, and 40 topics of different difficulty."""
    classes, kept = 4, 0.6
    labels = np.array([0.4, 0.3, 0.2, 0.1])
    cells = list(product(range(classes), repeat=3))
    label, first, second = (list(column) for column in zip(*cells, strict=True))
    table = np.concatenate(
        [confusion_rows(label, guess, classes) for guess in (first, second)], axis=1
    )
    generator, chances = np.random.default_rng(0), []
    for shift in generator.normal(0, 0.12, 40):
        before, after = (
            np.eye(classes) * right + (1 - right) / classes
            for right in np.clip([0.6 + shift, 0.68 + shift], 0, 1)
        )
        # The second model keeps the first one's answer, or gives one of its own.
        own = (1 - kept) * after[:, None, :] + kept * np.eye(classes)[None, :, :]
        joint = labels[:, None, None] * before[:, :, None] * own
        chances.append(joint.ravel())
    return Population(table, np.array(chances), macro_f1)


@cache
def documents() -> Population:
    """Documents of log-normal length (median 200 tokens, sd .8); longer ones are easier."""
    generator = np.random.default_rng(1)
    lengths = np.round(np.exp(generator.normal(np.log(200), 0.8, DOCUMENTS))) + 1
    hard = generator.normal(0, 0.45, DOCUMENTS)
    first = np.maximum(0.1, 3.3 - 0.15 * np.log(lengths / 200) + hard)
    second = np.maximum(0.1, first - 0.05 - 0.05 * hard + generator.normal(0, 0.12, DOCUMENTS))
    sizes = np.stack([lengths, lengths * 0.75, lengths * 4], axis=1)
    table = np.concatenate(
        [column for nll in (first, second) for column in ((nll * lengths)[:, None], sizes)], axis=1
    )
    return Population(table, _equal(DOCUMENTS), perplexity_metrics()[0].combine)


@cache
def choices() -> Population:
    """Questions with four choices, answered 1.2 and 1.8 times too sharply: calibration error."""
    generator = np.random.default_rng(4)
    scores = generator.normal(0, 1.5, (QUESTIONS, 4))
    # The right choice is drawn by the true probabilities: the largest of score + Gumbel noise.
    gold = [(int(right),) for right in (scores + generator.gumbel(size=scores.shape)).argmax(1)]
    rows = [ece_rows(list(sharpness * scores), gold) for sharpness in (1.2, 1.8)]
    return Population(np.concatenate(rows, axis=1), _equal(QUESTIONS), ECE.combine)


@cache
def sentences() -> Population:
    """Translations: Zipf's words, log-normal lengths, sentences of different quality; BLEU 42, 46.

    A word is lost, or replaced by another one, more often in a difficult sentence.
    """
    generator = np.random.default_rng(2)
    frequency = 1 / np.arange(1, WORDS + 1) ** 1.05
    frequency /= frequency.sum()
    words = np.array([f"w{number}" for number in range(WORDS)])
    lengths = np.clip(np.exp(generator.normal(2.8, 0.5, SENTENCES)), 3, 60).astype(int)
    difficulty = generator.beta(2, 3, SENTENCES)
    references = [generator.choice(words, length, p=frequency) for length in lengths]

    def translated(errors: float) -> list[str]:
        lines = []
        for reference, hard in zip(references, difficulty, strict=True):
            chance = generator.random(len(reference)) / max(errors * hard, 1e-9)
            other = generator.choice(words, len(reference), p=frequency)
            line = np.where(chance < 0.7, other, reference)[(chance < 0.7) | (chance > 0.85)]
            lines.append(" ".join(line))
        return lines

    texts = [" ".join(reference) for reference in references]
    rows = [bleu_rows(translated(errors), texts) for errors in (1.0, 0.9)]
    return Population(np.concatenate(rows, axis=1), _equal(SENTENCES), bleu_metric().combine)


def _equal(items: int) -> Array:
    """One topic in which all items are equally frequent."""
    return np.full((1, items), 1 / items)
