"""Audit of predictions of any classifier by group: `align audit TABLE --group COLUMN`.

No model is loaded. Where there are two classes and scores or features, fairlearn's mitigations show
what a smaller difference would cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.bias.disparity import group_differences, group_gaps
from evals.bias.fairness import Classified, group_table
from evals.bias.mitigation import Found, reduction_mitigations, threshold_mitigations
from evals.prediction_rows import (
    Kept,
    PredictionColumns,
    classified,
    judged_rows,
    read_predictions,
)
from evals.stats import Resampling

MINIMUM = 100
"""Items below which no mitigation is fitted: half of them are left to judge it."""


def audit_predictions(
    subject: str, columns: PredictionColumns, groups: Sequence[str], resampling: Resampling
) -> dict[str, Any]:
    """Every table of task fairness, and what mitigations change.

    Args:
        subject: A table, or the folder of a stored classification task.
        columns: What its columns mean.
        groups: Columns of groups.
        resampling: How intervals are made; its seed halves the items for the mitigations.

    Raises:
        UserError: No group is named, a column is missing, or no row can be judged.
    """
    rows, columns, groups = read_predictions(subject, columns, groups)
    kept, missing = judged_rows(rows, columns, subject)
    data = classified(kept, columns, groups, subject)
    found = _mitigations(data, kept, columns, resampling)
    return {
        "stages": [],
        "groups": group_table(data, resampling),
        "group_gaps": group_gaps(data, resampling),
        "group_differences": group_differences(data, resampling.confidence),
        "mitigations": found.rows,
        "notes": found.notes,
        "missing": dict(missing),
        "columns": columns.model_dump(),
        "positive": data.positive,
        "n": len(data.labels),
        "clusters": None if data.clusters is None else len(set(data.clusters)),
    }


def _mitigations(
    data: Classified, kept: Kept, columns: PredictionColumns, resampling: Resampling
) -> Found:
    """What the scores and features allow."""
    if kept.scores is None and not columns.feature_names:
        return Found([], ["No mitigation was tried: there are neither scores nor features."])
    units = len(data.labels if data.clusters is None else set(data.clusters))
    if data.positive is None or len(data.labels) < MINIMUM or units < 2:
        return Found([], [f"No mitigation was tried: it needs two classes and {MINIMUM} items."])
    found = Found([], [])
    if kept.scores is not None:
        scores = np.array(kept.scores, dtype=np.float64)
        found = threshold_mitigations(data, scores, resampling)
    if columns.feature_names:
        names = columns.feature_names
        features = [{name: row.get(name) for name in names} for row in kept.rows]
        reduced = reduction_mitigations(data, features, resampling)
        found = Found(found.rows + reduced.rows, found.notes + reduced.notes)
    return found
