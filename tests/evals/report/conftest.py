"""A run folder with made-up but consistent results, in the formats the stages write."""

import json
import math
import random
import sys

import pytest
import yaml

HOSTILE = '<script>alert("x")</script><img src=http://evil.example/a.png onerror=alert(1)> & </td>'
EMOJI = "\N{PARTY POPPER}\N{FAMILY} "
PAIRS = {"gender": ("woman", "man"), "origin": ("Turkish", "German"), "age": ("older", "younger")}
STAGES = ("base", "sft", "ppo")
STEPS = (("base", "sft"), ("sft", "ppo"), ("base", "ppo"))


def proportion(hits, n, z=1.959963984540054, **keys):
    """An estimate with Wilson's interval, as the ledger stores it."""
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    row = {"value": p, "low": middle - half, "high": middle + half, "n": n, "method": "Wilson 95%"}
    return {**keys, **row}


def estimate(value, half, n, method, **keys):
    ends = {"value": value, "low": value - half, "high": value + half}
    return {**keys, **ends, "n": n, "method": method}


def difference(before, after, value, half, n, **keys):
    p = math.erfc(abs(value) / (half / 1.96) / math.sqrt(2))
    row = {"difference": value, "low": value - half, "high": value + half, "p": p}
    return {**keys, "before": before, "after": after, **row, "n": n, "mde": half / 1.96 * 2.8}


def bias_row(shift, half, attribute, *, control, **keys):
    a, b = PAIRS[attribute]
    names = {"group_a": a, "group_b": a if control else b, "control": control}
    row = {"measure": "praise", "attribute": attribute, **names}
    p = math.erfc(abs(shift) / (half / 1.96) / math.sqrt(2))
    numbers = {"value": shift, "low": shift - half, "high": shift + half, "p": p}
    return {**keys, **row, **numbers, "n": 240, "clusters": 24, "unit": "nats"}


SHIFTS = {
    "gender": {"base": -0.02, "sft": 0.05, "ppo": 0.41},
    "origin": {"base": 0.11, "sft": 0.14, "ppo": 0.16},
    "age": {"base": 0.03, "sft": -0.01, "ppo": 0.02},
}


def bias_tables():
    bias, changes = [], []
    for attribute, values in SHIFTS.items():
        for control in (False, True):
            half = 0.08 if control else 0.12
            drift = {s: 0.01 * (i - 1) if control else values[s] for i, s in enumerate(STAGES)}
            bias += [
                bias_row(drift[s], half, attribute, control=control, stage=s, task="bias")
                for s in STAGES
            ]
            for before, after in STEPS:
                row = bias_row(0.0, half, attribute, control=control, task="bias")
                change = difference(before, after, drift[after] - drift[before], 0.07, 240)
                del row["value"], row["unit"], change["mde"]
                changes.append({**row, **change})
    return bias, changes


def capability_tables():
    hits = {"base": 205, "sft": 318, "ppo": 327}
    estimates = [
        proportion(hits[s], 400, stage=s, task="sentiment", metric="acc", better="higher")
        for s in STAGES
    ]
    others = {
        ("sentiment", "f1_macro"): ((0.481, 0.79, 0.815), 0.04, 400, "higher"),
        ("translation", "bleu"): ((2.31, 34.8, 33.9), 2.9, 150, "higher"),
        ("translation", "chrf"): ((11.2, 52.4, 51.8), 2.1, 150, "higher"),
        ("perplexity", "word_perplexity"): ((28.4, 29.7, 34.2), 1.4, 200, "lower"),
        ("perplexity", "bits_per_byte"): ((1.214, 1.231, 1.284), 0.021, 200, "lower"),
    }
    comparisons = []
    for (task, metric), (values, half, n, better) in others.items():
        keys = {"task": task, "metric": metric}
        for stage, value in zip(STAGES, values, strict=True):
            row = estimate(value, half, n, "bootstrap BCa, 2000 resamples", **keys)
            estimates.append({**row, "stage": stage, "better": better})
        at = dict(zip(STAGES, values, strict=True))
        for before, after in STEPS:
            change = at[after] - at[before]
            row = difference(before, after, change, half * 0.6, n, **keys)
            comparisons.append({**row, "test": "permutation"})
    for before, after in STEPS:
        change = (hits[after] - hits[before]) / 400
        row = difference(before, after, change, 0.031, 400, task="sentiment", metric="acc")
        comparisons.append({**row, "test": "McNemar"})
    return estimates, comparisons


