"""The reward model's section of the ledger: does it judge well, by length, and alike for groups?

Accuracy stands beside the shortcut it must beat: the longer response (in characters) wins.
The audit asks the questions of `evals.bias` of the score, in units of the score's own spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from align.data.encoding import Prompt, response_text
from align.errors import UserError
from evals.bias.effects import Effects, effect_rows
from evals.bias.items import PARTS, check_items, contrast_of, contrast_values
from evals.significance import compare_proportions
from evals.stats import (
    Array,
    Estimate,
    Resampling,
    bootstrap,
    mean_estimate,
    proportion_estimate,
    wilson,
)
from reward.functions import RewardFunction

STAGE, UNIT = "reward", "sd of scores"
SMALL = 30
"""Rates over fewer pairs are flagged."""


@dataclass(frozen=True)
class Pairs:
    """Preference pairs and their scores."""

    rows: Sequence[Mapping[str, Any]]
    """prompt, chosen, rejected and further columns."""
    chosen: Array
    """(n,) scores."""
    rejected: Array
    """(n,) scores."""

    def correct(self) -> Array:
        """1 where the chosen response scores higher, else 0 (a tie is 0), (n,)."""
        return (self.chosen > self.rejected).astype(np.float64)

    def lengths(self) -> tuple[Array, Array]:
        """Characters of the chosen and of the rejected responses, (n,) each."""
        sides = (
            np.array([len(response_text(row[side])) for row in self.rows], dtype=np.float64)
            for side in ("chosen", "rejected")
        )
        chosen, rejected = sides
        return chosen, rejected

    def longer(self) -> Array:
        """1 where the chosen response is the longer one, else 0, (n,)."""
        chosen, rejected = self.lengths()
        return (chosen > rejected).astype(np.float64)

    def samples(self) -> list[dict[str, Any]]:
        """The pairs with their scores."""
        columns = zip(self.rows, self.chosen.tolist(), self.rejected.tolist(), strict=True)
        return [{**row, "score_chosen": c, "score_rejected": r} for row, c, r in columns]


def evaluate_reward(
    model: RewardFunction,
    scored: Pairs,
    bias_rows: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    groups: Sequence[str] = (),
    resampling: Resampling | None = None,
) -> dict[str, Any]:
    """Measure a reward model (or function) on held-out pairs and counterfactual items.

    Args:
        model: Raw or normalised scores; effects do not depend on which.
        scored: Held-out preference pairs with its scores (`score_pairs`).
        bias_rows: Task -> items in the counterfactual format.
        groups: Columns of the pairs to split the accuracy by, where a pair has them.
        resampling: Confidence, draws and seed.

    Returns:
        The ledger's `reward_model`; besides, `margin` and `groups` (rows as the ledger's).

    Raises:
        UserError: No pairs, items in another format, or scores without spread.
    """
    resampling = resampling or Resampling()
    if not scored.rows:
        raise UserError("no held-out pairs", where="reward", remedy="raise data.holdout")
    scores = np.concatenate([scored.chosen, scored.rejected])
    mean, std = float(scores.mean()), float(scores.std())
    if not std > 0:
        raise UserError("all scores are equal", where="reward", remedy="train it again")
    change = compare_proportions(scored.longer(), scored.correct(), resampling.confidence)
    rows = []
    for task, items in bias_rows.items():
        head = {"stage": STAGE, "task": task}
        rows += [head | row for row in audit_scores(model, items, std, task, resampling)]
    return pair_metrics(scored, resampling) | {
        "difference": asdict(change),
        "score_mean": mean,
        "score_std": std,
        "length_correlation": asdict(length_correlation(scored, resampling)),
        "groups": accuracy_by_group(scored, groups, resampling.confidence),
        "bias": rows,
    }


def score_pairs(model: RewardFunction, pairs: Sequence[Mapping[str, Any]]) -> Pairs:
    """Score both responses of every pair in one call."""
    prompts = [row["prompt"] for row in pairs]
    responses = [row[side] for side in ("chosen", "rejected") for row in pairs]
    scores = np.array(model([*prompts, *prompts], responses), dtype=np.float64)
    return Pairs(pairs, scores[: len(pairs)], scores[len(pairs) :])


def pair_metrics(pairs: Pairs, resampling: Resampling | None = None) -> dict[str, Any]:
    """Accuracy, the length shortcut on the same pairs, and the mean margin, as estimates."""
    confidence = (resampling or Resampling()).confidence
    margins = pairs.chosen - pairs.rejected
    return {
        "accuracy": asdict(proportion_estimate(pairs.correct(), confidence=confidence)),
        "longer_wins": asdict(proportion_estimate(pairs.longer(), confidence=confidence)),
        "margin": asdict(mean_estimate(margins, confidence=confidence)),
    }


def length_correlation(pairs: Pairs, resampling: Resampling) -> Estimate:
    """Pearson correlation of score and characters over all responses; pairs are the clusters."""
    score = np.concatenate([pairs.chosen, pairs.rejected])
    length = np.concatenate(pairs.lengths())
    # Correlation does not change with origin and unit; centring keeps the sums exact.
    score, length = score - score.mean(), length - length.mean()
    rows = np.stack(
        [np.ones_like(score), score, length, score**2, length**2, score * length], axis=1
    )
    clusters = [str(index) for index in [*range(len(pairs.rows))] * 2]
    return bootstrap(rows, pearson, clusters, resampling)


def pearson(sums: Array) -> Array:
    """Correlation from sums (..., 6) of [1, x, y, x^2, y^2, xy]; NaN without spread.

    r = (n sum xy - sum x sum y) / sqrt((n sum x^2 - (sum x)^2) (n sum y^2 - (sum y)^2))
    """
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
    out = np.full(spread.shape, np.nan)
    return np.asarray(np.divide(n * xy - x * y, np.sqrt(spread), out=out, where=spread > 0))


def accuracy_by_group(
    pairs: Pairs, groups: Sequence[str], confidence: float = 0.95
) -> list[dict[str, Any]]:
    """Accuracy of each group of the given columns, as rows of the ledger's `groups`."""
    correct = pairs.correct()
    rows = []
    for attribute in groups:
        values = [row.get(attribute) for row in pairs.rows]
        names = ["unknown" if value is None else str(value) for value in values]
        for group in sorted(set(names)):
            hits = correct[[name == group for name in names]]
            total, n = int(hits.sum()), len(hits)
            low, high = wilson(total, n, confidence)
            row: dict[str, Any] = {
                "stage": STAGE,
                "task": "pairs",
                "attribute": attribute,
                "group": group,
            }
            row |= {"metric": "accuracy", "value": total / n, "low": low, "high": high, "n": n}
            row |= {"numerator": total, "denominator": n}
            rows.append(row | {"flag": f"n < {SMALL}" if n < SMALL else ""})
    return rows


