"""Tables of the ledger as lines of plain text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evals.report.layout import Row, Table
from evals.report.pairs import agreement_table
from evals.report.tables import bias_table, capability_table, caveats


def ledger_lines(ledger: Mapping[str, Any]) -> list[str]:
    """Capability and, where it was measured, bias of every model with the paired differences.

    The caveats of bias suites stand below.
    """
    return [*all_lines([capability_table(ledger), bias_table(ledger)]), *caveats(ledger)]


def all_lines(tables: Iterable[Table]) -> list[str]:
    """Tables that have rows, an empty line below each."""
    return [line for table in tables if table.rows for line in [*table_lines(table), ""]]


def comparison_lines(tables: Mapping[str, Any]) -> list[str]:
    """What `evals.compare.compare_stored` found."""
    models = [f"{label}: {model['folder']}" for label, model in tables["models"].items()]
    said = [f"left out: {text}" for text in tables["left_out"]]
    said += [f"note: {text}" for text in tables["notes"]]
    how = (
        f"Intervals {tables['confidence']:.0%}; differences are paired on the same items; q: p "
        "adjusted over the table (Benjamini-Hochberg); detectable: found with 80% power."
    )
    agreed = all_lines([agreement_table(tables.get("agreement") or ())])
    return [*models, "", *ledger_lines(tables), *agreed, how, *said]


def table_lines(table: Table) -> list[str]:
    """One line a row, in columns; a heading is a line of its own above its rows."""
    rows = [list(table.header), *(_texts(row) for row in table.rows)]
    full = [row for row in rows if len(row) == len(table.header)]
    widths = [max(len(row[column]) for row in full) for column in range(len(table.header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def _texts(row: Row) -> list[str]:
    """The cells of a row as texts; names keep their text, numbers what stands below them too."""
    if row.style == "heading":
        return [row.cells[0].text]
    first, *others = row.cells
    return [f"  {first.text}", *(" ".join([cell.text, *cell.notes]) for cell in others)]
