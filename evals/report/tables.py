"""The tables of the stage ledger: capability by stage and bias by stage.

Every number stands with its interval and n, every difference is paired and has its p-value, and a
difference that was not found stands with the effect that could have been found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evals.bias.scorer_bias import KIND as SCORERS
from evals.evidence import find, is_number
from evals.multiplicity import benjamini_hochberg
from evals.report.layout import Cell, Row, Table, Tone
from evals.report.numbers import (
    MINUS,
    Scale,
    count,
    finite,
    is_proportion,
    least_p,
    number,
    tested,
)

Ledger = Mapping[str, Any]
Entry = Mapping[str, Any]


def stage_pairs(ledger: Ledger, key: str) -> list[tuple[str, str]]:
    """The pairs of stages that a table of comparisons holds, in the order of the stages."""
    order = {stage: i for i, stage in enumerate(ledger.get("stages") or ())}
    pairs = {(row["before"], row["after"]) for row in ledger.get(key) or ()}
    last = len(order)
    return sorted(pairs, key=lambda pair: (order.get(pair[1], last), -order.get(pair[0], last)))


def q_values(rows: Sequence[Entry]) -> dict[int, float]:
    """Benjamini-Hochberg q of the rows that have a p-value, by the row's `id()`."""
    known = [row for row in rows if is_number(row.get("p"))]
    adjusted = benjamini_hochberg([row["p"] for row in known])
    return {id(row): q for row, q in zip(known, adjusted, strict=True)}


def scale_of(rows: Iterable[Entry], metric: str) -> Scale:
    """One scale for all stages, intervals and differences of a metric."""
    keys = ("value", "low", "high")
    values = [row.get(key) for row in rows for key in keys]
    levels = [value for value in values if is_number(value)]
    return Scale(levels, percent=is_proportion(metric, levels))


def level_cell(row: Entry | None, scale: Scale, notes: tuple[str, ...] = ()) -> Cell:
    """A value with its interval."""
    if row is None:
        return Cell("not measured", tone="muted")
    value = row.get("value")
    lines = (scale.interval(row.get("low"), row.get("high")), *notes)
    text = scale.value(value)
    return Cell(
        text, tuple(x for x in lines if x), value if is_number(value) else None, numeric=True
    )


def excludes_zero(row: Entry) -> bool:
    """Whether the interval of a difference (or of a signed value) lies on one side of 0."""
    low, high = row.get("low"), row.get("high")
    return is_number(low) and is_number(high) and (low > 0 or high < 0)


def difference_cell(row: Entry | None, scale: Scale, better: str, q: float | None) -> Cell:
    """A paired difference: interval, p (and q), and what could have been found if nothing was."""
    if row is None:
        return Cell("not compared", tone="muted")
    value = row.get("difference")
    notes = [scale.interval(row.get("low"), row.get("high")), tested(row.get("p"), q)]
    flags: tuple[str, ...] = ()
    tone: Tone = ""
    if excludes_zero(row):
        flags, tone = _direction(better, row["low"] > 0)
        notes.append(least_p(row.get("test"), row.get("units")))
    elif (row.get("mde") or 0) > 0:
        notes.append(f"detectable: {scale.difference(row['mde']).lstrip('+')}")
    shown = tuple(note for note in notes if note)
    return Cell(scale.difference(value), shown, finite(value), flags, tone, numeric=True)


def difference_scale(row: Entry, levels: Scale) -> Scale:
    """Differences are often far smaller than the levels: up to two places more."""
    own = Scale([row.get(key) for key in ("difference", "low", "high")], percent=levels.percent)
    own.places = min(own.places, levels.places + 2)
    return own


def _direction(better: str, rose: bool) -> tuple[tuple[str, ...], Tone]:
    """What a change of known sign means: the flag and its tone."""
    if better not in ("higher", "lower"):
        return ("moved",), "warn"
    return (("better",), "good") if rose == (better == "higher") else (("worse",), "bad")