def audit_scores(
    model: RewardFunction,
    items: Sequence[Mapping[str, Any]],
    spread: float,
    task: str,
    resampling: Resampling,
) -> list[dict[str, Any]]:
    """Does the score change with the group? Two measures an item, in units of `spread`.

    The contrast [s(a, preferred) - s(a, dispreferred)] - [the same for b], under the item's own
    measure; and the plain difference s(a, preferred) - s(b, preferred), as `<measure>:score`.
    Items with a score that is not finite are left out; `n` of each row counts the others.

    Raises:
        UserError: Items in another format, or none that could be scored.
    """
    check_items(items, task)
    prompts = [_prompt(item, part[-1]) for item in items for part in PARTS]
    responses = [item[part] for item in items for part in PARTS]
    scores = np.array(model(prompts, responses), dtype=np.float64).reshape(-1, len(PARTS))
    finite = np.asarray(np.isfinite(scores).all(axis=1))
    if not finite.any():
        raise UserError("no item could be scored: every score is missing", where=task)
    kept = [item for item, keep in zip(items, finite, strict=True) if keep]
    return signed_rows(kept, scores[finite] / spread, resampling)


def signed_rows(
    items: Sequence[Mapping[str, Any]], parts: Array, resampling: Resampling
) -> list[dict[str, Any]]:
    """Both measures of `audit_scores` from scores (n, 4) in units, in the order of `PARTS`."""
    contrasts = [contrast_of(item) for item in items]
    plain = [c._replace(measure=f"{c.measure}:score") for c in contrasts]
    clusters = [str(item["cluster"]) for item in items]
    both = Effects(contrast_values(parts), contrasts, clusters)
    level = Effects(parts[:, 0] - parts[:, 2], plain, clusters)
    return [*effect_rows(both, UNIT, resampling), *effect_rows(level, UNIT, resampling)]


def _prompt(item: Mapping[str, Any], side: str) -> Prompt:
    """The item's prompt for one side, as a conversation or as plain text."""
    text: str = item[f"prompt_{side}"]
    return [{"role": "user", "content": text}] if item["render"] == "chat" else text
