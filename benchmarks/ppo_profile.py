"""Where an update of our PPO goes: seconds, tokens a second and share of the roofline by phase.

    python benchmarks/ppo_profile.py                              SmolLM2-135M, float32
    python benchmarks/ppo_profile.py --dtype bfloat16 --save
    python benchmarks/ppo_profile.py --size 1b --dtype bfloat16 --batch 64 --micro-batch 64
    python benchmarks/ppo_profile.py --ours-args '{"static_cache": false}'    of our PPOConfig

The work is that of `ppo_vs_trl.py`, without the peer. The least time of a phase follows from its
products and the weights it reads (lib/roofline.py) at the rates that this machine shows just
before, in the same number format. After the measured updates comes one under torch's profiler:
its operators, by their own time. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from lib.roofline import Model, Update, measured_machine, needs
from lib.side_by_side import finish, provenance
from ppo_vs_trl import PHASES, PROMPT_LENGTH, chosen_work
from ppo_vs_trl import arguments as side_by_side_arguments
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback
from workers.measure import Recorder, device_of, peak_memory, weights_dtype
from workers.ours_ppo import make_trainer, phases
from workers.work import Work

from align.shared import SharedBase

OPERATORS = 15
"""Operators shown by name."""


class Profiled(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Profiles the last update."""

    def __init__(self, updates: int, device: str) -> None:
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
        self.profiler = profile(activities=kinds)
        self._left = updates

    def on_log(self, _: Any, __: Any, ___: Any, logs: dict[str, Any], **____: Any) -> None:
        """Start before the last update, and stop after it."""
        if "score/mean" in logs:
            self._left -= 1
            if self._left == 1:
                self.profiler.start()
            elif self._left == 0:
                self.profiler.stop()

    def operators(self, device: str) -> dict[str, float]:
        """Seconds of the operators that took most by themselves, and of all others."""
        kind = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
        found = {row.key: getattr(row, kind) / 1e6 for row in self.profiler.key_averages()}
        ranked = sorted(found.items(), key=lambda item: -item[1])
        rest = sum(seconds for _, seconds in ranked[OPERATORS:])
        return {**dict(ranked[:OPERATORS]), "all others": rest}


def sizes(shared: SharedBase, work: Work) -> Model:
    """The sizes that the roofline follows from."""
    config, base = shared.config, shared.base
    head = base.get_output_embeddings().weight
    tables = {id(head), id(base.get_input_embeddings().weight)}
    own = [p for name, p in base.named_parameters() if "lora_" not in name and id(p) not in tables]
    adapter = [p for p in shared.trainable_parameters("policy") if p.requires_grad]
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Model(
        linear=sum(p.numel() for p in own if p.ndim == 2),
        adapter=sum(p.numel() for p in adapter),
        vocabulary=head.numel(),
        attended=config.num_hidden_layers * config.num_attention_heads * size,
        cached=2 * config.num_hidden_layers * config.num_key_value_heads * size,
        width=product_type(work).itemsize,
    )


def product_type(work: Work) -> torch.dtype:
    """The number format that products run in."""
    return torch.bfloat16 if work.dtype == "autocast" else weights_dtype(work)


def phase_tokens(update: Update) -> dict[str, int]:
    """Tokens of each phase: sampled ones, then those of every pass over the rollout."""
    whole = update.batch * (update.prompt + update.response)
    return {
        "sample": update.batch * update.response,
        "score": whole,
        "measure": whole * (1 + update.measured),
        "optimise": whole * update.epochs,
    }


def measure(work: Work) -> dict[str, Any]:
    """Train, and say where the time went."""
    device = device_of(work)
    machine = measured_machine(device, product_type(work))
    recorder, profiled = Recorder("score/mean", phases), Profiled(work.updates, device)
    with tempfile.TemporaryDirectory() as folder:
        trainer, shared = make_trainer(work, folder, [recorder, profiled])
        trainer.train()
    update = Update(
        work.batch,
        PROMPT_LENGTH,
        work.response_length,
        work.epochs,
        measured=work.dtype != "float32",
    )
    needed, tokens = needs(sizes(shared, work), update), phase_tokens(update)
    starts = [0.0, *recorder.ended]
    taken = [
        {**parts, "optimise": end - start - sum(parts.values())}
        for start, end, parts in zip(starts, recorder.ended, recorder.phases, strict=False)
    ][1:-1]  # neither the first, which warms up, nor the profiled one
    found = {}
    for name in PHASES:
        seconds = statistics.median(parts[name] for parts in taken)
        found[name] = {
            "seconds": seconds,
            "tokens_per_second": tokens[name] / seconds,
            "operations": needed[name].operations,
            "least_seconds": needed[name].seconds(machine),
            "of_roofline": needed[name].seconds(machine) / seconds,
        }
    return {
        "benchmark": "ppo_profile",
        "dtype": work.dtype,
        "device": device,
        "machine_rates": machine._asdict(),
        "phases": found,
        "operators_seconds": profiled.operators(device),
        "memory_gb": peak_memory(device == "cuda"),
        "work": {k: v for k, v in asdict(work).items() if k not in ("model", "prompts")},
        **provenance(torch.cuda.get_device_name() if device == "cuda" else None),
    }


def table(result: dict[str, Any]) -> str:
    """The phases, then the operators."""
    rates = result["machine_rates"]
    lines = [
        f"products {rates['operations'] / 1e12:.2f} TFLOP/s, reading {rates['bandwidth'] / 1e9:.0f}"
        f" GB/s, peak memory {result['memory_gb']:.2f} GB",
        f"{'':<12}{'seconds':>9}{'tokens/s':>10}{'TFLOP':>8}{'at least s':>12}{'of roofline':>13}",
    ]
    for name, row in result["phases"].items():
        lines.append(
            f"{name:<12}{row['seconds']:>9.3f}{row['tokens_per_second']:>10.0f}"
            f"{row['operations'] / 1e12:>8.2f}{row['least_seconds']:>12.3f}"
            f"{row['of_roofline']:>13.0%}"
        )
    whole = sum(result["operators_seconds"].values())
    for name, seconds in result["operators_seconds"].items():
        lines.append(f"{seconds:>9.3f} s {seconds / whole:>4.0%}  {name}")
    return "\n".join(lines)


SIDE_BY_SIDE = ("run", "score", "critic", "rounds", "seeds")
SIDE_BY_SIDE += ("ours_dtype", "peer_dtype", "peer_args")
"""Options that mean something only beside a peer."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line: that of the side-by-side, without the peer's."""
    chosen, plain = side_by_side_arguments(words), side_by_side_arguments(["--size=tiny"])
    for name in SIDE_BY_SIDE:
        if getattr(chosen, name) != getattr(plain, name):
            raise SystemExit(f"ppo_profile.py has no --{name.replace('_', '-')}: there is no peer")
    if chosen.updates < 3:
        raise SystemExit("--updates must be 3 or more: one warms up, one is profiled")
    return chosen


def main() -> None:
    """Profile, print the table and the result."""
    chosen = arguments(sys.argv[1:])
    result = measure(replace(chosen_work(chosen), extra=chosen.ours_args))
    print(table(result))
    parts = ["ppo_profile", chosen.size, result["dtype"], result["device"]]
    parts += [f"{name}={value}" for name, value in chosen.ours_args.items()]
    name = "-".join(parts)
    finish(result, name if chosen.save else None)


if __name__ == "__main__":
    main()
