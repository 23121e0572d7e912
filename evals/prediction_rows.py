"""Predictions of any classifier as labels, predictions, scores and groups.

A table has a label and a prediction, or a score, in each row, and columns of groups. A stored
classification task of `align eval` serves as well: its answers are the predictions, the positive
choice's share of the probability is the score.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from align.complaints import first_mistake
from align.config import SourceConfig
from align.config.base import Section
from align.data.readers import READERS, ending
from align.data.sources import DataContext, load_rows
from align.errors import UserError
from evals.bias.fairness import Classified
from evals.samples import SAMPLES, STATS
from evals.stored import RESULT
from evals.tasks.classification import usual_positive
from evals.tasks.grouping import cluster_column, group_columns


class PredictionColumns(Section):
    """What the columns of a table of predictions mean; each is set as `key=value`."""

    label: str = "label"
    """Column with the true class."""
    prediction: str | None = None
    """Column with the predicted class; default: `prediction`, where there is one."""
    score: str | None = None
    """Column with a number that is higher for the positive class; default: `score`, where there is
    one. Mitigations by thresholds need it."""
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Score from which a row counts as positive, in place of a prediction; default: its
    prediction, and 0.5 where there are none."""
    positive: str | None = None
    """The class whose rates are reported, the others being one; default: of two classes the one
    called positive, yes, true or 1."""
    cluster: str | None = None
    """Column whose equal values hang together, such as a person with several rows; default:
    `cluster`, where there is one."""
    features: str | None = None
    """Columns, separated by commas, that a classifier is trained on to show what a reduction does;
    default: none is trained."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns of `features`."""
        return tuple(name for name in (self.features or "").split(",") if name)


class Kept(NamedTuple):
    """Rows that can be judged."""

    rows: list[Mapping[str, Any]]
    labels: list[str]
    predictions: list[str]
    scores: list[float] | None


def is_predictions(subject: str) -> bool:
    """Whether a subject of `align audit` is a table, or a stored task."""
    path = Path(subject).expanduser()
    if path.is_dir():
        return (path / SAMPLES).is_file() and (path / STATS).is_file()
    return path.is_file() and ending(path) in READERS


def prediction_columns(settings: Sequence[str]) -> PredictionColumns:
    """The settings of a command line.

    Raises:
        UserError: One is no key=value, unknown or mistyped.
    """
    given = {}
    for text in settings:
        key, separator, value = text.partition("=")
        if not separator:
            allowed = ", ".join(f"{name}=..." for name in PredictionColumns.model_fields)
            raise UserError("not of the form key=value", where=text, allowed=allowed)
        given[key] = value
    try:
        return PredictionColumns.model_validate_strings(given)
    except ValidationError as error:
        key, what, allowed = first_mistake(error, PredictionColumns, given)
        raise UserError(what, where=key, allowed=allowed) from error


def read_predictions(
    subject: str, columns: PredictionColumns, groups: Sequence[str]
) -> tuple[list[dict[str, Any]], PredictionColumns, tuple[str, ...]]:
    """Rows of a table or of a stored task, with what their columns mean and their groups.

    Columns that are not set are those of the usual name; a stored task knows its own groups and
    positive class.

    Raises:
        UserError: The file is broken, no group is named, or a column is missing.
    """
    path, context = Path(subject).expanduser(), DataContext(root=None, world=None, seed=0)
    file = path / SAMPLES if path.is_dir() else path
    rows = load_rows(SourceConfig(path=str(file)), "table", context).rows
    if path.is_dir():
        rows, columns, groups = _stored_rows(rows, path, columns, groups)
    if not groups:
        raise UserError(
            "no groups to compare",
            where=subject,
            allowed=", ".join(rows[0]),
            remedy="name columns with --group",
        )
    have = {key for row in rows for key in row}
    usual: dict[str, Any] = {
        name: name
        for name in ("prediction", "score", "cluster")
        if getattr(columns, name) is None and name in have
    }
    columns = columns.model_copy(update=usual)
    if columns.prediction is None and columns.score is None:
        raise UserError(
            "neither predictions nor scores",
            where=subject,
            allowed=", ".join(sorted(have)),
            remedy="set prediction=COLUMN or score=COLUMN",
        )
    named = (columns.label, columns.prediction, columns.score, columns.cluster)
    _require(rows, [*groups, *filter(None, named), *columns.feature_names], subject)
    return rows, columns, tuple(groups)