def group_table():
    counts = {
        ("gender", "woman"): (178, 0.50),
        ("gender", "man"): (192, 0.61),
        ("gender", "unknown"): (30, 0.55),
        ("age", "younger"): (371, 0.57),
        ("age", "older"): (24, 0.38),
        ("age", "over 90"): (5, 0.60),
    }
    rows = []
    for stage in STAGES:
        for (attribute, group), (n, rate) in counts.items():
            for metric, factor in (("selection_rate", 1.0), ("accuracy", 1.3)):
                hits = round(n * rate * factor)
                row = proportion(hits, n, stage=stage, task="sentiment", metric=metric)
                row |= {"attribute": attribute, "group": group, "flag": ""}
                rows.append(row | {"numerator": hits, "denominator": n})
    return rows


def reward_section():
    shifts = {"gender": 0.31, "origin": 0.05, "age": -0.02}
    keys = {"stage": "reward", "task": "bias"}
    bias = [bias_row(shifts[a], 0.1, a, control=False, **keys) for a in PAIRS]
    bias += [bias_row(0.01, 0.06, a, control=True, **keys) for a in PAIRS]
    bias = [row | {"unit": "sd of scores"} for row in bias]
    return {
        "accuracy": proportion(229, 300),
        "longer_wins": proportion(171, 300),
        "difference": {"difference": 58 / 300, "low": 0.12, "high": 0.265, "p": 1e-6},
        "score_mean": 0.043,
        "score_std": 1.37,
        "length_correlation": estimate(0.22, 0.1, 600, "Fisher z"),
        "margin": estimate(0.91, 0.12, 300, "t 95%"),
        "groups": [
            proportion(hits, n, stage="reward", task="pairs", attribute="gender", group=name)
            | {"metric": "accuracy", "numerator": hits, "denominator": n, "flag": ""}
            for name, hits, n in (("man", 131, 160), ("woman", 98, 140))
        ],
        "bias": bias,
    }


def sample_rows(count=24):
    generator = random.Random(5)
    rows = []
    for i in range(count):
        scores = {s: round(generator.gauss(0.6 * k - 0.4, 0.7), 4) for k, s in enumerate(STAGES)}
        gold = {s: round(generator.gauss(0.5, 0.2), 4) for s in STAGES}
        responses = {s: f"The {s} answer number {i}, a short one." for s in STAGES}
        rows.append({"prompt": f"Question {i}?", "responses": responses, "scores": scores})
        rows[-1]["gold"] = gold
    rows[0] |= {"prompt": f"Say hello. {HOSTILE}"}
    rows[0]["responses"]["ppo"] = HOSTILE
    rows[0]["scores"] = {"base": -1.0, "sft": 0.0, "ppo": 4.0}
    rows[1]["responses"]["ppo"] = EMOJI * 30 + "\nnew line\n```\ncode\n```"
    rows[1]["scores"] = {"base": 2.0, "sft": 0.0, "ppo": -3.0}
    rows[2]["responses"]["ppo"] = "word" * 2000
    rows[2]["scores"] = {"base": -2.0, "sft": 0.0, "ppo": 2.5}
    return rows


def task_row(name, kind, n, definition, missing=0):
    signature = f"{name}|v1|rows:{n}|split:test|shots:0|greedy|seed:7"
    row = {"name": name, "kind": kind, "title": name.capitalize(), "n": n, "missing": missing}
    metrics = {"acc": "share of right answers"} if kind == "classification" else {}
    return {**row, "signature": signature, "definition": definition, "metrics": metrics}


def make_ledger():
    estimates, comparisons = capability_tables()
    bias, changes = bias_tables()
    digest = {"base": "a1", "sft": "b2", "ppo": "c3"}
    folders = {"base": "1-pretrain/model", "sft": "2-sft", "ppo": "4-ppo"}
    overlap = {"task": "sentiment", "share": 0.0125, "rows": 5, "examples": [f"seen {HOSTILE}"]}
    return {
        "stages": list(STAGES),
        "models": {s: {"reference": folders[s], "hash": digest[s] * 32} for s in STAGES},
        "tasks": [
            task_row("sentiment", "classification", 400, "argmax of the summed log-probability."),
            task_row("translation", "translation", 150, "corpus BLEU and chrF (sacrebleu).", 2),
            task_row("perplexity", "perplexity", 200, "word: exp(-sum ll / sum words)."),
            task_row("bias", "counterfactual", 240, "[ll(+|a) - ll(-|a)] - [same for b]."),
        ],
        "estimates": estimates,
        "comparisons": comparisons,
        "groups": group_table(),
        "bias": bias,
        "bias_comparisons": changes,
        "reward_model": reward_section(),
        "samples": sample_rows(),
        "overlap": [overlap, {"task": "translation", "share": 0.0, "rows": 0, "examples": []}],
        "missing": [{"stage": "ppo", "task": "translation", "count": 2, "reason": "no answer"}],
    }


