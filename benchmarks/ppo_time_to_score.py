"""PPO against TRL's RLOO and GRPO: what each has learned after equal episodes, and how fast.

    python benchmarks/ppo_time_to_score.py                  a small Llama, toy score, 5 seeds
    python benchmarks/ppo_time_to_score.py --run runs/quickstart --seeds 5
    python benchmarks/ppo_time_to_score.py --run runs/quickstart --seeds 5 --ours lam=1.0
    python benchmarks/ppo_time_to_score.py --run runs/smollm2-sentiment

The toy score is the share of common tokens in a response. With `--run`, model, prompts, lengths,
settings and the reward model are those of a finished run, and all answer its held-out prompts at
the end, with the same random draws. Without `--seeds` ours is then the run's PPO stage as it was
trained, and times are not compared.

All start from the same weights with the same LoRA, learning rate, KL weight, epochs and batch; RLOO
and GRPO answer a prompt four times, ours once. TRL's own settings stand otherwise; `--ours` changes
settings of our `PPOConfig`. They run in turn, each in a fresh process. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.finished import CACHE, run_work
from lib.learning import learning, paired, to_target
from lib.side_by_side import finish, provenance, run_worker
from workers.work import Work

PROMPT_LENGTH = 24
METHODS = ("rloo", "grpo")
Report = dict[str, Any]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="folder of a finished run")
    parser.add_argument("--seeds", type=int, help="default: 5; with --run the run's own")
    parser.add_argument("--updates", type=int, default=48)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--ours", nargs="+", default=[], metavar="KEY=VALUE", help="of PPOConfig")
    parser.add_argument("--target", type=float, help="a score: seconds that each needs to it")
    parser.add_argument("--save", action="store_true", help="write it to benchmarks/results/")
    chosen = parser.parse_args(words)
    return chosen


def toy_work(chosen: argparse.Namespace) -> Work:
    """A Llama with random weights and random prompts."""
    request = {"size": "tiny", "gguf": "", "cache": str(CACHE), "prompt_length": PROMPT_LENGTH}
    made = run_worker(sys.executable, "workers.prepare", json.dumps(request))
    return Work(
        **made,
        score="toy",
        updates=chosen.updates,
        batch=chosen.batch,
        micro_batch=chosen.batch,
        learning_rate=chosen.learning_rate,
        kl_coef=0.001,
    )


def settings(given: Sequence[str]) -> dict[str, Any]:
    """Arguments of our configuration from KEY=VALUE, the values in JSON."""
    pairs = (text.partition("=") for text in given)
    return {key: json.loads(value) for key, _, value in pairs}


def run_all(
    work: Work, methods: Sequence[str], seeds: int, own: dict[str, Any], finished: Path | None
) -> dict[str, list[Report]]:
    """Every system on every seed, in turn."""
    reports: dict[str, list[Report]] = {name: [] for name in ("ours", *methods)}
    for seed in range(seeds):
        for name, done in reports.items():
            module, extra = "workers.trl_group", {"method": name}
            if name == "ours":
                module, extra = "workers.ours_ppo", own
                if finished is not None:
                    module, extra = "workers.finished_ppo", {"run": str(finished.resolve())}
            one = replace(work, seed=work.seed + seed, extra=extra)
            done.append(run_worker(sys.executable, module, one.to_json()))
            report = done[-1]
            print(
                f"seed {one.seed} {name:<5} {report['ended'][-1]:7.1f} s"
                f"   score {report['scores'][0]:+.3f} -> {report['scores'][-1]:+.3f}",
                flush=True,
            )
    return reports


def main() -> None:
    """Run all, print the result."""
    chosen = arguments()
    work = toy_work(chosen) if chosen.run is None else run_work(chosen.run)
    finished = chosen.run if chosen.seeds is None else None
    seeds = chosen.seeds or (5 if chosen.run is None else 1)
    own = settings(chosen.ours)
    reports = run_all(work, chosen.methods, seeds, own, finished)
    ours = reports["ours"]
    result: dict[str, Any] = {
        "benchmark": "ppo_time_to_score",
        "score": "toy" if chosen.run is None else chosen.run.resolve().name,
        "episodes": work.episodes,
        "dtype": work.dtype,
        "own_settings": own,
    }
    for name in chosen.methods:
        pairs = list(zip(ours, reports[name], strict=True))
        result[name] = learning(pairs) | {
            "held": paired([(a["held"], b["held"]) for a, b in pairs])
        }
        if chosen.target is not None:
            result[name]["target"] = to_target(pairs, chosen.target)
        if finished is not None:  # its seconds are of another day
            for timed in ("time_ratio", "time_ratios", "reached", "common", "target"):
                result[name].pop(timed, None)
    result["curves"] = {
        name: [{"score": run["scores"], "seconds": run["ended"]} for run in runs]
        for name, runs in reports.items()
    }
    result["versions"] = {name: runs[0]["versions"] for name, runs in reports.items()}
    result |= provenance(ours[0]["accelerator"])
    name = "-".join(["ppo_time_to_score", result["score"], *chosen.ours]).replace("=", "-")
    finish(result, name if chosen.save else None)


if __name__ == "__main__":
    main()
