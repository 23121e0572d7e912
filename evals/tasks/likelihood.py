"""Log-likelihood by definition: of an answer after its question, and of whole documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from evals.metrics import perplexity_metrics, perplexity_rows, ratio, value_rows
from evals.shots import Asked, shown
from evals.task import Array, Metric, Row, TaskResult, item_ids
from evals.tasks.asking import require_items, require_scored
from evals.tasks.perplexity import COLUMNS, SHOWN
from evals.templates import render_text

if TYPE_CHECKING:
    from evals.engine import Engine


def _exp_mean(sums: Array) -> Array:
    """exp(sum of nll / items)."""
    with np.errstate(over="ignore"):
        return cast("Array", np.exp(ratio(sums)))


METRICS = {
    "acc": Metric(
        "acc",
        "acc",
        ratio,
        "higher",
        "items of whose answer every token is the likeliest one / items",
        "proportion",
    ),
    "perplexity": Metric(
        "perplexity",
        "perplexity",
        _exp_mean,
        "lower",
        "exp(mean over items of the negative log-probability of the whole answer)",
    ),
}


@dataclass(frozen=True)
class LoglikelihoodTask(Asked):
    """The log-probability of one given answer, such as LAMBADA's last word."""

    kind: str = "loglikelihood"
    decoding: str = "loglikelihood"

    @property
    def title(self) -> str:
        """Heading in the report."""
        return f"Likelihood: {self.name}"

    @property
    def definition(self) -> str:
        """How an item is scored."""
        asking = self.asking
        return (
            f"{asking.definition.task}, asked {asking.manner}; summed log-probability of the "
            "answer given the question, without EOS"
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The definition's numbers."""
        return tuple(METRICS[entry.metric] for entry in self.asking.definition.metric_list)

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Score every row's answer.

        Raises:
            UserError: A row cannot be rendered, or none could be scored.
        """
        require_items(rows, self.name)
        asking = self.asking
        documents = asking.documents(rows)
        prompts = asking.prompts(rows, documents)
        # As in lm-evaluation-harness the answer brings its own delimiter.
        answers = [document.targets[0] for document in documents]
        requests = [
            asking.request(engine.tokenizer, prompt, answer)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        scores = engine.loglikelihoods(requests)
        finite = np.isfinite(scores.sums)
        places = [int(place) for place in np.flatnonzero(finite)]
        missing = Counter(
            engine.problem(requests[place]) or "not finite" for place in np.flatnonzero(~finite)
        )
        require_scored(places, dict(missing), self.name)
        ids, sums, greedy = item_ids(rows), scores.sums[places], scores.greedy[places]
        stats = {"acc": value_rows(greedy.astype(np.float64)), "perplexity": value_rows(-sums)}
        names = [entry.metric for entry in asking.definition.metric_list]
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats={name: stats[name] for name in names},
            samples=[
                {
                    "prompt": shown(prompts[place]),
                    "response": answers[place],
                    "logprob": float(scores.sums[place]),
                    "greedy": bool(scores.greedy[place]),
                }
                for place in places
            ],
            missing=dict(missing),
        )


@dataclass(frozen=True)
class RollingTask(Asked):
    """Perplexity of whole documents."""

    kind: str = "loglikelihood_rolling"
    decoding: str = "loglikelihood of disjoint windows"

    @property
    def title(self) -> str:
        """Heading in the report."""
        return f"Perplexity: {self.name}"

    @property
    def definition(self) -> str:
        """How an item is scored."""
        return (
            f"{self.asking.definition.task}: log-likelihood of whole documents in disjoint windows "
            "of the model's length, first token predicted from BOS, else EOS"
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The definition's numbers."""
        known = {metric.name: metric for metric in perplexity_metrics()}
        return tuple(known[entry.metric] for entry in self.asking.definition.metric_list)

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Score every document.

        Raises:
            UserError: A row cannot be rendered, or none could be scored.
        """
        require_items(rows, self.name)
        documents = [document.targets[0] for document in self.asking.documents(rows)]
        counted = self._counted(rows, documents)
        scores = engine.rolling(documents)
        places = [int(place) for place in np.flatnonzero(np.isfinite(scores.sums))]
        empty = sum(not tokens for tokens in scores.tokens)
        counts = {"empty document": empty, "not finite": len(rows) - len(places) - empty}
        missing = {reason: int(count) for reason, count in counts.items() if count}
        require_scored(places, missing, self.name)
        ids = item_ids(rows)
        texts = [counted[place] for place in places]
        stats = perplexity_rows(texts, -scores.sums[places], scores.tokens[places])
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats={"perplexity": stats},
            samples=[
                {"text": documents[place][:SHOWN], **dict(zip(COLUMNS, row, strict=True))}
                for place, row in zip(places, stats.tolist(), strict=True)
            ],
            missing=missing,
        )

    def _counted(self, rows: Sequence[Row], documents: list[str]) -> list[str]:
        """Texts whose words and bytes count."""
        source = self.asking.definition.doc_to_count
        if source is None:
            return documents
        return [
            render_text(source, row, f"task {self.name}, row {number}, doc_to_count")
            for number, row in enumerate(rows, start=1)
        ]
