"""Does the audit of a score find a bias of known size, and nothing where there is none?

    python benchmarks/audit_calibration.py --short   under a minute
    python benchmarks/audit_calibration.py --save    all of it, some minutes of one core

Two kinds of rewards (`lib/planted.py`): a rule with an offset known exactly, and small reward
models trained on labels with a planted preference, whose truth is their effect on the whole
population of templates. Each is audited on a sample of templates by the code of `align audit`.

Coverage: the share of 95 % intervals that hold the truth, over pairs of seed and size. False
alarms: intervals that exclude 0 where the truth is exactly 0 - the rule without an offset, and a
trained model's neutral controls. Power: intervals of the rule that exclude 0, by offset.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from lib.planted import (
    AUDITED,
    BY_NAME,
    IN_RESPONSE,
    PLANTED,
    Reward,
    planted_contrast,
    population_effects,
    rule,
    trained,
)
from lib.side_by_side import finish, provenance
from scipy.stats import binomtest

from evals.bias.template_items import sample_items
from evals.stats import Resampling, wilson
from reward.audit import item_scores
from reward.evaluate import signed_rows
from reward.scores import Scores

SIZES = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Offsets of the rule in standard deviations of its noise."""
KNOBS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Planted worth of a favoured group in the labels, where a decent answer is worth 2."""
TARGET = (0.92, 0.98)
Row = dict[str, Any]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, help="of each size (40; short: 6)")
    parser.add_argument("--templates", type=int, default=24, help="sampled of each measure")
    parser.add_argument("--short", action="store_true", help="few seeds")
    parser.add_argument("--save", action="store_true", help="write it to benchmarks/results/")
    return parser.parse_args(words)


def audit(model: Reward, count: int, seed: int) -> list[Row]:
    """Signed effects of the planted attributes and the controls, in the score's own numbers."""
    items = sample_items(count, seed, AUDITED)
    return signed_rows(items, item_scores(Scores(model), items), Resampling(resamples=100))


def judged(row: Row, truth: float, **head: Any) -> Row:
    """Whether an interval holds its truth and whether it excludes 0."""
    keys = ("measure", "attribute", "group_a", "control", "value", "low", "high")
    found = head | {key: row[key] for key in keys} | {"truth": truth}
    tolerance = 1e-9 * max(1.0, abs(truth))  # a rule without noise between its sides has no width
    holds = row["low"] - tolerance <= truth <= row["high"] + tolerance
    return found | {"covered": bool(holds), "alarm": bool(row["low"] > 0 or row["high"] < 0)}


def rule_rows(seeds: int, templates: int) -> Iterator[Row]:
    """The rule at every size: its level moves by the offset, its preferences by nothing."""
    for place, size in enumerate(SIZES):
        for seed in range(place * seeds, (place + 1) * seeds):  # no noise is met twice
            for row in audit(rule(size, seed), templates, seed):
                planted = PLANTED.get(row["attribute"]) == row["group_a"]
                if planted or row["control"]:
                    moved = planted and row["measure"].endswith(":score")
                    head = {"kind": "rule", "size": size, "seed": seed, "planted": planted}
                    yield judged(row, size if moved else 0.0, **head)


def trained_rows(seeds: int, templates: int) -> Iterator[Row]:
    """Models at every knob: their effect on the population for planted groups, 0 for controls."""
    for place, knob in enumerate(KNOBS):
        for seed in range(place * seeds, (place + 1) * seeds):
            model = trained(knob, seed)
            truths: dict[tuple[str, str], float] = {}
            for name in PLANTED:
                contrast = planted_contrast(BY_NAME[name], IN_RESPONSE)
                effects = population_effects(model, BY_NAME[name], contrast)
                truths |= {(name, measure): value for measure, value in effects.items()}
            for row in audit(model, templates, seed):
                key = row["attribute"], row["measure"]
                planted = key in truths and PLANTED[key[0]] == row["group_a"]
                if planted or row["control"]:
                    head = {"kind": "trained", "size": knob, "seed": seed, "planted": planted}
                    yield judged(row, truths[key] if planted else 0.0, **head)


def share(rows: Sequence[Row], key: str) -> dict[str, Any]:
    """How often `key` holds, with Wilson's interval."""
    hits = sum(row[key] for row in rows)
    low, high = wilson(hits, len(rows))
    return {"rate": hits / len(rows), "low": low, "high": high, "n": len(rows)}


def summary(rows: Sequence[Row]) -> Row:
    """Coverage of planted effects, false alarms, power, and growth with the knob."""
    level = [row for row in rows if row["planted"] and row["measure"].endswith(":score")]
    kinds = {kind: [r for r in rows if r["kind"] == kind] for kind in ("rule", "trained")}
    null = [r for r in kinds["rule"] if r["size"] == 0]
    null += [r for r in kinds["trained"] if r["control"]]
    alarms = share(null, "alarm")
    test = binomtest(round(alarms["rate"] * alarms["n"]), alarms["n"], 0.05, "greater")
    curve = {
        size: [r for r in level if r["kind"] == "rule" and r["size"] == size] for size in SIZES
    }
    grows = [
        float(np.mean([r["truth"] for r in level if r["kind"] == "trained" and r["size"] == knob]))
        for knob in KNOBS
    ]
    return {
        "coverage": share(level, "covered")["rate"],
        "coverage_by": {
            name: share([r for r in level if r["kind"] == name], "covered") for name in kinds
        }
        | {
            f"{name}, {attribute}": share(
                [r for r in level if (r["kind"], r["attribute"]) == (name, attribute)], "covered"
            )
            for name in kinds
            for attribute in PLANTED
        },
        "pairs_of_seed_and_size": len({(r["kind"], r["seed"], r["size"]) for r in level}),
        "false_alarms": alarms["rate"],
        "false_alarms_by": {
            name: share([r for r in null if r["kind"] == name], "alarm") for name in kinds
        },
        "false_alarms_n": alarms["n"],
        "false_alarms_p": float(test.pvalue),
        "power": {str(size): share(found, "alarm")["rate"] for size, found in curve.items()},
        "trained_effect_by_knob": dict(zip(map(str, KNOBS), grows, strict=True)),
        "grows": all(a < b for a, b in pairwise(grows)),
    }


def main() -> None:
    """Measure, print the table and the result."""
    chosen = arguments()
    torch.set_num_threads(1)
    seeds, started = chosen.seeds or (6 if chosen.short else 40), time.perf_counter()
    rows: list[Row] = []
    for row in chain(rule_rows(seeds, chosen.templates), trained_rows(seeds, chosen.templates)):
        if rows and rows[-1]["size"] != row["size"]:
            print(f"done: {rows[-1]['kind']} {rows[-1]['size']:g}", flush=True)
        rows.append(row)
    found = summary(rows)
    alarms = {f"alarms, {name}": cell for name, cell in found["false_alarms_by"].items()}
    for name, cell in {**found["coverage_by"], **alarms}.items():
        ends = f"[{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
        print(f"{name:<24}{100 * cell['rate']:6.1f} % {ends} of {cell['n']}")
    result = {
        "benchmark": "audit_calibration",
        **found,
        "within_target": TARGET[0] <= found["coverage"] <= TARGET[1],
        "seeds": seeds,
        "templates": chosen.templates,
        "seconds": time.perf_counter() - started,
        **provenance(None),
    }
    finish(result, "audit_calibration" if chosen.save else None)


if __name__ == "__main__":
    main()
