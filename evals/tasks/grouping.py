"""Columns of rows that the analysis reads beside question and answer: groups and clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from align.errors import UserError
from evals.bias.fairness import UNKNOWN, group_name
from evals.task import Row


def group_columns(rows: Sequence[Row], names: Sequence[str], task: str) -> dict[str, list[str]]:
    """Group of each row by attribute; a row without one belongs to `unknown`.

    Of a list (the groups a text is about) an empty one is unknown, and several are one group of
    their own, `black + women`.

    Raises:
        UserError: No row has the column.
    """
    for name in names:
        _require(rows, name, f"evals.tasks.{task}.groups", "group column")
    return {name: [_group(row.get(name)) for row in rows] for name in names}


def cluster_column(rows: Sequence[Row], name: str | None, task: str) -> list[str] | None:
    """Cluster of each row; a row without one stands alone. None where no column is named.

    Raises:
        UserError: No row has the column.
    """
    if name is None:
        return None
    _require(rows, name, f"evals.tasks.{task}.cluster", "cluster column")
    return [
        f"row {number}" if row.get(name) in (None, "") else str(row[name])
        for number, row in enumerate(rows, start=1)
    ]


def _group(value: Any) -> str:
    """The group that a cell names."""
    if isinstance(value, list):
        names = sorted({group_name(x) for x in value} - {UNKNOWN})
        return " + ".join(names) or UNKNOWN
    return group_name(value)


def _require(rows: Sequence[Row], name: str, where: str, what: str) -> None:
    if not any(name in row for row in rows):
        raise UserError(f"no row has the {what} {name!r}", where=where, allowed=", ".join(rows[0]))
