"""Forest plots of bias: every measurement's interval against the line of no difference.

Measurements in one unit share an axis. Controls are drawn in the same way on a shaded band, so that
a reader sees at once how wide "nothing" is.
"""

from __future__ import annotations

from collections.abc import Sequence

from evals.evidence import is_number
from evals.report.figures import GLYPHS, ForestRow, forest_panel
from evals.report.layout import Block, Figure, Figures
from evals.report.numbers import MINUS, Scale
from evals.report.tables import Entry, bias_groups, bias_key, bias_keys, bias_label

PANEL_ROWS = 12
"""Most measurements in one plot; more are spread over several."""
REWARD = 3
"""Colour and mark of the reward model."""


def forest_blocks(rows: Sequence[Entry], stages: Sequence[str], name: str) -> list[Block]:
    """One plot a task, measure and unit; empty if no row has an interval.

    Args:
        rows: Rows of the ledger's `bias`, or of the reward model's.
        stages: Stages in their order; a row of another stage is drawn as the reward model.
        name: Prefix of the plots' ids, unique on the page.
    """
    shown = [row for row in rows if all(is_number(row.get(k)) for k in ("value", "low", "high"))]
    colours = {stage: index for index, stage in enumerate(stages)}
    figures: list[Figure] = []
    for panel in dict.fromkeys(_panel(row) for row in shown):
        same = [row for row in shown if _panel(row) == panel]
        keys = bias_keys(same)
        for start in range(0, len(keys), PANEL_ROWS):
            part = keys[start : start + PANEL_ROWS]
            entries = [[row for row in same if bias_key(row) == key] for key in part]
            figures.append(_figure(f"{name}-{len(figures)}", panel, entries, colours))
    if not figures:
        return []
    used = [stage for stage in stages if any(row.get("stage") == stage for row in shown)]
    legend = [(GLYPHS[colours[stage] % len(GLYPHS)], stage, colours[stage]) for stage in used]
    if any(row.get("stage") not in colours for row in shown):
        legend.append((GLYPHS[REWARD], "reward model", REWARD))
    title = "Value and interval against no difference; shaded: neutral controls"
    return [Figures(title, tuple(figures), tuple(legend), wide=True)]


def _panel(row: Entry) -> tuple[str, str, str]:
    """What shares an axis."""
    return str(row.get("task")), str(row.get("measure")), str(row.get("unit") or "")


def _figure(
    name: str,
    panel: tuple[str, str, str],
    entries: Sequence[Sequence[Entry]],
    colours: dict[str, int],
) -> Figure:
    """One plot and its words."""
    task, measure, unit = panel
    rows, said = [], []
    for same in entries:
        first = same[0]
        label = f"{first.get('attribute')}: {bias_groups(first)}"
        control = bool(first.get("control"))
        points = [
            (colours.get(str(r.get("stage")), REWARD), r["value"], r["low"], r["high"])
            for r in same
        ]
        rows.append(ForestRow(f"{label} (control)" if control else label, control, points))
        scale = Scale([row[key] for row in same for key in ("value", "low", "high")])
        numbers = (
            f"{r.get('stage')} {scale.value(r['value'])} {scale.interval(r['low'], r['high'])}"
            for r in same
        )
        said.append(f"{bias_label(first)}{', control' if control else ''}: {', '.join(numbers)}")
    axis = f"difference, first {MINUS} second group" + (f" ({unit})" if unit else "")
    svg = forest_panel(name, rows, axis)
    return Figure(svg, f"{task}: {measure}", "; ".join(said))