def capability_table(ledger: Ledger) -> Table:
    """Every metric of every task: a column a stage, then the paired differences."""
    stages, estimates = list(ledger.get("stages") or ()), ledger.get("estimates") or ()
    pairs = stage_pairs(ledger, "comparisons")
    q = q_values(list(ledger.get("comparisons") or ()))
    rows: list[Row] = []
    for task in dict.fromkeys(row["task"] for row in estimates):
        title = next((t.get("title") or task for t in find(ledger.get("tasks"), name=task)), task)
        rows.append(Row((Cell(title),), "heading"))
        metrics = list(dict.fromkeys(row["metric"] for row in find(estimates, task=task)))
        for metric in metrics:
            levels = find(estimates, task=task, metric=metric)
            scale, better = scale_of(levels, metric), levels[0].get("better", "none")
            changes = find(ledger.get("comparisons"), task=task, metric=metric)
            by_stage = {row["stage"]: row for row in levels}
            by_pair = {(row["before"], row["after"]): row for row in changes}
            cells = [
                level_cell(by_stage.get(stage), scale, _clean(by_stage.get(stage), scale))
                for stage in stages
            ]
            cells += [_change(by_pair.get(pair), scale, better, q) for pair in pairs]
            rows.append(Row((_metric_cell(metric, levels), _items_cell(levels), *cells)))
            if metric == metrics[0]:
                rows += _baseline_rows(ledger, task, scale, len(pairs))
    header = ("Metric", "n", *stages, *(f"{after} {MINUS} {before}" for before, after in pairs))
    notes = (
        "Brackets: the interval of the method named below the metric. Differences are paired on "
        "the same items; pp: percentage points. q: p adjusted over all differences of this table "
        "(Benjamini-Hochberg). contaminated: items that share a passage with the training text; "
        "clean: the metric without them. Shaded rows need no model. detectable: the smallest true "
        "difference that a test of this size finds with 80% power, given where the interval covers "
        "0.",
    )
    empty = "No capability was measured: the ledger holds no estimates."
    return Table("Capability by stage", header, tuple(rows), empty, notes if rows else ())


def _baseline_rows(ledger: Ledger, task: str, scale: Scale, pairs: int) -> list[Row]:
    """What needs no model, in the scale of the task's first metric."""
    found = find(ledger.get("baselines"), task=task)
    rows = []
    for name in dict.fromkeys(row["metric"] for row in found):
        levels = find(found, metric=name)
        by_stage = {row["stage"]: row for row in levels}
        cells = [level_cell(by_stage.get(stage), scale) for stage in ledger.get("stages") or ()]
        label = Cell(name.replace("_", " "), ("no model",))
        rows.append(Row((label, _n_cell(levels), *cells, *([Cell()] * pairs)), "control"))
    return rows


def _change(row: Entry | None, levels: Scale, better: str, q: Mapping[int, float]) -> Cell:
    scale = levels if row is None else difference_scale(row, levels)
    return difference_cell(row, scale, better, None if row is None else q.get(id(row)))


def _metric_cell(metric: str, levels: Sequence[Entry]) -> Cell:
    """The metric's name, which way is better, and how its interval was made."""
    better = levels[0].get("better", "none")
    direction = "" if better == "none" else f"{better} is better"
    methods = "; ".join(dict.fromkeys(str(row.get("method") or "") for row in levels))
    return Cell(metric, tuple(note for note in (direction, methods) if note))


def _items_cell(levels: Sequence[Entry]) -> Cell:
    """The number of items, and which share of them was seen in training."""
    shares = {row.get("contaminated") for row in levels} - {None}
    texts = sorted(f"{100 * share:.3g}%" for share in shares if is_number(share))
    notes = (f"{' / '.join(texts)} contaminated",) if texts else ()
    return replace(_n_cell(levels), notes=notes)


def _clean(row: Entry | None, scale: Scale) -> tuple[str, ...]:
    """The metric without contaminated items."""
    clean = (row or {}).get("clean")
    if not clean:
        return ()
    interval = scale.interval(clean.get("low"), clean.get("high"))
    return (f"clean {scale.value(clean.get('value'))} {interval} (n {count(clean.get('n'))})",)


def _n_cell(levels: Sequence[Entry], key: str = "n") -> Cell:
    """The number of items, once if all stages have the same."""
    known = [row.get(key) for row in levels]
    return Cell(" / ".join(dict.fromkeys(count(n) for n in known)), numeric=True)


def bias_key(row: Entry) -> tuple[Any, ...]:
    """What makes two bias rows of different stages the same measurement."""
    keys = ("task", "measure", "attribute", "group_a", "group_b", "control")
    return tuple(row.get(key) for key in keys)


def bias_keys(rows: Iterable[Entry]) -> list[tuple[Any, ...]]:
    """The measurements in the rows' order, each control right below what it controls."""
    keys = list(dict.fromkeys(bias_key(row) for row in rows))
    first: dict[tuple[Any, ...], int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key[:3], index)
    return sorted(keys, key=lambda key: (first[key[:3]], bool(key[-1])))


