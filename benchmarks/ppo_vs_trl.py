"""PPO side by side with TRL 1.12, the last release that has it: time, memory, learning.

    python benchmarks/ppo_vs_trl.py                                 SmolLM2-135M, float32
    python benchmarks/ppo_vs_trl.py --dtype bfloat16 --save
    python benchmarks/ppo_vs_trl.py --ours-dtype autocast --peer-dtype bfloat16    best against best
    python benchmarks/ppo_vs_trl.py --size 1b --dtype bfloat16      random weights, for a GPU
    python benchmarks/ppo_vs_trl.py --score toy --size tiny --seeds 5 --updates 96 --kl-coef 0.001
    python benchmarks/ppo_vs_trl.py --run runs/quickstart --seeds 5     its PPO, its reward model

The toy score is a share of T tokens, so one token earns 1 / T: the usual KL weight of 0.05 would
keep the best policy close to the reference, and both sides with it.

Both sides do the same work: same weights, prompts of 24 tokens, 16 responses of exactly 32 tokens
an update, four epochs of one optimizer step, LoRA on every linear layer, same rewards, same
optimizer settings. Our values come from a head on the policy's trunk, which is our default, unless
`--ours-args '{"critic": "adapter"}'` gives the critic an adapter of its own, as the peer's has.
They run in turn, each in a fresh process. Seconds are medians over updates after the first, which
warms up. What is each system's own stays its own: ours clips gradients and shares one base; TRL
does not clip and holds three copies.

The last line is one JSON object. `speedup` is the peer's seconds an update over ours and
`memory_ratio` our peak memory over the peer's, medians over rounds with least and largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from lib.finished import CACHE, run_work
from lib.learning import learning
from lib.side_by_side import alternate, finish, provenance, ratio, run_worker
from peers import PROJECT, peer_python
from workers.work import Work

GGUF = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT_LENGTH = 24
PHASES = ("sample", "score", "measure", "optimise")
DTYPES = ("float32", "bfloat16", "autocast")
Report = dict[str, Any]


class Side(NamedTuple):
    """A system to run: its name, interpreter, worker and work."""

    name: str
    python: Path
    module: str
    work: Work

    def run(self, number: int) -> Report:
        """One run in a fresh process; every round has a seed of its own, the same for both."""
        work = replace(self.work, seed=self.work.seed + number)
        report = run_worker(self.python, self.module, work.to_json())
        print(
            f"round {number + 1} {self.name:<8} {update_seconds(report):8.2f} s an update"
            f" {report['memory_gb']:7.2f} GB   score {report['scores'][-1]:+.3f}",
            flush=True,
        )
        return report


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    plain = Work(model="", prompts="")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("smollm2", "tiny", "135m", "1b"), default="smollm2")
    parser.add_argument("--gguf", type=Path, default=GGUF, help="SmolLM2's file (make smollm2)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--ours-dtype", choices=DTYPES)
    parser.add_argument("--peer-dtype", choices=DTYPES)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs")
    parser.add_argument("--seeds", type=int, help="the same, as --score toy calls it")
    parser.add_argument("--score", choices=("model", "toy"), default="model")
    parser.add_argument("--run", type=Path, help="folder of a finished run: work and score")
    parser.add_argument("--critic", choices=("lora", "full"), default="lora", help="the peer's")
    for name in ("updates", "batch", "micro_batch", "epochs", "response_length", "seed"):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=int, default=getattr(plain, name))
    for name in ("temperature", "learning_rate", "kl_coef"):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=float, default=getattr(plain, name))
    for side in ("ours", "peer"):
        parser.add_argument(
            f"--{side}-args", type=json.loads, default={}, help="JSON for its PPOConfig"
        )
    parser.add_argument("--save", action="store_true", help="write it to benchmarks/results/")
    chosen = parser.parse_args(words)
    if chosen.batch % chosen.micro_batch:
        parser.error(f"--micro-batch {chosen.micro_batch} does not divide --batch {chosen.batch}")
    if chosen.size == "smollm2" and not chosen.gguf.is_file():
        parser.error(f"no file {chosen.gguf}; `make smollm2` fetches it, or choose another --size")
    return chosen


def chosen_work(chosen: argparse.Namespace) -> Work:
    """The work that the command line describes."""
    request = {
        "size": chosen.size,
        "gguf": str(chosen.gguf),
        "cache": str(CACHE),
        "prompt_length": PROMPT_LENGTH,
    }
    made = run_worker(sys.executable, "workers.prepare", json.dumps(request))
    shared = {name: getattr(chosen, name) for name in asdict(Work("", "")) if name in chosen}
    return Work(**{**shared, **made})


def sides(chosen: argparse.Namespace) -> tuple[Side, Side]:
    """Ours and the peer, with the weights and prompts that both load."""
    python, peer = Path(sys.executable), peer_python("trl-1.12")
    work = chosen_work(chosen) if chosen.run is None else run_work(chosen.run)
    return (
        Side(
            "ours",
            python,
            "workers.ours_ppo",
            replace(work, dtype=chosen.ours_dtype or chosen.dtype, extra=chosen.ours_args),
        ),
        Side(
            "trl 1.12",
            peer,
            "workers.trl_ppo",
            replace(work, dtype=chosen.peer_dtype or chosen.dtype, extra=chosen.peer_args),
        ),
    )


def settled(updates: Sequence[Any]) -> Sequence[Any]:
    """Updates after the first, which warms up, where there are any."""
    return updates[1:] or updates


def update_seconds(report: Report) -> float:
    """Median seconds of a run's settled updates."""
    return float(statistics.median(settled(report["seconds"])))