def _stored_rows(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    columns: PredictionColumns,
    groups: Sequence[str],
) -> tuple[list[dict[str, Any]], PredictionColumns, Sequence[str]]:
    """Stored samples as rows: columns, label, prediction, cluster, and the positive one's score.

    Raises:
        UserError: The task is no classification with groups.
    """
    if not all(row.get("columns") and {"label", "response"} <= row.keys() for row in rows):
        raise UserError(
            "no labels, responses and groups in the stored task",
            where=str(path),
            allowed="a classification that was evaluated with groups",
        )
    first = dict(_spoken(rows[0]))
    content = json.loads((path / RESULT).read_text(encoding="utf-8"))
    positive = columns.positive or content.get("positive") or usual_positive(list(first))
    found = [_stored_row(row, positive) for row in rows]
    named = groups or tuple(rows[0]["columns"])
    return found, columns.model_copy(update={"positive": positive}), named


def _stored_row(row: Mapping[str, Any], positive: str | None) -> dict[str, Any]:
    """One stored sample; the score is the positive choice's share of two probabilities."""
    label, spoken = row["label"], dict(_spoken(row))
    found = {**row["columns"], "label": label[0] if isinstance(label, list) else label}
    found |= {"prediction": row["response"]}
    if "cluster" in row:
        found["cluster"] = row["cluster"]
    if len(spoken) == 2 and positive in spoken:
        (other,) = [value for key, value in spoken.items() if key != positive]
        found["score"] = 1 / (1 + math.exp(min(700.0, other - spoken[positive])))
    return found


def _spoken(row: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """Choices with their log-probabilities."""
    found = row.get("logprobs") or {}
    return zip(row["choices"], found, strict=True) if isinstance(found, list) else found.items()


def _require(rows: Sequence[Mapping[str, Any]], names: Sequence[str], where: str) -> None:
    """Every column is in some row.

    Raises:
        UserError: One is not.
    """
    known = dict.fromkeys(key for row in rows for key in row)
    lost = [name for name in names if name not in known]
    if lost:
        raise UserError(f"no column {', '.join(lost)}", where=where, allowed=", ".join(known))


def class_name(value: Any) -> str:
    """A class as text: 1 and 1.0 are the same one, true is `true`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def judged_rows(
    rows: Sequence[Mapping[str, Any]], columns: PredictionColumns, where: str
) -> tuple[Kept, Counter[str]]:
    """The rows that have a label and a prediction or score; the others are counted.

    Raises:
        UserError: No row is left.
    """
    guess, score = columns.prediction, columns.score
    missing: Counter[str] = Counter()
    kept = Kept([], [], [], None if score is None else [])
    for row in rows:
        number = None if score is None else row.get(score)
        if row.get(columns.label) in (None, ""):
            missing["no label"] += 1
        elif guess is not None and row.get(guess) in (None, ""):
            missing["no prediction"] += 1
        elif score is not None and not _is_number(number):
            missing["no finite score"] += 1
        else:
            kept.rows.append(row)
            kept.labels.append(class_name(row[columns.label]))
            if guess is not None:
                kept.predictions.append(class_name(row[guess]))
            if kept.scores is not None:
                kept.scores.append(float(number or 0))
    if not kept.rows:
        raise UserError(f"no row can be judged ({dict(missing)})", where=where)
    return kept, missing


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def classified(
    kept: Kept, columns: PredictionColumns, groups: Sequence[str], where: str
) -> Classified:
    """Labels, predictions and groups; with a positive class all other classes are one.

    Raises:
        UserError: The positive class is none of the classes, or scores need one.
    """
    classes = sorted({*kept.labels, *kept.predictions})
    positive = columns.positive or usual_positive(classes)
    if positive is None and {*classes} <= {"0", "1"}:
        positive = "1"
    if columns.positive is not None and positive not in classes:
        raise UserError(
            f"{positive!r} is no class", where=f"{where}: positive", allowed=", ".join(classes)
        )
    if positive is None and not kept.predictions:
        raise UserError(
            "scores need a positive class",
            where=where,
            allowed=", ".join(classes),
            remedy="set positive=CLASS",
        )
    labels, predictions = kept.labels, kept.predictions
    if positive is not None:
        others = [name for name in classes if name != positive]
        rest = others[0] if len(others) == 1 else f"not {positive}"
        labels = [name if name == positive else rest for name in labels]
        predictions = [name if name == positive else rest for name in predictions]
        if kept.scores is not None and (columns.threshold is not None or not predictions):
            cut = 0.5 if columns.threshold is None else columns.threshold
            predictions = [positive if score >= cut else rest for score in kept.scores]
    return Classified(
        labels=labels,
        predictions=predictions,
        groups=group_columns(kept.rows, groups, where),
        positive=positive,
        clusters=cluster_column(kept.rows, columns.cluster, where),
    )
