"""A reward model on sets of preference pairs: accuracy by subset, calibration, margins, checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evals.report.figures import GLYPHS, Mark, bar_panel, curve_panel
from evals.report.layout import Block, Cell, Figure, Figures, Row, Table
from evals.report.numbers import MINUS, Scale, count, number, p_value, tested
from evals.report.tables import Entry, level_cell

Sets = Mapping[str, Mapping[str, Any]]
PERCENT = Scale([], percent=True)


def pair_blocks(sets: Sets) -> list[Block]:
    """Tables of all sets, and two drawings of each."""
    if not sets:
        return []
    figures = [
        figure
        for index, (name, found) in enumerate(sets.items())
        for figure in (_reliability(name, found, index), _margins(name, found, index))
    ]
    legend = ((GLYPHS[0], "share of pairs ranked as the annotator did", 0),)
    title = "Calibration and margins; the line: perfectly calibrated"
    return [*pair_tables(sets), Figures(title, tuple(figures), legend, wide=True)]


def pair_tables(sets: Sets) -> list[Table]:
    """Accuracy by set and subset, then calibration, then length, ties and checks."""
    return [_accuracy_table(sets), _calibration_table(sets), _check_table(sets)]


def _accuracy_table(sets: Sets) -> Table:
    """A row a set and subset."""
    rows = []
    for name, found in sets.items():
        rows.append(_accuracy_row(name, found, None))
        for part in found.get("subsets") or ():
            label = f"{name}, {part['column']} {part['group']}"
            rows.append(_accuracy_row(label, part, part["q"]))
    header = ("Pairs", "n", "Accuracy", "Longer wins", f"Accuracy {MINUS} longer wins")
    notes = (
        "Chance is 50%; a tie counts as wrong. The difference is paired on the same pairs "
        "(Tango's interval, McNemar's p); q: adjusted over the subsets of a set "
        "(Benjamini-Hochberg).",
    )
    return Table("Reward model: accuracy by subset", header, tuple(rows), "", notes)


def _accuracy_row(label: str, entry: Entry, q: float | None) -> Row:
    accuracy, gap = entry["accuracy"], entry["difference"]
    beaten = "above chance" if accuracy["low"] > 0.5 else "not above chance"
    tone = "good" if accuracy["low"] > 0.5 else "warn"
    shown = replace(level_cell(accuracy, PERCENT), flags=(beaten,), tone=tone)  # type: ignore[arg-type]
    notes = (PERCENT.interval(gap["low"], gap["high"]), tested(gap["p"], q))
    value = gap["difference"]
    change = Cell(PERCENT.difference(value), tuple(n for n in notes if n), value, numeric=True)
    if gap["low"] > 0 or gap["high"] < 0:
        better = gap["low"] > 0
        change = replace(
            change, flags=("better" if better else "worse",), tone="good" if better else "bad"
        )
    flag = (entry["flag"],) if entry.get("flag") else ()
    n = Cell(count(accuracy["n"]), flags=flag, tone="warn", numeric=True)
    return Row((Cell(label), n, shown, level_cell(entry["longer_wins"], PERCENT), change))


def _calibration_table(sets: Sets) -> Table:
    """How far sigmoid(margin) can be taken for a probability."""
    rows = []
    for name, found in sets.items():
        own = found["calibration"]
        chance = Cell(number(own["ece_expected"]), (p_value(own["p"]),), numeric=True)
        cells = (
            Cell(number(own["ece"]["value"]), value=own["ece"]["value"], numeric=True),
            chance,
            *(level_cell(own[key], _scale(own[key])) for key in ("brier", "log_loss")),
        )
        rows.append(Row((Cell(name), *cells)))
    header = ("Pairs", "ECE", "ECE if calibrated", "Brier score", "Log loss")
    notes = (
        "Probability: sigmoid of the margin. The calibration error is too high for few pairs, so "
        "it has no interval; beside it stands what a calibrated model would show on the same "
        "margins, with p of an error as large as the one found. Saying nothing scores .25 (Brier) "
        "and .693 (log loss).",
    )
    return Table("Reward model: calibration of preferences", header, tuple(rows), "", notes)


def _check_table(sets: Sets) -> Table:
    """Margin, ties, length and what must not matter."""
    rows = []
    for name, found in sets.items():
        done = found.get("checks") or {}
        keys = ("order", "swapped", "repeated")
        moved = max((done[key] for key in keys if key in done), default=None)
        flags = () if not moved else ("not 0",)
        cells = (
            level_cell(found["margin"], _scale(found["margin"])),
            level_cell(found["ties"], PERCENT),
            level_cell(found["length_correlation"], _scale(found["length_correlation"])),
            Cell(_change(moved), flags=flags, tone="bad", value=moved, numeric=True),
            Cell(_change(done.get("alone")), value=done.get("alone"), numeric=True),
        )
        rows.append(Row((Cell(name), *cells)))
    header = ("Pairs", "Margin", "Ties", "Score and length, r", "Other company", "Alone")
    notes = (
        "Other company: the largest change of a score, in standard deviations, when some pairs are "
        "scored in reverse order, with sides swapped, or with pairs repeated; it must be 0. Alone: "
        "when each response is scored by itself, where padding may move the last digits.",
    )
    return Table("Reward model: margins and checks", header, tuple(rows), "", notes)


def agreement_table(rows: Sequence[Entry]) -> Table:
    """Two reward models on the same pairs."""
    lines = []
    for row in rows:
        cells = (
            level_cell(row["share"], PERCENT),
            *(level_cell(row[key], _scale(row[key])) for key in ("kappa", "correlation")),
        )
        n = Cell(count(row["share"]["n"]), numeric=True)
        lines.append(Row((Cell(f"{row['task']}: {row['before']}, {row['after']}"), n, *cells)))
    header = ("Pairs: models", "n", "Same verdict", "Cohen's kappa", "Margins, r")
    return Table("Agreement of reward models", header, tuple(lines), "")


def _change(value: float | None) -> str:
    return "0" if value == 0 else number(value)


def _scale(row: Entry) -> Scale:
    return Scale([row.get(key) for key in ("value", "low", "high")])


def _reliability(name: str, found: Entry, index: int) -> Figure:
    """Share of hits against the probability, a mark a bin."""
    bins = found["calibration"]["bins"]
    marks = [Mark(row["probability"], row["value"], row["low"], row["high"], 0) for row in bins]
    svg = curve_panel(f"reliability-{index}", marks, [], "probability by the model", "diagonal")
    said = "; ".join(
        f"at {row['probability']:.2f}: {PERCENT.value(row['value'])} of {row['n']}" for row in bins
    )
    return Figure(svg, f"{name}: reliability", f"share of hits by probability, {said}")


def _margins(name: str, found: Entry, index: int) -> Figure:
    """Distribution of the margins."""
    edges, counts = found["margins"]["edges"], found["margins"]["counts"]
    svg = bar_panel(f"margins-{index}", edges, counts, "score of chosen minus score of rejected")
    wrong = sum(n for edge, n in zip(edges, counts, strict=False) if edge < 0)
    said = f"{count(sum(counts))} pairs from {number(edges[0])} to {number(edges[-1])}, "
    return Figure(svg, f"{name}: margins", f"{said}{count(wrong)} of them below 0 (ranked wrong)")
