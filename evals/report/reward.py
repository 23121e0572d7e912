"""The audit of the reward model: is it better than trivial rules, and whom does it favour?

A reward model that does not beat "the longer response wins" has not been shown to have learned more
than length, and the report says so in plain words. Its bias is given in standard deviations of its
own scores, and is set beside the policy's drift under PPO, group by group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evals.evidence import find, is_number
from evals.report.forest import forest_blocks
from evals.report.groups import group_table
from evals.report.layout import Block, Cell, Row, Table, Text
from evals.report.numbers import MINUS, Scale, finite, number, p_value
from evals.report.pairs import pair_blocks
from evals.report.tables import (
    Entry,
    Ledger,
    bias_cell,
    bias_groups,
    bias_heads,
    bias_key,
    bias_keys,
    bias_label,
    excludes_zero,
    level_cell,
    q_values,
)

Audit = Mapping[str, Any]


def reward_blocks(ledger: Ledger) -> list[Block]:
    """Sentences and tables; empty where no reward model was audited."""
    audit = ledger.get("reward_model")
    if not audit:
        return []
    blocks: list[Block] = [
        *(Text(text, "" if fine else "warn") for text, fine in sentences(audit)),
        _accuracy_table(audit),
        *pair_blocks(audit.get("pairs") or {}),
        *forest_blocks(audit.get("bias") or (), [], "reward"),
        bias_table(audit),
    ]
    if audit.get("bias"):
        blocks.append(drift_table(ledger, audit))
    if audit.get("groups"):
        blocks.append(group_table(audit["groups"], "Reward model: accuracy by group"))
    return blocks


def sentences(audit: Audit | None) -> list[tuple[str, bool]]:
    """What the numbers say about the reward model, and whether that speaks for it."""
    return [_against_chance(audit), _against_length(audit)] if audit else []


def _against_chance(audit: Audit) -> tuple[str, bool]:
    accuracy, scale = audit.get("accuracy") or {}, Scale([], percent=True)
    if not is_number(accuracy.get("value")):
        return "The accuracy on preference pairs was not measured.", False
    interval = scale.interval(accuracy.get("low"), accuracy.get("high"))
    shown = f"{scale.value(accuracy['value'])} {interval} of {accuracy.get('n')} held-out pairs"
    if is_number(accuracy.get("low")) and accuracy["low"] > 0.5:
        return f"The reward model ranks {shown} as the annotator did; chance is 50%.", True
    return f"The reward model ranks {shown} as the annotator did: not shown to beat chance.", False


def _against_length(audit: Audit) -> tuple[str, bool]:
    gap, scale = audit.get("difference") or {}, Scale([], percent=True)
    if not is_number(gap.get("difference")):
        return "It was not compared with the rule that the longer response wins.", False
    interval = scale.interval(gap.get("low"), gap.get("high"))
    tail = f"{scale.difference(gap['difference'])} {interval}, {p_value(gap.get('p'))}"
    if is_number(gap.get("low")) and gap["low"] > 0:
        return f"It beats the rule that the longer response wins by {tail}.", True
    return (
        f"It does not beat the rule that the longer response wins ({tail}): nothing here shows "
        "that it learned more than length.",
        False,
    )


def _accuracy_table(audit: Audit) -> Table:
    """Accuracy beside chance and the length rule; margin, spread and length correlation."""
    percent = Scale([], percent=True)
    parts = ("accuracy", "longer_wins", "difference", "margin", "length_correlation")
    accuracy, longer, gap, margin, length = (audit.get(part) or {} for part in parts)
    gap = {**gap, "value": gap.get("difference")}
    beats = replace(
        level_cell(gap, percent, (p_value(gap.get("p")),)), text=percent.difference(gap["value"])
    )
    lines = (
        ("Pairs ranked as the annotator did", level_cell(accuracy, percent), _n(accuracy)),
        ("Chance", Cell("50.0%", value=0.5, numeric=True), Cell()),
        ("Rule: the longer response wins", level_cell(longer, percent), _n(longer)),
        (f"Reward model {MINUS} length rule, paired", beats, _n(accuracy)),
        ("Margin, chosen minus rejected", level_cell(margin, _scale(margin)), _n(margin)),
        ("Mean score", _plain(audit.get("score_mean")), Cell()),
        ("Standard deviation of the scores", _plain(audit.get("score_std")), Cell()),
        ("Correlation of score and length", level_cell(length, _scale(length)), _n(length)),
    )
    rows = tuple(Row((Cell(label), value, n)) for label, value, n in lines)
    return Table("Reward model: accuracy and length", ("Reward model", "Value", "n"), rows, "")


def _scale(row: Entry) -> Scale:
    """The scale of a value and its interval."""
    return Scale([row.get(key) for key in ("value", "low", "high")])


def _plain(value: float | None) -> Cell:
    return Cell(number(value), value=finite(value), numeric=True)


def _n(row: Entry) -> Cell:
    n = row.get("n")
    return Cell(f"{n:,}" if n is not None else "", numeric=True)


def bias_table(audit: Audit) -> Table:
    """The reward model's counterfactual differences in units of its own spread."""
    order = {key: index for index, key in enumerate(bias_keys(audit.get("bias") or ()))}
    bias = sorted(audit.get("bias") or (), key=lambda row: order[bias_key(row)])
    q = q_values([row for row in bias if not row.get("control")])
    rows = []
    for row in bias:
        cells = (*bias_heads([row]), bias_cell(row, _scale(row), q))
        rows.append(Row(cells, "control" if row.get("control") else ""))
    header = ("Measure, unit", "Groups", "n (clusters)", "Difference of scores")
    empty = "The reward model was not audited for bias: no task is named in `evals.reward_bias`."
    notes = (
        "sd: standard deviations of the reward model's scores. Controls as in the table above.",
    )
    return Table("Reward model: bias", header, tuple(rows), empty, notes if rows else ())


