"""Does the reward model's preference predict the policy's drift? Figure and tables of an audit.

Controls are shown in the tables, shaded, and count in no sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.bias.association import families
from evals.evidence import is_number
from evals.report.figures import GLYPHS, Mark, curve_panel
from evals.report.layout import Block, Bullets, Cell, Figure, Figures, Row, Table
from evals.report.numbers import MINUS, Scale, count, finite, number, p_value, tested
from evals.report.tables import Entry, bias_groups, bias_label, excludes_zero, q_values

Drift = Mapping[str, Any]
TITLE = "Does the reward model's preference predict the policy's drift?"
LARGEST = 15
"""Rows above which a table is folded."""
ENDS = ("low", "high")
UNIT = "preference of the reward model, its standard deviations"


def drift_blocks(drift: Drift) -> list[Block]:
    """Sentences, a figure, attributes and contrasts; without an association, the reason."""
    if not drift["overall"]:
        return [Bullets((drift["outcome"],), TITLE)]
    return [
        Bullets(tuple(drift_sentences(drift)), TITLE),
        _figure(drift),
        _attribute_table(drift),
        _contrast_table(drift),
    ]


def drift_sentences(drift: Drift) -> list[str]:
    """The association over contrasts in words."""
    if not drift["overall"]:
        return [drift["outcome"]]
    every, clear = drift["overall"], drift["clear"]
    said = [
        f"Preferences told from 0 (q at most 0.05): {count(clear['contrasts'])} of "
        f"{count(every['contrasts'])} contrasts. {_association(clear)}",
        f"All contrasts, whether preferred or not: {_association(every)}",
    ]
    if drift["missing"]:
        said.append(f"{drift['missing']} items lack a score of the reward model or a policy.")
    return said


def _association(found: Drift) -> str:
    """Agreement of signs, rank correlation, and what so many families can show."""
    if not found["contrasts"]:
        return "Nothing to follow."
    agree = f"Drift in the preferred direction: {found['agree']} of {found['signed']}"
    if found["families"] < 2:
        return f"{agree}; one family of attributes is one observation, without a test."
    least = 2.0 ** (1 - found["families"])
    return (
        f"{agree}{_tail(found['p_agree'])}; rank correlation "
        f"{number(found['rho'], 2, sign='+')}{_tail(found['p_rho'])}{_range(found)}. "
        f"{count(found['families'])} independent families of attributes: no p below "
        f"{number(least, 3)} is possible."
    )


def _tail(p: float | None) -> str:
    return f", {p_value(p)}" if is_number(p) else ""


def _range(found: Drift) -> str:
    """How far the correlation hangs on one family."""
    if not is_number(found["rho_low"]):
        return ""
    low, high = (number(found[key], 2, sign="+") for key in ("rho_low", "rho_high"))
    return f" ({low} to {high} without one family)"


def _figure(drift: Drift) -> Figures:
    """Drift of every contrast, with its interval, over the reward model's preference."""
    rows = [row for row in drift["contrasts"] if not row["control"]]
    names = families([row["attribute"] for row in rows])
    order = list(dict.fromkeys(names.values()))
    colours = {name: min(place, len(GLYPHS) - 1) for place, name in enumerate(order)}
    figures: list[Figure] = []
    for task in dict.fromkeys(str(row["task"]) for row in rows):  # preferences differ by task
        same = [row for row in rows if row["task"] == task]
        marks = [_mark(row, colours[names[row["attribute"]]]) for row in same]
        svg = curve_panel(f"drift-{len(figures)}", marks, (), UNIT, "zero")
        figures.append(Figure(svg, task, "; ".join(map(_words, same))))
    legend = tuple((GLYPHS[colours[name]], name, colours[name]) for name in order)
    title = f"Drift {drift['after']} {MINUS} {drift['before']} in nats over the preference"
    return Figures(title, tuple(figures), legend, wide=True)


