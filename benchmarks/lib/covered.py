"""Whether intervals hold the truth and exclude 0, as rates with their own intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest

from evals.stats import wilson

Row = dict[str, Any]


def judged(row: Row, truth: float, **head: Any) -> Row:
    """Whether an interval holds its truth and whether it excludes 0."""
    keys = ("measure", "attribute", "group_a", "control", "value", "low", "high")
    found = head | {key: row[key] for key in keys} | {"truth": truth}
    tolerance = 1e-9 * max(1.0, abs(truth))  # a rule without noise between its sides has no width
    holds = row["low"] - tolerance <= truth <= row["high"] + tolerance
    return found | {"covered": bool(holds), "alarm": bool(row["low"] > 0 or row["high"] < 0)}


def share(rows: Sequence[Row], key: str) -> dict[str, Any]:
    """How often `key` holds, with Wilson's interval."""
    hits = sum(row[key] for row in rows)
    low, high = wilson(hits, len(rows))
    return {"rate": hits / len(rows), "low": low, "high": high, "n": len(rows)}


def alarm_rate(null: Mapping[str, Sequence[Row]]) -> Row:
    """How often intervals exclude 0 where the truth is 0, by kind and in all; p of over 5 %."""
    every = share([row for rows in null.values() for row in rows], "alarm")
    test = binomtest(round(every["rate"] * every["n"]), every["n"], 0.05, "greater")
    return {
        "false_alarms": every["rate"],
        "false_alarms_by": {kind: share(rows, "alarm") for kind, rows in null.items()},
        "false_alarms_n": every["n"],
        "false_alarms_p": float(test.pvalue),
    }


def by_size(rows: Sequence[Row], sizes: Sequence[float]) -> dict[str, float]:
    """Share of intervals that exclude 0 at every size."""
    some = {size: [row for row in rows if row["size"] == size] for size in sizes}
    return {str(size): share(found, "alarm")["rate"] for size, found in some.items()}


def print_shares(heading: str, found: Row) -> None:
    """Coverage and alarms as a table."""
    alarms = {f"alarms, {name}": cell for name, cell in found["false_alarms_by"].items()}
    print(heading)
    for name, cell in {**found["coverage_by"], **alarms}.items():
        ends = f"[{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
        print(f"  {name:<45}{100 * cell['rate']:6.1f} % {ends} of {cell['n']}")
