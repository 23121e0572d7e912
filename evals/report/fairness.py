"""Gaps over groups and their changes: between stages, and by a mitigation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.report.layout import Cell, Row, Table
from evals.report.numbers import MINUS, Scale, count, finite, number, tested
from evals.report.tables import Entry, Ledger

NAMES = {
    "selection_rate": "selection rate (demographic parity)",
    "true_positive_rate": "true positive rate (equal opportunity)",
    "equalized_odds": "equalised odds: the worse of both rates",
}
"""What a gap is called beside its metric."""
GAP_NOTES = (
    "Gap: largest minus smallest rate of the known groups; above 0 even for identical ones. p: of "
    "a gap this large when groups are assigned at random. Intervals hold all pairs at once.",
)
CHANGE_NOTES = (
    "After minus before on the same items. A gap's change has no interval, as a gap is above 0 by "
    "chance alone: the signed differences have. 'was largest': in the half for fitting.",
)
KINDS = ("gap", "rate", "difference")


def gap_table(ledger: Ledger) -> Table | None:
    """Gaps of every stage, task and attribute, where the ledger has them (`group_gaps`)."""
    rows = tuple(_gap_row(entry) for entry in ledger.get("group_gaps") or ())
    header = ("Rate", "Stage", "Groups", "n", "Gap", "Interval", "Ratio", "p, q")
    return Table("Gaps between groups", header, rows, "", GAP_NOTES) if rows else None


def change_table(ledger: Ledger) -> Table | None:
    """Changes between stages (`group_changes`): gaps and everyone's rates first."""
    entries = ledger.get("group_changes") or ()
    caption = "Changes between stages, by group"
    return changes(entries, caption, ("task", "before_stage", "after_stage"), folded=True)


def mitigation_tables(entries: Sequence[Entry]) -> list[Table]:
    """One table for each mitigation: what it gains, and what it costs."""
    keys = ("method", "constraint", "by")
    tables = []
    for key in dict.fromkeys(tuple(entry[k] for k in keys) for entry in entries):
        same = [entry for entry in entries if tuple(entry[k] for k in keys) == key]
        method, constraint, by = key
        caption = f"{method}, {constraint.replace('_', ' ')} by {by}"
        found = changes(same, caption, ())
        tables += [found] if found else []
    return tables


def changes(
    entries: Sequence[Entry], caption: str, head: Sequence[str], *, folded: bool = False
) -> Table | None:
    """Rows of `evals.bias.shifts`, gaps first."""
    ordered = sorted(entries, key=lambda entry: (_first(entry), KINDS.index(entry["kind"])))
    rows = tuple(_change_row(entry, head) for entry in ordered)
    header = ("Rate", "Groups", "n", "Before", "After", "Change", "Interval", "p, q")
    return Table(caption, header, rows, "", CHANGE_NOTES, folded) if rows else None


def _first(entry: Entry) -> bool:
    """Everyone's rates and the gaps stand before single groups."""
    first = entry["attribute"] == "everyone" or entry["kind"] == "gap" or entry.get("largest")
    return not first


def _label(entry: Entry) -> str:
    """The rate, its other name, and the attribute."""
    metric, by = str(entry["metric"]), entry["attribute"]
    shown = NAMES.get(metric, metric) if "groups" in entry or entry["kind"] == "gap" else metric
    return shown if by == "everyone" else f"{shown} by {by}"


def _gap_row(entry: Entry) -> Row:
    """One gap."""
    scale, flag = Scale([], percent=True), str(entry.get("flag") or "")
    ends = [entry.get(key) for key in ("ratio_low", "ratio_high")]
    task = f"{entry['task']}: " if entry.get("task") else ""
    cells = (
        Cell(task + _label(entry)),
        Cell(str(entry.get("stage") or "")),
        Cell(count(entry["groups"]), flags=(flag,) if flag else (), tone="warn", numeric=True),
        Cell(count(entry["n"]), numeric=True),
        Cell(scale.difference(entry["value"]), value=entry["value"], numeric=True),
        Cell(scale.interval(entry.get("low"), entry.get("high")), numeric=True),
        Cell(number(entry.get("ratio"), 3), (Scale([1.0]).interval(*ends),), numeric=True),
        Cell(tested(entry.get("p"), entry.get("q")), numeric=True),
    )
    return Row(cells)


def _change_row(entry: Entry, head: Sequence[str]) -> Row:
    """One change."""
    scale, flag = Scale([], percent=True), str(entry.get("flag") or "")
    mark = "was largest" if entry.get("largest") else ""
    before, after = entry.get("before"), entry.get("after")
    level: Any = scale.value if entry["kind"] == "rate" else scale.difference
    lead = [str(entry[key]) for key in head]
    label = ": ".join([*lead[:1], _label(entry)]) + (f", {' to '.join(lead[1:])}" if lead else "")
    cells = (
        Cell(label),
        Cell(_groups(entry), flags=tuple(filter(None, (flag, mark))), tone="warn"),
        Cell(count(entry.get("n")), numeric=True),
        Cell(level(before), value=finite(before), numeric=True),
        Cell(level(after), value=finite(after), numeric=True),
        Cell(scale.difference(entry.get("value")), value=finite(entry.get("value")), numeric=True),
        Cell(scale.interval(entry.get("low"), entry.get("high")), numeric=True),
        Cell(tested(entry.get("p"), entry.get("q")), numeric=True),
    )
    return Row(cells)


def _groups(entry: Entry) -> str:
    """Whose rate, whose difference, or the gap of all groups."""
    if entry["kind"] == "gap":
        return "largest gap"
    return (
        f"{entry['group_a']} {MINUS} {entry['group_b']}" if entry["group_b"] else entry["group_a"]
    )