def ppo_log(updates=32):
    generator = random.Random(3)
    rows = []
    for i in range(updates):
        x, noise = i / (updates - 1), generator.gauss(0, 0.04)
        row = {"step": float(8 * i), "update": float(i), "episode": float(64 * (i + 1))}
        row |= {"score/mean": -0.4 + 1.6 * x + noise, "score/std": 0.9, "kl/k1": 7 * x + noise}
        row |= {"policy/entropy": 2.4 - 1.1 * x + noise, "response/length": 24 + 5 * x + 9 * noise}
        row |= {"policy/loss": -0.02 + noise / 8, "value/loss": 0.9 * math.exp(-3 * x)}
        rows.append(row)
        if i % 8 == 7:
            evals = {"eval/score": -0.35 + 1.5 * x, "eval/gold": 0.5 + 0.1 * x, "eval/kl": 6.6 * x}
            rows.append({"step": float(8 * i), **evals, "eval/length": 26.0, "eval/n": 128.0})
    return rows


def train_log(first, last, steps=60):
    rows = []
    for i in range(steps):
        loss = last + (first - last) * math.exp(-5 * i / steps)
        rows.append({"step": 10 * (i + 1), "loss": loss, "learning_rate": 2e-4, "grad_norm": 1.1})
        if i % 15 == 14:
            rows.append({"step": 10 * (i + 1), "eval_loss": loss * 1.06})
    return rows


def manifest(stage, outputs, data, metrics):
    record = {"source": data, "revision": None, "split": "train", "rows": 4000, "sha256": "d4" * 32}
    dropped = {"too long": 12, "empty": 0} if "sft" in stage else {}
    record |= {"licence": "generated", "dropped": dropped}
    return {
        "stage": stage,
        "command": f"align run configs/quickstart.yaml ({stage})",
        "seed": 7,
        "config": {},
        "config_hash": "e5" * 32,
        "inputs": {"base": {"path": "../1-pretrain/model", "hash": "a1" * 32}},
        "code": "f6" * 32,
        "data": [record],
        "outputs": {name: {"bytes": size, "hash": "07" * 32} for name, size in outputs.items()},
        "model": {"base": "../1-pretrain/model", "adapters": ["adapter"]},
        "git": {"commit": "0123456789" * 4, "dirty": stage == "4-ppo"},
        "packages": {"alignkit": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "device": "cpu",
        "seconds": 83.25,
        "finished": f"2026-03-0{stage[0]}T10:00:00+00:00",
        "metrics": metrics,
    }


LOGS = {
    "1-pretrain": lambda: train_log(6.9, 2.1),
    "2-sft": lambda: train_log(2.4, 1.3),
    "3-reward": lambda: train_log(0.71, 0.46),
    "4-ppo": ppo_log,
}
GATE = [
    {"task": "sentiment", "metric": "acc", "at_least": 0.75},
    {"task": "sentiment", "metric": "acc", "not_worse_than": "sft", "margin": 0.03},
    {"task": "bias", "metric": "praise/gender", "at_least": -0.25, "at_most": 0.25},
    {"task": "reward_model", "metric": "difference", "at_least": 0.0},
    {"task": "ppo", "metric": "kl/k1", "at_most": 8.0},
]


def write_run(folder):
    """Write the whole run; returns its folder."""
    evals = {"confidence": 0.95, "resamples": 2000}
    config = {"name": "quickstart", "seed": 7, "ppo": {"kl_budget": 8.0}, "pretrain": {}}
    config |= {"sft": {}, "reward": {}, "evals": evals, "report": {"gate": GATE}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for stage, log in LOGS.items():
        place = folder / stage
        place.mkdir()
        (place / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in log()))
        outputs = {"adapter/adapter_model.safetensors": 1_234_567, "samples.jsonl": 8_400}
        if stage == "1-pretrain":
            outputs = {"model/model.safetensors": 9_000_000, "model/tokenizer.json": 61_000}
        entry = json.dumps(manifest(stage, outputs, f"world:{stage[2:]}", {"loss": 1.25}))
        (place / "manifest.json").write_text(entry)
    last = folder / "5-evals"
    last.mkdir()
    (last / "ledger.json").write_text(json.dumps(make_ledger()))
    entry = manifest("5-evals", {"ledger.json": 120_000}, "world:heldout_text", {"tasks": 4})
    (last / "manifest.json").write_text(json.dumps(entry))
    return folder


@pytest.fixture
def ledger():
    return make_ledger()


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path / "quickstart")


@pytest.fixture(scope="session")
def made():
    return sys.modules[__name__]
