"""Rates by group: n, numerator, denominator, rate, ratio to the highest rate, interval.

The columns are those of a bias audit under NYC Local Law 144 (6 RCNY 5-301). No group is left out:
small ones are flagged, and where a ratio would mislead it is withheld and the reason stands in its
place - the group is under 2% of the items, or it collects those whose membership is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.bias.fairness import NAMELESS
from evals.evidence import find, is_number
from evals.report.layout import Cell, Row, Table
from evals.report.numbers import MINUS, Scale, count, finite, is_proportion, tested
from evals.report.tables import Entry, Ledger, amount, scale_of

SMALL = 30
"""Items below which a group's rate is flagged."""
TINY = 0.02
"""Share of the items below which a group's ratio is withheld (6 RCNY 5-301(d))."""
FOUR_FIFTHS = 0.8
"""Ratio below which a row is marked: a screening rule of thumb (29 CFR 1607.4(D)), no limit."""
HEADER = (
    "Group",
    "n",
    "Share of items",
    "Numerator",
    "Denominator",
    "Rate",
    "Interval",
    "Ratio to highest",
)


def group_tables(ledger: Ledger) -> list[Table]:
    """One table a stage, the last stage first; earlier stages are folded."""
    groups = ledger.get("groups") or ()
    stages = [stage for stage in reversed(ledger.get("stages") or ()) if find(groups, stage=stage)]
    tables = [
        group_table(find(groups, stage=stage), f"Rates by group, stage {stage}", index > 0)
        for index, stage in enumerate(stages)
    ]
    empty = "No rates by group were measured: no task names group columns."
    return tables or [Table("Rates by group", HEADER, (), empty)]


def group_table(entries: Sequence[Entry], caption: str, folded: bool = False) -> Table:
    """The rows of one stage, a block a task, metric and attribute."""
    rows: list[Row] = []
    keys = ("task", "metric", "attribute")
    for key in dict.fromkeys(tuple(entry.get(k) for k in keys) for entry in entries):
        same = find(entries, **dict(zip(keys, key, strict=True)))
        rows.append(Row((Cell(_subject(same[0])),), "heading"))
        rows += _block(same, key[1])
    notes = (
        f"Ratio to highest: the group's rate over the highest rate among groups that have a ratio. "
        f"Withheld for groups under {100 * TINY:g}% of the items and for unknown membership. "
        f"Ratios below {FOUR_FIFTHS:g} are marked as a screening aid (four-fifths rule of thumb); "
        "whether a gap is a difference is said by the intervals, not by the ratio.",
    )
    return Table(caption, HEADER, tuple(rows), "", notes, folded)


def _subject(entry: Entry) -> str:
    """Task, where there is one, metric and attribute."""
    task = f"{entry['task']}: " if entry.get("task") else ""
    return f"{task}{entry.get('metric')} by {entry.get('attribute')}"


def _block(same: Sequence[Entry], metric: Any) -> list[Row]:
    """The rows of one metric and attribute."""
    total = sum(entry.get("n") or 0 for entry in same)
    scale = scale_of(same, str(metric))
    scale.percent = scale.percent or is_proportion("rate", [entry.get("value") for entry in same])
    rated = [entry["value"] for entry in same if not _withheld(entry, total)]
    highest = max((value for value in rated if is_number(value)), default=None)
    return [_group_row(entry, total, scale, highest) for entry in same]


def is_unknown(entry: Entry) -> bool:
    """Whether the group, or a part of an intersection, holds those of unknown membership."""
    parts = str(entry.get("group")).lower().split(" & ")
    return any(part.strip() in NAMELESS for part in parts)


def _withheld(entry: Entry, total: float) -> str:
    """Why a group gets no ratio; empty if it does."""
    if is_unknown(entry):
        return "withheld: membership unknown"
    if total and (entry.get("n") or 0) / total < TINY:
        return f"withheld: under {100 * TINY:g}% of items"
    return ""


