"""Do 95 % intervals cover, and do tests hold their level? Simulations with a known truth.

    python benchmarks/coverage.py --short            under a minute
    python benchmarks/coverage.py --save             all of it, some minutes of one core
    python benchmarks/coverage.py --only perplexity  the cases whose name holds this

Every case draws data sets from a population whose metric is known (`lib/populations.py`) and calls
the functions that evaluation calls (`lib/trials.py`). Proportions are not simulated: all outcomes
are counted, and `least` and `largest` are over a grid of rates. The target is a coverage of 93 to
97 %, and a rate of false alarms not significantly above the level.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from lib.side_by_side import finish, provenance
from lib.trials import RESAMPLES, Case, cases

TARGET = (0.93, 0.97)
NOT_USED = "(not used)"
"""Methods that are measured to say why evaluation uses another one."""
SHORT = ("accuracy", "perplexity", "mean change, t(3)")
Row = dict[str, Any]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--simulations", type=int, help="data sets a case (1000; short: 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--short", action="store_true", help="a few metrics, few data sets")
    parser.add_argument("--save", action="store_true", help="write it to benchmarks/results/")
    return parser.parse_args(words)


def measure(case: Case, simulations: int, seed: int) -> list[Row]:
    """A row for every method of a case."""
    head = {"kind": case.kind, "metric": case.metric, "units": case.units}
    rows = []
    if case.exact is not None:
        for method, chances in case.exact().items():
            rates = {"rate": float(np.mean(chances)), "error": 0.0, "simulations": None}
            ends = {"least": min(chances), "largest": max(chances)}
            rows.append(head | {"method": method} | rates | ends)
    if case.trial is not None:
        hits: dict[str, int] = {}
        generator = np.random.default_rng(seed)
        for number in range(simulations):
            for method, hit in case.trial(generator, seed + number).items():
                hits[method] = hits.get(method, 0) + hit
        for method, count in hits.items():
            rate = count / simulations
            error = sqrt(max(rate * (1 - rate), 1 / simulations) / simulations)
            rates = {"rate": rate, "error": error, "simulations": simulations}
            rows.append(head | {"method": method} | rates)
    return [row | {"ok": holds(row)} for row in rows]


def holds(row: Row) -> bool:
    """Coverage inside the target; a level not significantly (one-sided 5 %) above the nominal."""
    if row["kind"] == "coverage":
        return bool(TARGET[0] <= row["rate"] <= TARGET[1])
    nominal = 0.025 if row["method"].endswith(".025") else 0.05
    spread = sqrt(nominal * (1 - nominal) / row["simulations"]) if row["simulations"] else 0.0
    worst = row.get("largest", row["rate"])
    return bool(worst <= nominal + 1.645 * spread + 1e-9)


def shown(row: Row) -> str:
    """One line of the table."""
    name = f"{row['kind']:<9}{row['metric']:<38}{row['units']:<13}{row['method']:<30}"
    error = f" (se {100 * row['error']:.1f})" if row["simulations"] else ""
    ends = f" [{100 * row['least']:.1f}, {100 * row['largest']:.1f}]" if "least" in row else ""
    return f"{name}{100 * row['rate']:6.1f} %{error}{ends}{'' if row['ok'] else '   <-'}"


def main() -> None:
    """Measure every case, print the table and the result."""
    chosen = arguments()
    simulations = chosen.simulations or (300 if chosen.short else 1000)
    started, rows = time.perf_counter(), []
    for case in cases():
        name = f"{case.kind} {case.metric}"
        if chosen.only not in name or (chosen.short and case.metric not in SHORT):
            continue
        found = measure(case, simulations * case.times, chosen.seed)
        print("\n".join(map(shown, found)), flush=True)
        rows += found
    used = [row for row in rows if not row["method"].endswith(NOT_USED)]
    result = {
        "benchmark": "coverage",
        "rows": rows,
        "within_target": sum(row["ok"] for row in used),
        "of": len(used),
        "simulations": simulations,
        "resamples": RESAMPLES,
        "seed": chosen.seed,
        "seconds": time.perf_counter() - started,
        **provenance(None),
    }
    finish(result, "coverage" if chosen.save else None)


if __name__ == "__main__":
    main()
