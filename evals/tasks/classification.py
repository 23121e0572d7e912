"""Classification by choices: the answer with the highest summed log-probability is the prediction.

Accuracy is lm-evaluation-harness's `acc`; F1 is scikit-learn's. No normalisation by length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from align.config import TaskConfig
from align.errors import UserError
from evals.baselines import baseline_rows
from evals.bias.fairness import Classified
from evals.calibration import BRIER, ECE, brier, ece_rows
from evals.metrics import accuracy_metric, confusion_rows, f1_metrics, value_rows
from evals.stats import Array
from evals.task import Metric, Row, TaskResult, item_ids
from evals.tasks.asking import Question, column, require_items, require_scored
from evals.tasks.grouping import cluster_column, group_columns

if TYPE_CHECKING:
    from evals.engine import Engine

POSITIVE = ("positive", "yes", "true")
"""Of two choices the one of this name is the positive class, where the configuration names none."""


@dataclass(frozen=True)
class ClassificationTask:
    """Choose one of several answers to a question about each row."""

    name: str
    question: Question
    target: str
    choices: tuple[str, ...]
    group_columns: tuple[str, ...] = ()
    cluster: str | None = None
    """Column of items that hang together."""
    positive: str | None = None
    """The class of binary F1."""
    kind: str = "classification"
    decoding: str = "loglikelihood"

    @classmethod
    def from_config(cls, name: str, config: TaskConfig) -> ClassificationTask:
        """The task of a configuration.

        Raises:
            UserError: A field is missing, or the choices are no choices.
        """
        where = f"evals.tasks.{name}"
        if config.prompt is None or config.target is None or config.choices is None:
            raise UserError("classification needs prompt, target and choices", where=where)
        choices = config.choices
        if len(choices) < 2 or len(set(choices)) < len(choices) or not all(choices):
            raise UserError(
                f"choices are {list(choices)}", where=where, allowed="two or more different texts"
            )
        if config.positive is not None and config.positive not in choices:
            raise UserError(
                f"{config.positive!r} is none of the choices",
                where=f"{where}.positive",
                allowed=", ".join(choices),
            )
        question = Question(name, config.prompt, config.chat is not False)
        positive = config.positive or usual_positive(choices)
        columns = config.groups, config.cluster
        return cls(name, question, config.target, choices, *columns, positive)

    @property
    def title(self) -> str:
        """Heading in the report."""
        return f"Classification: {self.name}"

    @property
    def definition(self) -> str:
        """How an item is scored."""
        asked = "through the chat template" if self.question.chat else "as plain text"
        text = (
            f"Asked {asked}; prediction = argmax over {{{', '.join(self.choices)}}} of the summed "
            "log-probability of the answer given the question, without EOS or length "
            "normalisation (lm-evaluation-harness acc)"
        )
        return text if self.positive is None else f"{text}; positive class: {self.positive}"

    @property
    def group_positive(self) -> str | None:
        """The class of rates by group, which need two classes."""
        return self.positive if len(self.choices) == 2 else None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy, macro F1 and, with a positive class, its F1; then calibration."""
        index = None if self.positive is None else self.choices.index(self.positive)
        return (accuracy_metric(), *f1_metrics(positive=index), BRIER, ECE)

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """What the questions are about, without the template's words."""
        return [self.question.content(row, number) for number, row in enumerate(rows, start=1)]

    def label(self, row: Row, number: int) -> int:
        """The index of a row's label, which stands there as a choice's text or as its index.

        Raises:
            UserError: It is neither, or a number that could be both.
        """
        value = column(row, self.target, self.name, number)
        texts = [choice.strip() for choice in self.choices]
        if isinstance(value, str) and value.strip() in texts:
            return texts.index(value.strip())
        allowed = f"one of {', '.join(texts)}, or an index below {len(texts)}"
        where = f"task {self.name}, row {number}"
        if isinstance(value, str | int | float) and str(value) in texts:
            raise UserError(
                f"label {value!r} may be a choice or an index", where=where, allowed="text labels"
            )
        index = int(value) if str(value).isdigit() or isinstance(value, bool) else -1
        if not 0 <= index < len(texts):
            raise UserError(
                f"label {value!r} in column {self.target!r}", where=where, allowed=allowed
            )
        return index

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Score every choice of every row.

        Raises:
            UserError: A row lacks a column or has another label; no row could be scored.
        """
        require_items(rows, self.name)
        labels = [self.label(row, number) for number, row in enumerate(rows, start=1)]
        prompts = [self.question.text(row, number) for number, row in enumerate(rows, start=1)]
        groups = group_columns(rows, self.group_columns, self.name)
        clusters = cluster_column(rows, self.cluster, self.name)
        items = [
            [self.question.request(engine.tokenizer, prompt, choice) for choice in self.choices]
            for prompt in prompts
        ]
        flat = [request for requests in items for request in requests]
        scores = engine.loglikelihoods(flat).sums.reshape(len(rows), -1)
        scored = np.isfinite(scores).all(axis=1)
        places = [int(place) for place in np.flatnonzero(scored)]
        missing = Counter(
            next(filter(None, map(engine.problem, items[place])), "not finite")
            for place in np.flatnonzero(~scored)
        )
        require_scored(places, dict(missing), self.name)
        ids = item_ids(rows)
        answers = scores[places].argmax(axis=1)
        truth = [labels[place] for place in places]
        kept, gold = list(scores[places]), [(label,) for label in truth]
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats={
                "accuracy": value_rows((answers == truth).astype(np.float64)),
                "f1": confusion_rows(truth, answers.tolist(), len(self.choices)),
                "brier_score": value_rows([brier(*item) for item in zip(kept, gold, strict=True)]),
                "ece": ece_rows(kept, gold),
                **baseline_rows([self.choices] * len(places), gold),
            },
            samples=[
                self._sample(prompts[place], labels[place], scores[place]) for place in places
            ],
            clusters=None if clusters is None else tuple(clusters[p] for p in places),
            columns={name: tuple(names[p] for p in places) for name, names in groups.items()},
            missing=dict(missing),
        )

    def _sample(self, prompt: str, label: int, scores: Array) -> dict[str, Any]:
        """What a reader checks of one item."""
        answer = int(scores.argmax())
        return {
            "prompt": prompt,
            "response": self.choices[answer],
            "label": self.choices[label],
            "correct": answer == label,
            "logprobs": dict(zip(self.choices, scores.tolist(), strict=True)),
        }

    def classified(self, result: TaskResult) -> Classified | None:
        """Labels, predictions and groups; None where no groups are named."""
        if not self.group_columns:
            return None
        return Classified(
            labels=[sample["label"] for sample in result.samples],
            predictions=[sample["response"] for sample in result.samples],
            groups={name: result.columns[name] for name in self.group_columns},
            positive=self.group_positive,
            clusters=result.clusters,
        )


def usual_positive(choices: Sequence[str]) -> str | None:
    """The one of two choices that is called like a positive class; None where neither or both."""
    named = [choice for choice in choices if choice.strip().casefold() in POSITIVE]
    return named[0] if len(choices) == 2 and len(named) == 1 else None
