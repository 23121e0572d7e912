"""The short version: what changed from stage to stage, and the findings a reader meets first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from evals.evidence import find, is_number
from evals.report.numbers import MINUS, Scale, count, number
from evals.report.reward import sentences
from evals.report.tables import (
    Entry,
    Ledger,
    bias_groups,
    bias_key,
    bias_keys,
    bias_label,
    difference_scale,
    excludes_zero,
    scale_of,
    stage_pairs,
)

KINDS = ("better", "worse", "moved", "with an interval that covers 0")


def stage_summary(ledger: Ledger) -> list[dict[str, str]]:
    """What changed from stage to stage, one row a metric or bias measure (controls left out).

    Every row has the same keys in the order of the columns: `metric`, each stage, and a difference
    with its interval for each compared pair of stages; "" where nothing was measured.
    """
    tables = ("comparisons", "bias_comparisons")
    pairs = dict.fromkeys(pair for table in tables for pair in stage_pairs(ledger, table))
    columns = ["metric", *(ledger.get("stages") or ()), *(_column(*pair) for pair in pairs)]
    rows = [*_metric_rows(ledger), *_bias_rows(ledger)]
    return [{column: row.get(column, "") for column in columns} for row in rows]


def _column(before: str, after: str) -> str:
    """Heading of a difference."""
    return f"{after} {MINUS} {before}"


def _metric_rows(ledger: Ledger) -> Iterator[dict[str, str]]:
    """One row a metric."""
    estimates = ledger.get("estimates") or ()
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in estimates):
        levels = find(estimates, task=task, metric=metric)
        scale = scale_of(levels, metric)
        row = {"metric": f"{task} {metric}"}
        row |= {level["stage"]: scale.value(level.get("value")) for level in levels}
        for change in find(ledger.get("comparisons"), task=task, metric=metric):
            column = _column(change["before"], change["after"])
            row[column] = _difference(change, difference_scale(change, scale))
        yield row


def _bias_rows(ledger: Ledger) -> Iterator[dict[str, str]]:
    """One row a bias measurement that is no control."""
    bias = [row for row in ledger.get("bias") or () if not row.get("control")]
    changes = ledger.get("bias_comparisons") or ()
    for key in bias_keys(bias):
        levels = [row for row in bias if bias_key(row) == key]
        scale = Scale([row.get(k) for row in levels for k in ("value", "low", "high")])
        row = {"metric": f"{bias_label(levels[0])}: {bias_groups(levels[0])}"}
        row |= {level["stage"]: scale.difference(level.get("value")) for level in levels}
        for change in changes:
            if bias_key(change) == key:
                row[_column(change["before"], change["after"])] = _difference(change, scale)
        yield row


def _difference(change: Entry, scale: Scale) -> str:
    """A difference with its interval."""
    interval = scale.interval(change.get("low"), change.get("high"))
    return f"{scale.difference(change.get('difference'))} {interval}".strip()


def findings(ledger: Ledger, budget_sentence: str, confidence: float = 0.95) -> tuple[str, ...]:
    """At most a handful of sentences, each with its numbers, for the top of the report.

    Args:
        ledger: The stored results.
        budget_sentence: What is to be said about PPO's KL; may be empty.
        confidence: Coverage of the ledger's intervals.
    """
    found = [
        *_capability(ledger),
        *_bias(ledger),
        *_controls(ledger, confidence),
        *(text for text, _ in sentences(ledger.get("reward_model"))),
        budget_sentence,
        _missing(ledger),
    ]
    return tuple(text for text in found if text)


def _capability(ledger: Ledger) -> list[str]:
    """How many metrics each step made better or worse, and the ones made worse by name."""
    better = {(r["task"], r["metric"]): r.get("better") for r in ledger.get("estimates") or ()}
    found = []
    for before, after in stage_pairs(ledger, "comparisons"):
        rows = find(ledger.get("comparisons"), before=before, after=after)
        kinds = [_kind(row, better.get((row["task"], row["metric"]))) for row in rows]
        parts = [f"{kinds.count(kind)} {kind}" for kind in KINDS if kind in kinds]
        worse = [r for r, kind in zip(rows, kinds, strict=True) if kind == KINDS[1]]
        names = ", ".join(f"{row['task']} {row['metric']}" for row in worse)
        text = f"Capability, {before} to {after}, {len(rows)} metrics: {', '.join(parts)}"
        found.append(f"{text}; worse: {names}." if names else f"{text}.")
    return found


def _kind(row: Entry, better: Any) -> str:
    """What a difference says, one of `KINDS`."""
    if not excludes_zero(row):
        return KINDS[3]
    if better not in ("higher", "lower"):
        return KINDS[2]
    return KINDS[0] if (row["low"] > 0) == (better == "higher") else KINDS[1]


def _bias(ledger: Ledger) -> list[str]:
    """The measures whose interval excludes 0 at the last stage, largest first."""
    stages = list(ledger.get("stages") or ())
    rows = find(ledger.get("bias"), stage=stages[-1] if stages else "")
    rows = [row for row in rows if not row.get("control")]
    if not rows:
        return []
    clear = sorted(filter(excludes_zero, rows), key=lambda row: -abs(row["value"]))
    shown = "; ".join(map(_bias_text, clear[:3]))
    text = f"Bias of {stages[-1]}: {len(clear)} of {len(rows)} measures have an interval that "
    return [text + (f"excludes 0: {shown}." if clear else "excludes 0.")]


def _bias_text(row: Entry) -> str:
    """A bias in words and numbers."""
    value = f"{number(row['value'], sign='+')} {row.get('unit') or ''}".strip()
    return f"{bias_label(row)} ({bias_groups(row)}) {value}"


def _controls(ledger: Ledger, confidence: float) -> list[str]:
    """How often the neutral controls raised an alarm."""
    rows = [row for row in ledger.get("bias") or () if row.get("control")]
    if not rows:
        return ["No neutral controls were measured."] if ledger.get("bias") else []
    alarms = sum(excludes_zero(row) for row in rows)
    chance = f"by chance about {(1 - confidence) * len(rows):.1f} would"
    return [f"Neutral controls: {alarms} of {len(rows)} intervals exclude 0; {chance}."]


def _missing(ledger: Ledger) -> str:
    """How many items could not be scored."""
    total = sum(n for row in ledger.get("missing") or () if is_number(n := row.get("count")))
    return f"{count(total)} items could not be scored and are in no number." if total else ""