def _mark(row: Entry, colour: int) -> Mark:
    """A contrast: drift with its interval, where it has one, over the preference."""
    y = row["drift"]["value"]
    low, high = (y if finite(row["drift"][end]) is None else row["drift"][end] for end in ENDS)
    return Mark(row["preference"]["value"], y, low, high, colour)


def _words(row: Entry) -> str:
    x, y = (number(row[side]["value"], 2, sign="+") for side in ("preference", "drift"))
    return f"{bias_label(row)}, {bias_groups(row)}: {x} sd, {y} nats"


def _attribute_table(drift: Drift) -> Table:
    """Nats of drift for a standard deviation of preference, attribute by attribute."""
    entries = sorted(drift["attributes"], key=_surest)
    q = q_values([row for row in entries if not row["control"]])
    rows = []
    for row in entries:
        flags = ("control",) if row["control"] else ()
        label = Cell(str(row["attribute"]), (str(row["task"]),), flags=flags, tone="muted")
        test = tested(row["p"], q.get(id(row)))
        size = Cell(number(row["size"]), value=finite(row["size"]), numeric=True)
        cells = (label, _n(row), size, _cell(row), Cell(test, numeric=True))
        rows.append(Row(cells, "control" if row["control"] else ""))
    slope = "Drift for 1 sd of preference, nats"
    header = ("Attribute", "n (templates)", "Preference, sd (root mean square)", slope, "p, q")
    notes = (
        "Above 0: the policy drifted toward the groups that the reward model prefers, template by "
        "template. Where preferences are far below 1 sd the slope extrapolates: read its sign. "
        "p: signs of whole templates flipped; q: over all rows but controls.",
    )
    return Table("Preference and drift within each attribute", header, tuple(rows), "", notes)


def _surest(row: Entry) -> tuple[bool, float]:
    """Controls last, otherwise by p."""
    return bool(row["control"]), row["p"] if is_number(row["p"]) else 1.0


def _contrast_table(drift: Drift) -> Table:
    """Preference and drift of every contrast; the strongest preference first, controls last."""
    entries = sorted(
        drift["contrasts"],
        key=lambda row: (bool(row["control"]), -abs(row["preference"]["value"])),
    )
    rows = []
    for row in entries:
        flags = ("control",) if row["control"] else ()
        x, y = row["preference"], row["drift"]
        product = x["value"] * y["value"]
        word = "neither" if product == 0 else "same" if product > 0 else "opposite"
        clear = excludes_zero(x) and excludes_zero(y)
        cells = (
            Cell(bias_label(row), (str(row["task"]),), flags=flags, tone="muted"),
            Cell(bias_groups(row)),
            _n(row),
            _cell(x),
            _cell(y),
            Cell(word, ("both clear of 0",) if clear else ()),
        )
        rows.append(Row(cells, "control" if row["control"] else ""))
    moved = f"Policy, {drift['after']} {MINUS} {drift['before']}, nats"
    header = ("Measure", "Groups", "n (templates)", "Reward model, sd", moved, "Direction")
    notes = (
        "Both columns are over the same items; intervals over templates. An association is no "
        "cause, and contrasts of one family are not independent of each other.",
    )
    caption = "Preference and drift of every contrast"
    return Table(caption, header, tuple(rows), "", notes, len(rows) > LARGEST)


def _n(row: Entry) -> Cell:
    return Cell(f"{count(row['n'])} ({count(row['clusters'])})", numeric=True)


def _cell(row: Entry) -> Cell:
    """A signed value with its interval."""
    scale = Scale([row.get(key) for key in ("value", "low", "high")])
    interval = scale.interval(row["low"], row["high"])
    text = number(row["value"], scale.places, sign="+")
    mark: Sequence[str] = ("not 0",) if excludes_zero(row) else ()
    notes = (interval,) if interval else ()
    return Cell(text, notes, finite(row["value"]), tuple(mark), "warn", numeric=True)