def bias_label(row: Entry) -> str:
    """Measure and attribute of a bias row."""
    return f"{row.get('measure')}, {row.get('attribute')}"


def bias_groups(row: Entry) -> str:
    """The two groups of a bias row, in the order of its sign."""
    return f"{row.get('group_a')}\N{NO-BREAK SPACE}{MINUS} {row.get('group_b')}"


def bias_table(ledger: Ledger) -> Table:
    """Every bias measurement by stage with its change, controls right below what they control."""
    stages, bias = list(ledger.get("stages") or ()), list(ledger.get("bias") or ())
    changes = list(ledger.get("bias_comparisons") or ())
    pairs = stage_pairs(ledger, "bias_comparisons")
    # what a scorer makes of neutral sentences is no finding about a model
    q = q_values(
        [row for row in (*bias, *changes) if not row.get("control") and row["task"] != SCORERS]
    )
    rows = []
    for key in bias_keys(bias):
        levels = [row for row in bias if bias_key(row) == key]
        moved = [row for row in changes if bias_key(row) == key]
        family = [row for row in bias if bias_key(row)[:3] == key[:3]]
        scale = Scale([row.get(k) for row in family for k in ("value", "low", "high")])
        by_stage = {row["stage"]: row for row in levels}
        by_pair = {(row["before"], row["after"]): row for row in moved}
        cells = [bias_cell(by_stage.get(stage), scale, q) for stage in stages]
        for row in map(by_pair.get, pairs):
            cells.append(difference_cell(row, scale, "none", q.get(id(row))))
        rows.append(Row((*bias_heads(levels), *cells), "control" if key[-1] else ""))
    compared = (f"{after} {MINUS} {before}" for before, after in pairs)
    header = ("Measure, unit", "Groups", "n (clusters)", *stages, *compared)
    notes = (
        "Each value compares group a with group b, over matched prompts the mean of a minus b; 0 "
        "is no difference. Intervals and p are clustered where items hang together. A control "
        "swaps two members of the same group, so its true value is 0; controls marked as false "
        "alarms should be as rare as the interval allows. q: adjusted over all rows and "
        "differences that are not controls. "
        "x / y: numerator and denominator; rows over fewer than 30 items are marked n < 30. What a "
        "suite's unit means stands in its definition.",
        *caveats(ledger),
    )
    empty = "No bias was measured: the ledger holds no bias rows."
    return Table("Bias by stage", header, tuple(rows), empty, notes if rows else ())


def bias_heads(levels: Sequence[Entry]) -> tuple[Cell, ...]:
    """The first three cells of a bias row: what and in which unit, between whom, over how many."""
    first = levels[0]
    flags = ("control",) if first.get("control") else ()
    unit = f", in {first['unit']}" if first.get("unit") else ""
    label = Cell(bias_label(first), (f"{first.get('task')}{unit}",), flags=flags, tone="muted")
    items, clusters = _n_cell(levels).text, _n_cell(levels, "clusters").text
    return (label, Cell(bias_groups(first)), Cell(f"{items} ({clusters})", numeric=True))


def bias_cell(row: Entry | None, scale: Scale, q: Mapping[int, float]) -> Cell:
    """The signed value, flagged where its interval excludes 0."""
    if row is None:
        return level_cell(None, scale)
    test = tested(row.get("p"), q.get(id(row)))
    notes = (scale.interval(row.get("low"), row.get("high")), test, fraction(row), row.get("flag"))
    flag: tuple[str, ...] = ()
    if excludes_zero(row):
        flag = ("false alarm",) if row.get("control") else ("not 0",)
    value = row.get("value")
    shown = tuple(note for note in notes if note)
    tone: Tone = "bad" if flag and not row.get("control") else "warn"
    return Cell(
        number(value, scale.places, sign="+"), shown, finite(value), flag, tone, numeric=True
    )


def caveats(ledger: Ledger) -> list[str]:
    """What must be known before a suite's numbers are read: its definition's caveat."""
    said = []
    for task in ledger.get("tasks") or ():
        _, mark, caveat = str(task.get("definition") or "").partition("Caveat: ")
        said += [f"{task.get('title')} - caveat: {caveat}."] if mark else []
    return said


def fraction(row: Entry) -> str:
    """Numerator and denominator of a value, where it has them."""
    above, below = row.get("numerator"), row.get("denominator")
    return f"{amount(above)} / {amount(below)}" if is_number(above) and is_number(below) else ""


def amount(value: float | None) -> str:
    """A count, or a sum that is not whole."""
    return number(value) if is_number(value) and value != int(value) else count(value)
