"""How far a task's numbers move when its questions are perturbed without a change of meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evals.evidence import find, is_number
from evals.report.layout import Cell, Row, Table
from evals.report.numbers import Scale, count
from evals.report.tables import (
    Entry,
    Ledger,
    difference_cell,
    difference_scale,
    q_values,
    scale_of,
)


def robustness_table(ledger: Ledger) -> Table:
    """A row a perturbation and metric, a column a stage: the paired change from the own items."""
    found = list(ledger.get("robustness") or ())
    stages = list(ledger.get("stages") or ())
    q = q_values([row["change"] for row in found])
    rows: list[Row] = []
    for task in dict.fromkeys(row["task"] for row in found):
        title = next((t.get("title") or task for t in find(ledger.get("tasks"), name=task)), task)
        rows.append(Row((Cell(title),), "heading"))
        own = find(found, task=task)
        for metric, kind in dict.fromkeys((row["metric"], row["perturbation"]) for row in own):
            levels = find(own, metric=metric, perturbation=kind)
            scale = scale_of([*levels, *_own(ledger, task, metric)], metric)
            by_stage = {row["stage"]: row for row in levels}
            cells = [_cell(by_stage.get(stage), scale, q) for stage in stages]
            rows.append(Row((Cell(metric), _kind_cell(kind, levels), *cells)))
    notes = (
        "Each cell: perturbed minus own, paired on the same items, with its interval; below it the "
        "perturbed number with its own. Changed: items whose question differs at all; the others "
        "dilute the difference. q: adjusted over all differences of this table.",
    )
    header = ("Metric", "Perturbation, items", *stages)
    empty = "No task was asked with perturbed questions (evals.tasks.NAME.perturb)."
    return Table("Perturbed questions", header, tuple(rows), empty, notes if rows else ())


def _own(ledger: Ledger, task: str, metric: str) -> list[Mapping[str, Any]]:
    """The task's own numbers."""
    return find(ledger.get("estimates"), task=task, metric=metric)


def _kind_cell(kind: str, levels: list[Mapping[str, Any]]) -> Cell:
    """What was done, to how many items."""
    items = " / ".join(dict.fromkeys(count(row.get("n")) for row in levels))
    shares = {row["changed"] for row in levels if is_number(row.get("changed"))}
    changed = " / ".join(f"{100 * share:.3g}%" for share in sorted(shares))
    return Cell(kind, (f"n {items}, {changed} changed",))


def _cell(row: Entry | None, scale: Scale, q: Mapping[int, float]) -> Cell:
    """The change of a stage, and where it came from."""
    if row is None:
        return difference_cell(None, scale, "none", None)
    change = row["change"]
    cell = difference_cell(
        change, difference_scale(change, scale), str(row.get("better")), q.get(id(change))
    )
    interval = scale.interval(row.get("low"), row.get("high"))
    note = f"perturbed {scale.value(row.get('value'))} {interval}"
    return replace(cell, notes=(*cell.notes, note))