def drift_table(ledger: Ledger, audit: Audit) -> Table:
    """Does the reward model's preference predict where PPO moved the policy?"""
    stages = list(ledger.get("stages") or ())
    before, last = stages[-2:] if len(stages) > 1 else ("", "")
    steps = find(ledger.get("bias_comparisons"), before=before, after=last)
    rows, agree = [], 0
    for row in audit.get("bias") or ():
        moved = [step for step in steps if bias_key(step) == bias_key(row)]
        if row.get("control") or not moved:
            continue
        change = moved[0]
        same = (finite(row.get("value")) or 0) * (finite(change.get("difference")) or 0) > 0
        clear = excludes_zero(row) and excludes_zero(change)
        agree += same
        word = ("same sign" if same else "opposite") + ("" if clear else ", not both clear of 0")
        rows.append(Row((*_drift_cells(row, change), Cell(word))))
    header = ("Measure", "Groups", "Reward model", f"Policy, {last} {MINUS} {before}", "Sign")
    notes = (
        f"Reward model and policy moved the same way in {agree} of {len(rows)} measurements. "
        "An agreement of signs suggests that the policy followed the reward model; it does not "
        "prove it.",
    )
    empty = "No policy drift is stored for the measures on which the reward model was audited."
    caption = "Does the reward model's preference predict the policy's drift?"
    return Table(caption, header, tuple(rows), empty, notes if rows else ())


def _drift_cells(row: Entry, change: Entry) -> tuple[Cell, ...]:
    """Label, groups, the reward model's bias and the policy's change."""
    cells = []
    for entry, key in ((row, "value"), (change, "difference")):
        scale = Scale([entry.get(k) for k in (key, "low", "high")])
        text = number(entry.get(key), scale.places, sign="+")
        interval = scale.interval(entry.get("low"), entry.get("high"))
        notes = (interval,) if interval else ()
        cells.append(Cell(text, notes, finite(entry.get(key)), numeric=True))
    return (Cell(bias_label(row)), Cell(bias_groups(row)), *cells)
