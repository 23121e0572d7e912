"""Perplexity of documents: the word, token and byte family from one log-likelihood a document.

Documents are the unit of resampling; perplexity is of the whole corpus, never a mean over lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from evals.metrics import perplexity_metrics, perplexity_rows
from evals.task import Metric, Row, TaskResult, item_ids
from evals.tasks.asking import column, require_items, require_scored

if TYPE_CHECKING:
    from evals.engine import Engine

SHOWN = 300
"""Characters of a document kept in the samples; its hash identifies it."""
COLUMNS = ("nll", "tokens", "words", "bytes")


@dataclass(frozen=True)
class PerplexityTask:
    """Log-likelihood of whole documents in the column `text`."""

    name: str
    kind: str = "perplexity"
    decoding: str = "loglikelihood of disjoint windows"
    metrics: tuple[Metric, ...] = field(default_factory=perplexity_metrics)
    definition: str = (
        "exp(negative log-likelihood of all documents / words, tokens or bytes), disjoint windows "
        "of the model's length, first token predicted from BOS, else EOS "
        "(lm-evaluation-harness word_perplexity, byte_perplexity, bits_per_byte)"
    )

    @property
    def title(self) -> str:
        """Heading in the report."""
        return f"Perplexity: {self.name}"

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """The documents."""
        return [
            str(column(row, "text", self.name, number)) for number, row in enumerate(rows, start=1)
        ]

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Score every document.

        Raises:
            UserError: A row has no text, or none could be scored.
        """
        require_items(rows, self.name)
        documents = self.texts(rows)
        scores = engine.rolling(documents)
        finite = np.isfinite(scores.sums)
        places = [int(place) for place in np.flatnonzero(finite)]
        empty = sum(not tokens for tokens in scores.tokens)
        counts = {"empty document": empty, "not finite": len(rows) - len(places) - empty}
        missing = {reason: int(count) for reason, count in counts.items() if count}
        require_scored(places, missing, self.name)
        texts, ids = [documents[place] for place in places], item_ids(rows)
        stats = perplexity_rows(texts, -scores.sums[places], scores.tokens[places])
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats={"perplexity": stats},
            samples=[
                {"text": text[:SHOWN], **dict(zip(COLUMNS, row, strict=True))}
                for text, row in zip(texts, stats.tolist(), strict=True)
            ],
            missing=missing,
        )
