"""PPO against TRL's RLOO and GRPO: what each has learned after equal episodes, and how fast.

    python benchmarks/ppo_time_to_score.py                  a small Llama, toy score, 5 seeds
    python benchmarks/ppo_time_to_score.py --run runs/smollm2-sentiment

The toy score is the share of common tokens in a response. With `--run`, model, prompts, lengths and
the reward model are those of a finished run, ours is its PPO stage as it was trained, and all
answer its held-out prompts at the end, with the same random draws. Times are then not compared.

All start from the same weights with the same LoRA, learning rate, KL weight, epochs and batch; RLOO
and GRPO answer a prompt four times, ours once. TRL's own settings stand otherwise. They run in
turn, each in a fresh process. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.learning import learning, paired
from lib.side_by_side import finish, provenance, run_worker
from peers import PROJECT
from workers.work import Work

from align.files import write_json_atomic

CACHE = PROJECT / "models" / "benchmarks"
PROMPT_LENGTH = 24
METHODS = ("rloo", "grpo")
Report = dict[str, Any]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="folder of a finished run")
    parser.add_argument("--seeds", type=int, help="default: 5, and 1 with --run")
    parser.add_argument("--updates", type=int, default=48)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--save", action="store_true", help="write it to benchmarks/results/")
    chosen = parser.parse_args(words)
    if chosen.run is not None and chosen.seeds not in (None, 1):
        parser.error("a run has one seed, its own")
    chosen.seeds = chosen.seeds or (5 if chosen.run is None else 1)
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


def run_work(folder: Path) -> Work:
    """The PPO stage of a finished run as a benchmark's work.

    Raises:
        SystemExit: It holds no reward model or no PPO section.
    """
    from align.config import SourceConfig
    from align.data.encoding import encode_prompt
    from align.data.sources import load_rows
    from align.models import load_tokenizer
    from align.settings import load_run
    from align.stages import data_context, model_of

    config, reward = load_run(folder / "config.yaml"), folder / "3-reward"
    ppo = config.ppo
    if ppo is None or ppo.eval_data is None or not (reward / "manifest.json").is_file():
        raise SystemExit(f"{folder}: no finished reward model, PPO section or held-out prompts")
    policy = model_of(config, folder, "sft")
    assert policy is not None
    tokenizer = load_tokenizer(policy)

    def prompts(source: SourceConfig, name: str) -> str:
        rows = load_rows(source, "prompts", data_context(config)).rows
        ids = [encode_prompt(tokenizer, row["prompt"]) for row in rows]
        file = CACHE / f"{config.name}-{name}.json"
        write_json_atomic(file, [row for row in ids if len(row) <= ppo.max_prompt_length])
        return str(file)

    base = {"base": str(Path(policy.base).resolve())}
    return Work(
        model=run_worker(sys.executable, "workers.prepare", json.dumps(base))["model"],
        seed=config.seed,
        prompts=prompts(ppo.data, "prompts"),
        held=prompts(ppo.eval_data, "held"),
        score=str(reward.resolve()),
        dtype="float32" if config.dtype == "auto" else config.dtype,
        updates=ppo.episodes // ppo.batch_size,
        batch=ppo.batch_size,
        micro_batch=ppo.micro_batch_size,
        epochs=ppo.ppo_epochs,
        response_length=ppo.response_length,
        temperature=ppo.temperature,
        learning_rate=ppo.learning_rate,
        kl_coef=ppo.kl_coef,
    )


def run_all(
    work: Work, methods: Sequence[str], seeds: int, finished: Path | None
) -> dict[str, list[Report]]:
    """Every system on every seed, in turn."""
    reports: dict[str, list[Report]] = {name: [] for name in ("ours", *methods)}
    for seed in range(seeds):
        for name, done in reports.items():
            module, extra = "workers.trl_group", {"method": name}
            if name == "ours":
                module, extra = "workers.ours_ppo", {}
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
    reports = run_all(work, chosen.methods, chosen.seeds, chosen.run)
    ours = reports["ours"]
    result: dict[str, Any] = {
        "benchmark": "ppo_time_to_score",
        "score": "toy" if chosen.run is None else chosen.run.name,
        "episodes": work.episodes,
        "dtype": work.dtype,
    }
    for name in chosen.methods:
        pairs = list(zip(ours, reports[name], strict=True))
        result[name] = learning(pairs) | {
            "held": paired([(a["held"], b["held"]) for a, b in pairs])
        }
        if chosen.run is not None:  # its seconds are of another day
            for timed in ("time_ratio", "time_ratios", "reached"):
                del result[name][timed]
    result["curves"] = {
        name: [{"score": run["scores"], "seconds": run["ended"]} for run in runs]
        for name, runs in reports.items()
    }
    result["versions"] = {name: runs[0]["versions"] for name, runs in reports.items()}
    result |= provenance(ours[0]["accelerator"])
    finish(result, f"ppo_time_to_score-{result['score']}" if chosen.save else None)


if __name__ == "__main__":
    main()
