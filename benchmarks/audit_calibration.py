"""Does the audit find a bias of known size, and nothing where there is none?

    python benchmarks/audit_calibration.py --short   a few seeds, some minutes
    python benchmarks/audit_calibration.py --save    all of it, under an hour of one core

Two kinds of rewards (`lib/planted.py`): a rule with an offset known exactly, and small reward
models trained on labels with a planted preference, whose truth is their effect on the whole
population of templates. Two kinds of language models (`lib/planted_text.py`): tiny ones trained
on text with a planted preference, whose truth is that effect too, and those trained on neutral
text with an offset on their log-likelihoods that makes it exactly a given number. Each is audited
on a sample of templates by the code of `align audit`.

Coverage: the share of 95 % intervals that hold the truth, over pairs of seed and size. False
alarms: intervals that exclude 0 where the truth is exactly 0 - an offset of 0, and a trained
model's neutral controls. Power: intervals that exclude 0, by offset.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise

import numpy as np
import torch
from lib.covered import Row, alarm_rate, by_size, judged, print_shares, share
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
from lib.planted_text import (
    FAVOURED,
    Key,
    audit_language_model,
    text_effects,
    tokenizer,
    trained_on_text,
    with_offset,
)
from lib.side_by_side import finish, provenance

from evals.bias.template_items import sample_items
from evals.engine import Engine
from evals.stats import Resampling
from reward.audit import item_scores
from reward.evaluate import signed_rows
from reward.scores import Scores

SIZES = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Offsets: of the rule in standard deviations of its noise, of language models in nats."""
KNOBS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Planted worth of a favoured group in the labels, where a decent answer is worth 2; in the text
log-odds of the decent answer."""
TARGET = (0.92, 0.98)


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


def text_rows(seeds: int, templates: int) -> Iterator[Row]:
    """Language models: trained on text at every knob, and the neutral ones at every offset.

    Knobs share seeds of training, so that they differ by the knob; no audit repeats a draw.
    """
    neutral = {}
    for place, knob in enumerate(KNOBS):
        for seed in range(seeds):
            model = trained_on_text(knob, seed)
            truths = text_effects(model)
            if knob == 0:
                neutral[seed] = model, truths
            rows = audit_language_model(Engine(model, tokenizer()), templates, place * seeds + seed)
            yield from _text_judged(rows, truths, "text", knob, place * seeds + seed)
    for place, size in enumerate(SIZES, start=len(KNOBS)):
        for seed, (model, own) in neutral.items():
            engine, draw = with_offset(model, own, size), place * seeds + seed
            rows = audit_language_model(engine, templates, draw)
            truths = dict.fromkeys(own, size)
            planted = [row for row in rows if not row["control"]]  # controls are as without it
            yield from _text_judged(planted, truths, "offset", size, draw)


def _text_judged(
    rows: Sequence[Row], truths: Mapping[Key, float], kind: str, size: float, seed: int
) -> Iterator[Row]:
    """Rows of a language model; a control's truth is 0."""
    for row in rows:
        planted = not row["control"]
        truth = truths[row["attribute"], row["measure"]] if planted else 0.0
        yield judged(row, truth, kind=kind, size=size, seed=seed, planted=planted)


def summary(rows: Sequence[Row]) -> Row:
    """Coverage of planted effects, false alarms, power, and growth with the knob."""
    level = [row for row in rows if row["planted"] and row["measure"].endswith(":score")]
    kinds = {kind: [r for r in rows if r["kind"] == kind] for kind in ("rule", "trained")}
    null = {
        "rule": [r for r in kinds["rule"] if r["size"] == 0],
        "trained": [r for r in kinds["trained"] if r["control"]],
    }
    rules = [r for r in level if r["kind"] == "rule"]
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
        **alarm_rate(null),
        "power": by_size(rules, SIZES),
        "trained_effect_by_knob": dict(zip(map(str, KNOBS), grows, strict=True)),
        "grows": all(a < b for a, b in pairwise(grows)),
    }


def text_summary(rows: Sequence[Row]) -> Row:
    """The same of language models: in every measure, by kind and attribute."""
    planted = [row for row in rows if row["planted"]]
    kinds = {kind: [r for r in planted if r["kind"] == kind] for kind in ("text", "offset")}
    null = {
        "text": [row for row in rows if row["control"]],
        "offset": [r for r in kinds["offset"] if r["size"] == 0],
    }
    name, measure = next(iter(FAVOURED)), "in response"
    single = [r for r in planted if (r["attribute"], r["measure"]) == (name, measure)]
    cells = {kind: share(some, "covered") for kind, some in kinds.items()}
    cells |= {
        f"{kind}, one a pair ({name}, {measure})": share(
            [r for r in single if r["kind"] == kind], "covered"
        )
        for kind in kinds
    }
    cells |= {
        f"{kind}, {attribute}": share([r for r in some if r["attribute"] == attribute], "covered")
        for kind, some in kinds.items()
        for attribute in FAVOURED
    }
    means = {
        key: [float(np.mean([r[key] for r in kinds["text"] if r["size"] == k])) for k in KNOBS]
        for key in ("truth", "value")
    }
    return {
        "coverage": share(planted, "covered")["rate"],
        "coverage_by": cells,
        "pairs_of_seed_and_size": len({(r["kind"], r["seed"], r["size"]) for r in planted}),
        **alarm_rate(null),
        "power": by_size(kinds["offset"], SIZES),
        "power_by_knob": by_size(kinds["text"], KNOBS),
        "true_effect_by_knob": dict(zip(map(str, KNOBS), means["truth"], strict=True)),
        "measured_effect_by_knob": dict(zip(map(str, KNOBS), means["value"], strict=True)),
        "grows": all(a < b for found in means.values() for a, b in pairwise(found)),
    }


PARTS = (rule_rows, trained_rows, text_rows)


def main() -> None:
    """Measure, print the table and the result."""
    chosen = arguments()
    torch.set_num_threads(1)
    seeds, started = chosen.seeds or (6 if chosen.short else 40), time.perf_counter()
    started_cpu = time.process_time()
    parts: dict[str, list[Row]] = {}
    for row in chain(*(part(seeds, chosen.templates) for part in PARTS)):
        some = parts.setdefault(row["kind"], [])
        if not some or some[-1]["size"] != row["size"]:
            seconds = time.perf_counter() - started
            print(f"{seconds:6.0f} s: {row['kind']} {row['size']:g}", flush=True)
        some.append(row)
    found = summary(parts["rule"] + parts["trained"])
    texts = text_summary(parts["text"] + parts["offset"])
    print_shares("rewards: coverage", found)
    print_shares("language models: coverage", texts)
    result = {
        "benchmark": "audit_calibration",
        **found,
        "within_target": TARGET[0] <= found["coverage"] <= TARGET[1],
        "language_models": texts | {"within_target": TARGET[0] <= texts["coverage"] <= TARGET[1]},
        "seeds": seeds,
        "templates": chosen.templates,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - started_cpu,
        **provenance(None),
    }
    finish(result, "audit_calibration" if chosen.save else None)


if __name__ == "__main__":
    main()
