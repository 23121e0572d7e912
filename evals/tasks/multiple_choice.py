"""Multiple choice by definition: which of a row's answers the model finds likeliest.

acc, acc_norm and acc_bytes are lm-evaluation-harness's: the summed log-probability of a choice, as
it is, a character, or a UTF-8 byte of the choice without its delimiter. mc2 is TruthfulQA's (Lin
2021, 2109.07958). A row may have any number of choices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from align.errors import UserError
from evals.baselines import baseline_rows
from evals.bias.fairness import Classified
from evals.calibration import BRIER, ECE, brier, ece_rows, probabilities
from evals.documents import Document
from evals.metrics import confusion_rows, f1_metrics, mean_metric, ratio, value_rows
from evals.shots import Asked, shown
from evals.task import Array, Metric, Row, TaskResult, item_ids
from evals.tasks.asking import require_items, require_scored
from evals.tasks.classification import usual_positive
from evals.tasks.grouping import cluster_column, group_columns

if TYPE_CHECKING:
    from evals.engine import Engine


def acc(scores: Array, document: Document) -> float:
    """1 if the choice of highest ll is right."""
    return float(int(scores.argmax()) in document.gold)


def acc_norm(scores: Array, document: Document) -> float:
    """1 if the choice of highest ll a character is right."""
    return acc(scores / [len(choice) for choice in document.choices], document)


def acc_bytes(scores: Array, document: Document) -> float:
    """1 if the choice of highest ll a UTF-8 byte is right."""
    sizes = [len(choice.encode("utf-8", "surrogatepass")) for choice in document.choices]
    return acc(scores / sizes, document)


def mc2(scores: Array, document: Document) -> float:
    """Share of the probability of all choices that the right ones have together."""
    return float(probabilities(scores)[list(document.gold)].sum())


HITS: dict[str, tuple[Callable[[Array, Document], float], str]] = {
    "acc": (acc, "items whose choice of highest summed log-probability ll is right / items"),
    "acc_norm": (acc_norm, "as acc, ll divided by the choice's length in characters"),
    "acc_bytes": (acc_bytes, "as acc, ll divided by the choice's length in UTF-8 bytes"),
}
"""0/1 an item."""
MEANS: dict[str, tuple[Callable[[Array, Document], float], Metric]] = {
    "mc2": (
        mc2,
        mean_metric(
            "mc2",
            "mc2",
            "higher",
            "mean of sum exp(ll) over the right choices / sum exp(ll) over all",
        ),
    ),
    "brier_score": (lambda scores, document: brier(scores, document.gold), BRIER),
}
"""A number an item."""


@dataclass(frozen=True)
class MultipleChoiceTask(Asked):
    """Choose one of several answers to a question about each row."""

    group_columns: tuple[str, ...] = ()
    """Columns by whose values rates are compared."""
    cluster: str | None = None
    """Column of items that hang together."""
    kind: str = "multiple_choice"
    decoding: str = "loglikelihood"

    @property
    def title(self) -> str:
        """Heading in the report."""
        return f"Multiple choice: {self.name}"

    @property
    def definition(self) -> str:
        """How an item is scored."""
        asking = self.asking
        return (
            f"{asking.definition.task}, asked {asking.manner}; each choice is scored by the summed "
            "log-probability ll of its tokens given the question, without EOS"
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The definition's numbers."""
        return tuple(choice_metric(entry.metric) for entry in self.asking.definition.metric_list)

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Score every choice of every row.

        Raises:
            UserError: A row cannot be rendered, or none could be scored.
        """
        require_items(rows, self.name)
        asking = self.asking
        documents = asking.documents(rows)
        self._check_classes(documents)
        prompts = asking.prompts(rows, documents)
        groups = group_columns(rows, self.group_columns, self.name)
        clusters = cluster_column(rows, self.cluster, self.name)
        items = [
            [asking.request(engine.tokenizer, prompt, asking.answer(x)) for x in document.choices]
            for prompt, document in zip(prompts, documents, strict=True)
        ]
        flat = engine.loglikelihoods([request for item in items for request in item]).sums
        scores = np.split(flat, np.cumsum([len(item) for item in items])[:-1])
        places, missing = [], Counter[str]()
        for place, document in enumerate(documents):
            if not all(document.choices):
                missing["empty choice"] += 1
            elif np.isfinite(scores[place]).all():
                places.append(place)
            else:
                reasons = filter(None, map(engine.problem, items[place]))
                missing[next(reasons, "not finite")] += 1
        require_scored(places, dict(missing), self.name)
        ids = item_ids(rows)
        kept = [(scores[place], documents[place]) for place in places]
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats=self._stats(kept),
            samples=[_sample(shown(prompts[p]), documents[p], scores[p]) for p in places],
            clusters=None if clusters is None else tuple(clusters[p] for p in places),
            columns={name: tuple(names[p] for p in places) for name, names in groups.items()},
            missing=dict(missing),
        )

    def classified(self, result: TaskResult) -> Classified | None:
        """Labels, predictions and groups; None where no groups are named.

        Where choices vary or several are right, classes mean nothing and accuracy alone counts.
        """
        if not self.group_columns:
            return None
        samples = result.samples
        same = all(
            list(sample["choices"]) == list(samples[0]["choices"]) and len(sample["label"]) == 1
            for sample in samples
        )
        return Classified(
            labels=[sample["label"][0] if same else True for sample in samples],
            predictions=[sample["response"] if same else sample["correct"] for sample in samples],
            groups={name: result.columns[name] for name in self.group_columns},
            positive=usual_positive(samples[0]["choices"]) if same else None,
            clusters=result.clusters,
            same_classes=same,
        )

    def _check_classes(self, documents: Sequence[Document]) -> None:
        """F1 needs the same choices in every row, and one right answer.

        Raises:
            UserError: They differ.
        """
        wanted = {entry.metric for entry in self.asking.definition.metric_list} & {"f1", "macro_f1"}
        for number, document in enumerate(documents, start=1):
            same = document.choices == documents[0].choices and len(document.gold) == 1
            if wanted and not same:
                raise UserError(
                    f"{min(wanted)} with choices {list(document.choices)}",
                    where=f"task {self.name}, row {number}",
                    allowed="the choices of the first row, one of them right",
                )

    def _stats(self, kept: Sequence[tuple[Array, Document]]) -> dict[str, Array]:
        """Rows of every number, and of the baselines."""
        names = [entry.metric for entry in self.asking.definition.metric_list]
        documents = [document for _, document in kept]
        return {choice_metric(name).stat: choice_rows(name, kept) for name in names} | (
            baseline_rows([d.choices for d in documents], [d.gold for d in documents])
        )


def choice_rows(name: str, kept: Sequence[tuple[Array, Document]]) -> Array:
    """Rows of one number from log-likelihoods (C,) of the choices and their items."""
    if name in ("f1", "macro_f1"):
        truth = [document.gold[0] for _, document in kept]
        answers = [int(scores.argmax()) for scores, _ in kept]
        return confusion_rows(truth, answers, len(kept[0][0]))
    if name == ECE.name:
        return ece_rows([scores for scores, _ in kept], [document.gold for _, document in kept])
    score = HITS[name][0] if name in HITS else MEANS[name][0]
    return value_rows([score(*item) for item in kept])


def choice_metric(name: str) -> Metric:
    """A number by its name in the definition."""
    if name in HITS:
        return Metric(name, name, ratio, "higher", HITS[name][1], "proportion")
    if name in MEANS:
        return MEANS[name][1]
    if name == ECE.name:
        return ECE
    macro, binary = f1_metrics("confusion", positive=1)
    found = binary if name == "f1" else macro
    return Metric(name, "confusion", found.combine, "higher", found.definition)


def _sample(prompt: str, document: Document, scores: Array) -> dict[str, Any]:
    """What a reader checks of one item."""
    answer = int(scores.argmax())
    return {
        "prompt": prompt,
        "response": document.choices[answer],
        "label": list(document.targets),
        "correct": answer in document.gold,
        "choices": list(document.choices),
        "logprobs": scores.tolist(),
    }