def summary(side: Side, reports: Sequence[Report]) -> dict[str, Any]:
    """Medians over one side's runs, and each run's score against wall-clock."""

    def phase(name: str) -> float:
        values = [part[name] for report in reports for part in settled(report["phases"])]
        return float(statistics.median(values))

    return {
        "name": side.name,
        "dtype": side.work.dtype,
        "arguments": side.work.extra,
        "seconds": statistics.median(map(update_seconds, reports)),
        "seconds_by_round": [update_seconds(report) for report in reports],
        "phases": {name: phase(name) for name in PHASES},
        "memory_gb": statistics.median(report["memory_gb"] for report in reports),
        "curves": [{"score": report["scores"], "seconds": report["ended"]} for report in reports],
        "versions": reports[0]["versions"],
    }


def table(ours: dict[str, Any], peer: dict[str, Any]) -> str:
    """Seconds an update by phase and memory, side by side."""
    rows = [("seconds an update", "seconds"), *((f"  {name}", name) for name in PHASES)]
    rows.append(("peak memory, GB", "memory_gb"))
    lines = [f"{'':<20}{ours['name']:>10}{peer['name']:>10}{'peer/ours':>11}"]
    for label, key in rows:
        a, b = (side["phases"].get(key, side.get(key)) for side in (ours, peer))
        lines.append(f"{label:<20}{a:>10.3f}{b:>10.3f}{b / max(a, 1e-9):>11.2f}")
    return "\n".join(lines)


def compare(
    chosen: argparse.Namespace, pair: tuple[Side, Side], runs: list[tuple[Report, Report]]
) -> dict[str, Any]:
    """The result of all rounds."""
    ours, peer = ([run[place] for run in runs] for place in (0, 1))

    def both(number: Callable[[Report], float]) -> tuple[list[float], list[float]]:
        return [number(report) for report in ours], [number(report) for report in peer]

    our_seconds, peer_seconds = both(update_seconds)
    our_memory, peer_memory = both(lambda report: float(report["memory_gb"]))
    speedup, memory = ratio(peer_seconds, our_seconds), ratio(our_memory, peer_memory)
    dtypes = dict.fromkeys(side.work.dtype for side in pair)
    hidden = ("model", "prompts", "held", "classifier", "dtype", "device", "extra")
    work = {k: v for k, v in asdict(pair[0].work).items() if k not in hidden}
    if chosen.run is None:
        work |= {"size": chosen.size, "prompt_length": PROMPT_LENGTH}
    else:
        work |= {"score": "model", "run": chosen.run.resolve().name}
    return {
        "benchmark": "ppo_vs_trl",
        "speedup": speedup.median,
        "speedup_range": [speedup.low, speedup.high],
        "memory_ratio": memory.median,
        "memory_ratio_range": [memory.low, memory.high],
        "rounds": speedup.n,
        "dtype": "-vs-".join(dtypes),
        "device": ours[0]["device"],
        "ours": summary(pair[0], ours),
        "peer": summary(pair[1], peer),
        "work": work,
        **({"learning": learning(runs)} if chosen.run or chosen.score == "toy" else {}),
        **provenance(ours[0]["accelerator"]),
    }


def result_name(result: dict[str, Any]) -> str:
    """Name of the file a result is saved in."""
    work = result["work"]
    kind = [work.get("run", work.get("size"))] if work.get("size") != "smollm2" else []
    if work["score"] == "toy":
        kind.append(f"toy-{work['learning_rate']:g}")
    kind += [str(value) for value in result["ours"]["arguments"].values()]
    return "-".join(["ppo_vs_trl", *kind, result["dtype"], result["device"]])


def main() -> None:
    """Run all rounds, print the table and the result."""
    chosen = arguments()
    pair = sides(chosen)
    runs = alternate(pair[0].run, pair[1].run, chosen.seeds or chosen.rounds)
    result = compare(chosen, pair, runs)
    print(table(result["ours"], result["peer"]))
    finish(result, result_name(result) if chosen.save else None)


if __name__ == "__main__":
    main()
