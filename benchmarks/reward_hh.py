"""A reward model trained on hh-rlhf helpful pairs, and how well it ranks pairs of five sets.

    python benchmarks/reward_hh.py                                    configs/reward-hh.yaml
    python benchmarks/reward_hh.py reward.learning_rate=1e-4 name=lr1e-4     another attempt
    python benchmarks/reward_hh.py --stage runs/reward-hh/3-reward --limit 100

Trains by `align reward` (a finished stage is used as it is), then scores every pair of the test
part, none left out for its length, and of four further sets that it never saw.

The last line is one JSON object: `accuracy`, `low`, `high` and `n` on the first set, the helpful
test pairs unless `--sets` says otherwise, and `baseline`, the share in which the longer response
(in characters) is the chosen one; `sets` has the same for all sets, each with the paired difference
to the baseline.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.side_by_side import finish, provenance
from peers import PROJECT

CONFIG = PROJECT / "configs" / "reward-hh.yaml"
DATA = PROJECT.parent / "shared" / "data"
SETS = {
    "hh-helpful": "preference-hh-helpful/test.jsonl.gz",
    "hh-harmless": "preference-hh-harmless/test.jsonl.gz",
    "pandalm": "preference-pandalm/test.jsonl",
    "llmbar": "preference-llmbar/test.jsonl",
    "fgrlhf": "preference-fgrlhf-qa/train.jsonl.gz",
}
"""The first one is judged; the others tell how far it carries."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="settings of the run, key=value")
    parser.add_argument("--stage", type=Path, help="a finished reward stage; trains nothing")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public slices")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--limit", type=int, help="pairs a set, drawn by chance; default: all")
    parser.add_argument("--save", action="store_true", help="write it to benchmarks/results/")
    return parser.parse_args(words)


def train(chosen: argparse.Namespace) -> Path:
    """Train, or find finished, the run's reward stage."""
    from align.settings import load_run

    given = [f"data.root={chosen.data.resolve()}", *chosen.overrides]
    command = [sys.executable, "-m", "align", "reward", str(CONFIG), *given]
    subprocess.run(command, check=True, cwd=PROJECT)
    run = load_run(CONFIG, given)
    return PROJECT / run.output / run.name / "3-reward"


def judge(model: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy with its interval, the length baseline on the same pairs, and their difference."""
    from dataclasses import asdict

    from evals.significance import compare_proportions
    from evals.stats import proportion_estimate
    from reward.evaluate import score_pairs

    started = time.perf_counter()
    pairs = score_pairs(model, rows)
    correct, longer = pairs.correct(), pairs.longer()
    found = proportion_estimate(correct)
    gain = asdict(compare_proportions(longer, correct))
    return {
        "accuracy": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "baseline": float(longer.mean()),
        "over_baseline": {key: gain[key] for key in ("difference", "low", "high", "p")},
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Train, score, print the table and the result."""
    from align.config import SourceConfig
    from align.data.sources import DataContext, load_rows
    from reward.load import load_reward

    chosen = arguments()
    stage = chosen.stage or train(chosen)
    model = load_reward(stage)
    context = DataContext(chosen.data.resolve(), None, 0)
    sets: dict[str, Any] = {}
    print(f"{'':<14}{'n':>6}{'accuracy':>10}{'interval':>16}{'longer wins':>13}")
    for name in chosen.sets:
        source = SourceConfig(path=SETS[name], limit=chosen.limit)
        row = sets[name] = judge(model, load_rows(source, "preferences", context).rows)
        ends = f"[{row['low']:.3f}, {row['high']:.3f}]"
        print(
            f"{name:<14}{row['n']:>6}{row['accuracy']:>10.3f}{ends:>16}{row['baseline']:>13.3f}",
            flush=True,
        )
    manifest = json.loads((stage / "manifest.json").read_text(encoding="utf-8"))
    keys = ("accuracy", "low", "high", "n", "baseline")
    result = {
        "benchmark": "reward_hh",
        **{key: sets[chosen.sets[0]][key] for key in keys},
        "sets": sets,
        "overrides": chosen.overrides,
        "training": {"seconds": manifest["seconds"], "metrics": manifest["metrics"]},
        **provenance(None),
    }
    others = chosen.sets if chosen.sets[0] != next(iter(SETS)) else []
    parts = (text.replace("=", "-") for text in (*chosen.overrides, *others))
    name = "-".join(["reward_hh", *parts])
    finish(result, name if chosen.save else None)


if __name__ == "__main__":
    main()