def _group_row(entry: Entry, total: float, scale: Scale, highest: float | None) -> Row:
    """One group's line."""
    value, n = entry.get("value"), entry.get("n") or 0
    share = n / total if total else None
    cells = (
        Cell(str(entry.get("group")), flags=_flags(entry), tone="warn"),
        Cell(count(n), value=n, numeric=True),
        Cell(Scale([], percent=True).value(share), numeric=True),
        Cell(amount(entry.get("numerator")), numeric=True),
        Cell(amount(entry.get("denominator")), numeric=True),
        Cell(scale.value(value), value=finite(value), numeric=True),
        Cell(scale.interval(entry.get("low"), entry.get("high")), numeric=True),
        _ratio(entry, total, highest),
    )
    return Row(cells)


def _flags(entry: Entry) -> tuple[str, ...]:
    """Our mark for small groups and the ledger's own, each once."""
    own = f"n < {SMALL}" if (entry.get("n") or 0) < SMALL else ""
    stored = str(entry.get("flag") or "").strip()
    return tuple(dict.fromkeys(flag for flag in (own, stored) if flag))


def _ratio(entry: Entry, total: float, highest: float | None) -> Cell:
    """The ratio to the highest rate, or why there is none."""
    reason = _withheld(entry, total)
    value = entry.get("value")
    if reason or not is_number(value) or not highest:
        return Cell(reason or "not defined", tone="muted", numeric=True)
    ratio = value / highest
    flags = (f"below {FOUR_FIFTHS:g}",) if ratio < FOUR_FIFTHS else ()
    return Cell(f"{ratio:.3f}", value=ratio, flags=flags, tone="warn", numeric=True)


def difference_table(ledger: Ledger) -> Table | None:
    """Signed differences between groups, where the ledger has them (`group_differences`)."""
    rows = tuple(_difference_row(entry) for entry in ledger.get("group_differences") or ())
    header = ("Rate", "Stage", "Groups", "n", "Difference", "Interval", "p, q")
    caption = "Signed differences between groups"
    return Table(caption, header, rows, "", folded=True) if rows else None


def _difference_row(entry: Entry) -> Row:
    """One pair of groups."""
    scale, flag = Scale([], percent=True), str(entry.get("flag") or "")
    groups = f"{entry.get('group_a')} {MINUS} {entry.get('group_b')}"
    value = finite(entry.get("value"))
    cells = (
        Cell(_subject(entry)),
        Cell(str(entry.get("stage") or "")),
        Cell(groups, flags=(flag,) if flag else (), tone="warn"),
        Cell(f"{count(entry.get('n_a'))}, {count(entry.get('n_b'))}", numeric=True),
        Cell(scale.difference(value), value=value, numeric=True),
        Cell(scale.interval(entry.get("low"), entry.get("high")), numeric=True),
        Cell(tested(entry.get("p"), entry.get("q")), numeric=True),
    )
    return Row(cells)


def unknown_sentence(ledger: Ledger) -> str:
    """How many items have no known membership, by task and attribute."""
    groups = ledger.get("groups") or ()
    stage = next((s for s in reversed(ledger.get("stages") or ()) if find(groups, stage=s)), None)
    parts: dict[str, tuple[int, int]] = {}
    for entry in find(groups, stage=stage):
        same = _same_block(groups, entry)
        lost = [e for e in same if is_unknown(e)]
        key = f"{entry.get('task')}, {entry.get('attribute')}"
        parts[key] = (sum(e.get("n") or 0 for e in lost), sum(e.get("n") or 0 for e in same))
    if not parts:
        return ""
    text = "; ".join(f"{key} {count(a)} of {count(b)} items" for key, (a, b) in parts.items())
    return f"Membership unknown: {text}."


def _same_block(groups: Sequence[Entry], entry: Mapping[str, Any]) -> list[Entry]:
    """The rows that share stage, task, metric and attribute with `entry`."""
    keys = ("stage", "task", "metric", "attribute")
    return find(groups, **{key: entry.get(key) for key in keys})
