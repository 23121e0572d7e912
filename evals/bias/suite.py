"""What the likelihood suites have in common: texts to score, and signed measures of the scores.

A suite reads a public format into *items*: plain rows with the texts to score, the unit of
clustering, text labels and facts. One task scores the items of any suite; what a suite makes of the
log-likelihoods is a pure function. Texts are plain (no chat template), as in the suites' papers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from align.errors import UserError
from evals.bias.measures import Measure, Rate, changes, group_rates, levels
from evals.bias.scoring import Scored, score_items
from evals.requests import text_request
from evals.stats import Array, Resampling
from evals.task import Metric, Row, TaskResult, item_ids

if TYPE_CHECKING:
    from evals.engine import Engine

Facts = Sequence[Mapping[str, Any]]
Reader = Callable[[Sequence[Row], str], list[Row]]


@dataclass(frozen=True)
class Suite:
    """One suite: how its rows are read, and what its scores say."""

    kind: str
    title: str
    definition: str
    """Formula, and the validity faults that a reader must know."""
    read: Reader
    """Rows and their place for messages -> items (see `make_item`)."""
    stats: Callable[[Facts, Scored], dict[str, Array]]
    """Facts and scores of the items that could be scored -> rows of statistics."""
    metrics: tuple[Metric, ...]
    measures: tuple[Measure, ...]
    rates: tuple[Rate, ...] = ()


def make_item(
    asks: Sequence[tuple[str, str]], cluster: str | None, columns: Mapping[str, str], **facts: Any
) -> Row:
    """One item.

    Args:
        asks: (context, continuation) of every text to score, in the order the suite expects.
        cluster: Items that hang together; None where each stands alone.
        columns: Labels that results are split by, the same names for all items of a suite.
        facts: What the statistics need beside the scores.
    """
    asked = [list(ask) for ask in asks]
    return {"asks": asked, "cluster": cluster, "columns": dict(columns), "facts": facts}


def lost_item(reason: str, row: Row) -> Row:
    """An item that cannot be asked; it is counted as missing under this reason."""
    return {"asks": [], "reason": reason, "row": dict(row)}


def texts_of(row: Row, keys: Sequence[str], where: str, number: int) -> list[str]:
    """The texts in columns of a row.

    Raises:
        UserError: A column is missing or no text.
    """
    wrong = [key for key in keys if not isinstance(row.get(key), str)]
    if wrong:
        raise UserError(
            f"no text in column {', '.join(wrong)}",
            where=f"{where}, row {number}",
            allowed=", ".join(keys),
        )
    return [row[key] for key in keys]


@dataclass(frozen=True)
class SuiteTask:
    """A suite as a task."""

    name: str
    suite: Suite
    clusters: int | None = None
    """At most so many clusters, drawn whole; None: all."""
    seed: int = 1234
    """Of that draw."""
    decoding: str = "loglikelihood"

    @property
    def kind(self) -> str:
        """The suite's."""
        return self.suite.kind

    @property
    def title(self) -> str:
        """Heading in the report."""
        return self.suite.title

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The suite's numbers."""
        return self.suite.metrics

    @property
    def definition(self) -> str:
        """Formula and caveats, and what was drawn."""
        drawn = f". At most {self.clusters} whole clusters, drawn by seed {self.seed}"
        return self.suite.definition + (drawn if self.clusters else "")

    def items(self, rows: Sequence[Row]) -> list[Row]:
        """The items of rows in one of the suite's public formats.

        Raises:
            UserError: No rows, or one lacks what the suite needs.
        """
        if not rows:
            raise UserError("no rows", where=self.name)
        items = self.suite.read(rows, self.name)
        return items if self.clusters is None else draw_clusters(items, self.clusters, self.seed)

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Score the texts of every item.

        Raises:
            UserError: No item could be scored.
        """
        places = [place for place, row in enumerate(rows) if row["asks"]]
        missing = Counter(row["reason"] for row in rows if not row["asks"])
        if not places:
            raise UserError(f"no item could be scored ({dict(missing)})", where=self.name)
        requests = [
            [text_request(engine.tokenizer, *ask) for ask in rows[place]["asks"]]
            for place in places
        ]
        scored = score_items(engine, requests, self.name)
        ids, used = item_ids(rows), [places[place] for place in scored.places]
        kept = [rows[place] for place in used]
        together = kept[0]["cluster"] is not None
        return TaskResult(
            ids=tuple(ids[place] for place in used),
            stats=self.suite.stats([row["facts"] for row in kept], scored),
            samples=[_sample(*pair) for pair in zip(kept, scored.scores, strict=True)],
            clusters=tuple(row["cluster"] for row in kept) if together else None,
            columns={key: tuple(row["columns"][key] for row in kept) for key in kept[0]["columns"]},
            missing=dict(missing + Counter(scored.missing)),
        )

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """The first text of each item; the others differ from it in a few words."""
        return ["".join(row["asks"][0]) if row["asks"] else "" for row in rows]

    def bias(self, result: TaskResult, confidence: float) -> list[dict[str, Any]]:
        """The suite's signed measures."""
        return levels(result, self.suite.measures, Resampling(confidence=confidence))

    def bias_changes(
        self, before: TaskResult, after: TaskResult, confidence: float
    ) -> list[dict[str, Any]]:
        """Their changes, paired on the items."""
        return changes(before, after, self.suite.measures, Resampling(confidence=confidence))

    def groups(self, result: TaskResult, resampling: Resampling) -> list[dict[str, Any]]:
        """The suite's rates by group."""
        return group_rates(result, self.suite.rates, resampling)


def draw_clusters(items: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Items of at most `count` clusters, drawn whole, in their order; a lone item is a cluster."""
    names = [row.get("cluster") or f"item {place}" for place, row in enumerate(items)]
    order = np.random.default_rng(seed).permutation(sorted(set(names)))
    kept = set(order[:count].tolist())
    return [row for row, name in zip(items, names, strict=True) if name in kept]


def _sample(row: Row, scores: Array) -> dict[str, Any]:
    """What a reader checks of one item."""
    asks = ["".join(ask) for ask in row["asks"]]
    return {"texts": asks, "logprobs": scores.tolist(), **row["facts"]}
