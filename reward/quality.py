"""How well a reward model judges a set of pairs, from its scores alone; and checks of the scoring.

Accuracy by subset beside chance and beside "the longer response wins" on the same pairs,
calibration, margins, ties, length. A tie counts as wrong in the accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import stats as distributions

from evals.multiplicity import benjamini_hochberg
from evals.significance import compare_proportions
from evals.stats import Array, Resampling, mean_estimate, proportion_estimate, without_interval
from reward import calibration
from reward.evaluate import SMALL, Pairs, length_correlation, pair_metrics, score_pairs
from reward.functions import RewardFunction

HISTOGRAM = 24
"""Bars of the distribution of margins."""
CHECKED = 8
"""Pairs that the checks score again."""


def quality(pairs: Pairs, by: Sequence[str], resampling: Resampling) -> dict[str, Any]:
    """All that one set of scored pairs says about a reward model.

    Args:
        pairs: Raw scores: the calibration is that of sigmoid(margin).
        by: Columns to split the accuracy by, where the pairs have them.
        resampling: Confidence, draws and seed.
    """
    margins, confidence = pairs.chosen - pairs.rejected, resampling.confidence
    return pair_metrics(pairs, resampling) | {
        "n": len(pairs.rows),
        "difference": asdict(
            compare_proportions(pairs.longer(), pairs.correct(), resampling.confidence)
        ),
        "p_chance": p_of_chance(pairs.correct()),
        "ties": asdict(proportion_estimate((margins == 0).astype(float), None, confidence)),
        "margins": histogram(margins),
        "length_correlation": asdict(length_correlation(pairs, resampling)),
        "calibration": calibrated(margins, resampling),
        "subsets": subsets(pairs, by, confidence),
    }


def p_of_chance(correct: Array) -> float:
    """Exact two-sided p of right verdicts (n,) by coin tosses."""
    return float(distributions.binomtest(int(correct.sum()), len(correct), 0.5).pvalue)


def histogram(margins: Array) -> dict[str, list[float]]:
    """Counts between equally spaced edges; 0 is always an edge."""
    top = float(np.abs(margins).max()) or 1.0
    width = 2 * top / HISTOGRAM
    edges = np.arange(np.floor(margins.min() / width), np.floor(margins.max() / width) + 2) * width
    counts, _ = np.histogram(margins, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def calibrated(margins: Array, resampling: Resampling) -> dict[str, Any]:
    """Reliability by bin, calibration error with what is expected of it, Brier score, log loss."""
    confidence = resampling.confidence
    found = calibration.expected(margins, resampling)
    return {
        "bins": calibration.reliability(margins, confidence),
        "ece": asdict(without_interval(calibration.ece_rows(margins), calibration.ece)),
        "ece_expected": found.ece,
        "p": found.p,
        "brier": asdict(mean_estimate(calibration.brier(margins), None, confidence)),
        "log_loss": asdict(mean_estimate(calibration.log_loss(margins), None, confidence)),
    }


def subsets(pairs: Pairs, by: Sequence[str], confidence: float) -> list[dict[str, Any]]:
    """Accuracy of every group of the columns, beside the length rule; q over all groups.

    Returns:
        column, group, n, accuracy, longer_wins, difference (of the two, paired), q, flag.
    """
    rows: list[dict[str, Any]] = []
    for column in by:
        names = [_text(row.get(column)) for row in pairs.rows]
        for group in sorted(set(names)) if set(names) != {"unknown"} else ():
            inside = np.array([name == group for name in names])
            right, longer = pairs.correct()[inside], pairs.longer()[inside]
            row = {
                "column": column,
                "group": group,
                "n": len(right),
                "accuracy": asdict(proportion_estimate(right, None, confidence)),
                "longer_wins": asdict(proportion_estimate(longer, None, confidence)),
                "difference": asdict(compare_proportions(longer, right, confidence)),
            }
            rows.append(row | {"flag": f"n < {SMALL}" if len(right) < SMALL else ""})
    q = benjamini_hochberg([row["difference"]["p"] for row in rows])
    return [row | {"q": value} for row, value in zip(rows, q, strict=True)]


def _text(value: Any) -> str:
    return "unknown" if value is None else str(value)


def checks(model: RewardFunction, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Score a few pairs again in other company: whatever changes, a score must not.

    Returns:
        pairs (scored again), and the largest change of a score when the pairs come in reverse
        order (`order`), with their sides swapped (`swapped`), with pairs repeated (`repeated`):
        each must be exactly 0; and one response at a time (`alone`), where padding may move the
        last digits. In units of the standard deviation of these scores.
    """
    some = list(rows[:CHECKED])
    first = score_pairs(model, some)
    back = score_pairs(model, some[::-1])
    sides = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in some]
    swapped = score_pairs(model, sides)
    twice = score_pairs(model, [*some[:3], *some, *some[:3]])
    single = [score_pairs(model, [row]) for row in some]
    alone = Pairs(
        some,
        np.concatenate([s.chosen for s in single]),
        np.concatenate([s.rejected for s in single]),
    )
    start = min(3, len(some))
    middle = slice(start, start + len(some))
    spread = float(np.concatenate([first.chosen, first.rejected]).std()) or 1.0
    return {
        "pairs": len(some),
        "order": _largest(first, back.chosen[::-1], back.rejected[::-1]) / spread,
        "swapped": _largest(first, swapped.rejected, swapped.chosen) / spread,
        "repeated": _largest(first, twice.chosen[middle], twice.rejected[middle]) / spread,
        "alone": _largest(first, alone.chosen, alone.rejected) / spread,
    }


def _largest(pairs: Pairs, chosen: Array, rejected: Array) -> float:
    """The largest change of a score."""
    changes = np.abs([pairs.chosen - chosen, pairs.rejected - rejected])
    return float(changes.max())
