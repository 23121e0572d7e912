"""The audit of predictions: a page of its own, and lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.artifacts import write_text_atomic
from evals.report.fairness import changes, gap_table, mitigation_tables
from evals.report.groups import difference_table, group_table
from evals.report.layout import Block, Bullets, Section
from evals.report.lines import table_lines
from evals.report.numbers import count
from evals.report.render import Page, render_html, render_markdown

PAGE = "index.html"
LIMITS = (
    "A difference is no proof of unfair treatment, and no difference found is no proof of "
    "fairness: labels may be unfair themselves, and intervals say what could not be seen.",
    "Demographic parity and equalised odds contradict each other where groups differ in their "
    "share of positive labels; which one matters is a decision, not a result.",
    "Thresholds by group need everyone's group at the time of the decision and treat equal scores "
    "differently; a reduction needs groups in training alone. Both decide some cases by chance.",
    "Mitigations were fitted on one half of the items and judged on the other; smaller halves, "
    "other people and later times give other results.",
)


def write_page(folder: Path, audit: Mapping[str, Any]) -> Path:
    """Write `index.html` and `report.md` into the audit's folder; return the former."""
    name = str(audit["subject"]["name"])
    found = [gap_table(audit), difference_table(audit)]
    blocks: list[Block] = [group_table(audit["groups"], "Rates by group")]
    blocks += [table for table in found if table]
    page = Page(
        title=name,
        run=name,
        made="",
        purpose="An audit of predictions by group; it supports a judgement and replaces none.",
        outcome="",
        verdict="",
        sections=[
            Section("verdict", "Findings", [Bullets(sentences(audit))]),
            Section("groups", "Rates by group", blocks),
            Section("mitigation", "Mitigations", mitigation_tables(audit["mitigations"])),
            Section("method", "Limits", [Bullets(LIMITS)]),
        ],
    )
    write_text_atomic(folder / "report.md", render_markdown(page))
    write_text_atomic(folder / PAGE, render_html(page))
    return folder / PAGE


def prediction_lines(audit: Mapping[str, Any]) -> list[str]:
    """Rates, gaps, and of each mitigation what it changes for everyone and for the gaps."""
    tables = [group_table(audit["groups"], "Rates by group"), gap_table(audit)]
    lines = [line for table in tables if table for line in (*table_lines(table), "")]
    keys = ("method", "constraint", "by")
    rows = [
        row
        for row in audit["mitigations"]
        if row["kind"] == "gap"
        or row["largest"]
        or (row["attribute"] == "everyone" and row["metric"] == "accuracy")
    ]
    for key in dict.fromkeys(tuple(row[k] for k in keys) for row in rows):
        method, constraint, by = key
        table = changes([row for row in rows if tuple(row[k] for k in keys) == key], "", ())
        if table:
            title = f"{method}, {constraint.replace('_', ' ')} by {by}, judged on the other half"
            lines += [title, *table_lines(table), ""]
    return [*lines, *sentences(audit), ""]


def sentences(audit: Mapping[str, Any]) -> tuple[str, ...]:
    """What was judged, what was left out, and what no mitigation could do."""
    columns, clusters = audit["columns"], audit["clusters"]
    judged = f"{count(audit['n'])} rows judged"
    judged += f" in {count(clusters)} clusters" if clusters is not None else ""
    judged += f"; positive class: {audit['positive']}" if audit["positive"] is not None else ""
    missing = [f"{count(n)} rows left out: {reason}." for reason, n in audit["missing"].items()]
    said = f"{judged}; label: {columns['label']}; seed {audit['subject']['seed']}."
    return (said, *missing, *audit["notes"])
