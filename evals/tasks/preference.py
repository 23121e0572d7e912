"""Preference pairs judged by a reward model: a task whose scorer is not a language model.

Its rows serve `align compare`, which pairs two reward models on the same pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from align.data.encoding import response_text
from evals.metrics import mean_metric, value_rows
from evals.prompts import ScoreFunction
from evals.stats import Array
from evals.task import Metric, Row, TaskResult, item_ids
from evals.tasks.asking import require_items
from reward import calibration
from reward.evaluate import Pairs, score_pairs

if TYPE_CHECKING:
    from evals.engine import Engine

KIND = "preference"
SCORES = "scores"
"""Rows [score of the chosen, of the rejected response]."""
METRICS = (
    Metric(
        "accuracy",
        "accuracy",
        lambda sums: sums[..., 0] / sums[..., 1],
        "higher",
        "pairs whose chosen response scores higher / pairs; a tie is wrong",
        "proportion",
    ),
    mean_metric("brier", "brier", "lower", "mean of (1 - sigmoid(margin))^2"),
    Metric(
        "ece",
        "ece",
        calibration.ece,
        "lower",
        f"sum over {calibration.BINS} bins of (1/2, 1] of pairs/n |share of hits - mean "
        "probability|, probability = sigmoid(|margin|); too high for few pairs: no interval",
        kind="biased",
        signature=f"{calibration.BINS} bins of equal width",
    ),
)


@dataclass(frozen=True)
class PreferenceTask:
    """Score both responses of every pair."""

    reward: Callable[[], ScoreFunction]
    """Maker of the reward function; called when something is to be scored."""
    name: str
    by: tuple[str, ...] = ()
    """Columns that subsets are made of."""
    kind: str = KIND
    decoding: str = "reward scores"
    definition: str = "The response that scores higher is the model's choice."
    metrics: tuple[Metric, ...] = METRICS

    @property
    def title(self) -> str:
        """Heading in the report."""
        return f"Preference pairs: {self.name}"

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """The chosen responses."""
        return [response_text(row["chosen"]) for row in rows]

    def evaluate(self, engine: Engine | None, rows: Sequence[Row]) -> TaskResult:
        """Score every pair; no language model is asked.

        Raises:
            UserError: There are no pairs.
        """
        require_items(rows, self.name)
        scored = score_pairs(self.reward(), rows)
        margins = scored.chosen - scored.rejected
        names = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected")
        return TaskResult(
            ids=tuple(item_ids(rows)),
            stats={
                SCORES: np.stack([scored.chosen, scored.rejected], axis=1),
                "accuracy": value_rows(scored.correct()),
                "brier": value_rows(calibration.brier(margins)),
                "ece": calibration.ece_rows(margins),
            },
            samples=[{name: row[name] for name in names} for row in scored.samples()],
            columns={
                name: tuple(str(row.get(name, "unknown")) for row in rows)
                for name in self.by
                if any(name in row for row in rows)
            },
        )


def margins_of(result: TaskResult) -> Array:
    """Score of the chosen minus that of the rejected response, (n,)."""
    scores = result.stats[SCORES]
    return np.asarray(scores[:, 0] - scores[:, 1])


def pairs_of(result: TaskResult) -> Pairs:
    """The pairs with their scores and the columns of subsets, as they were scored."""
    columns = [
        {name: values[index] for name, values in result.columns.items()}
        for index in range(len(result.ids))
    ]
    rows = [{**sample, **own} for sample, own in zip(result.samples, columns, strict=True)]
    return Pairs(rows, *result.stats[SCORES].T)
