"""What needs no model: guessing, and always giving the same answer, on a task's own items.

An accuracy says little without them. Where every item has the same choices the constant answer is
the most frequent right one, counted on the items themselves; where choices differ there is none,
and the shortcut is the longest choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from evals.metrics import mean_metric, ratio, value_rows
from evals.task import Array, Metric

BASELINES = (
    mean_metric(
        "uniform_guess",
        "uniform_guess",
        "none",
        "mean over items of right choices / choices: the accuracy of a uniform guess",
    ),
    Metric(
        "majority_answer",
        "majority_answer",
        ratio,
        "none",
        "accuracy of always giving the answer that is right most often among these items",
        "proportion",
    ),
    mean_metric(
        "longest_choice",
        "longest_choice",
        "none",
        "accuracy of always taking the choice of most characters; of several one at random",
    ),
)
"""One of the last two, by the task's choices."""


def baseline_rows(
    choices: Sequence[Sequence[str]], gold: Sequence[Sequence[int]]
) -> dict[str, Array]:
    """Rows [right, 1] of each baseline that the items have.

    Args:
        choices: Texts to choose from, of each item.
        gold: Indices of the right ones, of each item.
    """
    pairs = list(zip(choices, gold, strict=True))
    rows = {"uniform_guess": value_rows([len(right) / len(texts) for texts, right in pairs])}
    if all(list(texts) == list(choices[0]) for texts in choices):
        counts = Counter(index for right in gold for index in right)
        most = min(counts, key=lambda index: (-counts[index], index))
        rows["majority_answer"] = value_rows([float(most in right) for right in gold])
    else:
        rows["longest_choice"] = value_rows([_longest(*pair) for pair in pairs])
    return rows


def _longest(texts: Sequence[str], right: Sequence[int]) -> float:
    """Share of right choices among the longest."""
    lengths = [len(text) for text in texts]
    longest = np.flatnonzero(np.equal(lengths, max(lengths)))
    return float(np.isin(longest, list(right)).mean())
