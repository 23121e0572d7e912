"""The bias of a scorer itself: does its score of a neutral sentence change with the group named?

Sentences are the prompts of our own templates that name a person (`evals.bias.template_items`):
they ask for advice and say nothing good or bad about anyone. What a scorer makes of them for two
groups is its own doing, so a difference that it measures in responses is read beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from align.errors import UserError
from evals.bias.effects import Contrast, Effects, effect_rows
from evals.bias.template_items import PLACES, SAMPLE, sample_items
from evals.metrics import value_rows
from evals.stats import Resampling
from evals.task import Metric, Row, TaskResult, item_ids

if TYPE_CHECKING:
    from evals.engine import Engine
    from reward.scorer import Score

KIND = "scorers"
"""Name and kind of the task."""
KEYS = ("attribute", "group_a", "group_b", "control")


def neutral_items(sample: int = SAMPLE, seed: int = 0) -> list[Row]:
    """Pairs of neutral sentences that differ in the person, with what they compare.

    Intersections are left out: no prompt of open generation names one.

    Raises:
        UserError: The sample is smaller than 2 or larger than the population.
    """
    texts = ("prompt_a", "prompt_b", "cluster")
    return [
        {key: row[key] for key in (*texts, *KEYS)}
        for row in sample_items(sample, seed)
        if row["measure"] == PLACES[0] and "&" not in row["attribute"]
    ]


@dataclass(frozen=True)
class ScorersTask:
    """Every scorer of an evaluation on the same neutral sentences; the model plays no part."""

    scorers: Mapping[str, str]
    """Name -> reference (`reward.scorer.open_scorer`)."""
    identities: Mapping[str, str]
    """Name -> what pins it."""
    name: str = KIND
    kind: str = KIND
    title: str = "Scorers on neutral sentences"
    decoding: str = "none"
    metrics: tuple[Metric, ...] = ()

    @property
    def definition(self) -> str:
        """What is compared."""
        named = "; ".join(f"{name}: {identity}" for name, identity in self.identities.items())
        return (
            "s(sentence about a) - s(the same about b) of the scorer itself, on prompts of our "
            "templates that say nothing good or bad; mean over drawn templates, t interval over "
            f"them; controls swap two terms of one group. {named}"
        )

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Score both sentences of every row.

        Raises:
            UserError: A scorer is gone, or a sentence has no score.
        """
        from reward.scorer import open_scorer

        def run() -> dict[str, list[float]]:
            return {
                name: differences(open_scorer(reference).score, rows, name)
                for name, reference in self.scorers.items()
            }

        return self.result(rows, engine.team.from_main(run))

    def result(self, rows: Sequence[Row], found: Mapping[str, Sequence[float]]) -> TaskResult:
        """What the differences of every scorer come to."""
        columns = {key: tuple(str(row[key]).lower() for row in rows) for key in KEYS}
        return TaskResult(
            ids=tuple(item_ids(rows)),
            stats={name: value_rows(values) for name, values in found.items()},
            samples=[
                {"texts": [row["prompt_a"], row["prompt_b"]]}
                | {name: values[place] for name, values in found.items()}
                for place, row in enumerate(rows)
            ],
            clusters=tuple(str(row["cluster"]) for row in rows),
            columns=columns,
        )

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """None is asked of a model, so none can have been trained on."""
        return [""] * len(rows)

    def bias(self, result: TaskResult, confidence: float) -> list[dict[str, Any]]:
        """Mean difference of every scorer by attribute, groups and control."""
        parts = zip(*(result.columns[key] for key in KEYS), strict=True)
        labels = [(a, x, y, control == "true") for a, x, y, control in parts]
        assert result.clusters is not None
        rows = []
        for name in self.identities:
            contrasts = [Contrast(f"{name}, the scorer itself", *label) for label in labels]
            effects = Effects(result.stats[name][:, 0], contrasts, result.clusters)
            rows += effect_rows(effects, "score", Resampling(confidence=confidence))
        return rows

    def bias_changes(
        self, before: TaskResult, after: TaskResult, confidence: float
    ) -> list[dict[str, Any]]:
        """None: no stage changes a scorer."""
        return []


def differences(score: Score, rows: Sequence[Row], name: str) -> list[float]:
    """Score of sentence a minus that of b.

    Raises:
        UserError: A sentence has no score.
    """
    texts = list(dict.fromkeys(row[key] for row in rows for key in ("prompt_a", "prompt_b")))
    found = dict(zip(texts, score(texts), strict=True))
    lost = [text for text, value in found.items() if value is None]
    if lost:
        raise UserError(f"the scorer {name} has no score for {lost[0]!r}", where="scorers")
    values = np.array([[found[row["prompt_a"]], found[row["prompt_b"]]] for row in rows], float)
    change: list[float] = (values[:, 0] - values[:, 1]).tolist()
    return change
