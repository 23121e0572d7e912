"""Scoring with an ensemble of reward models beside scoring with one, alternating.

    python benchmarks/reward_ensemble.py --save      some minutes of one core

Both score the same random token sequences on one base of SmolLM2-135M's shape with random weights:
one LoRA reward model (adapters on all linear layers), and `reward.ensemble` with k members. Every
round times each once, in turns; the ratio is of paired rounds. Before that, every member's score is
compared with a pass of that member alone.

The last line is one JSON object: ratio (median, low, high, n), equal, ours and one (CPU seconds).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from lib.side_by_side import finish, provenance, ratio
from transformers import LlamaConfig, LlamaForCausalLM

from align.config import LoraConfig
from align.shared import SharedBase, initial_head
from reward.ensemble import EnsembleSettings, RewardEnsemble
from reward.model import RewardModel
from reward.parts import AdapterTrunk, RewardSettings
from reward.upper import upper_layers

LIMIT = 1.5
"""Most that scoring with four members may cost, in times of one."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--k", type=int, default=4, help="members")
    parser.add_argument("--upper", type=int, help="layers of their own; default: reward.upper's")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=128, help="tokens of the longest sequence")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write the result under results/")
    return parser.parse_args()


def build(k: int, upper: int | None) -> tuple[RewardModel, RewardEnsemble]:
    """One reward model and an ensemble on one base; their adapters differ in the upper layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        tie_word_embeddings=True,
    )
    shared = SharedBase(LlamaForCausalLM(config))
    upper = upper or upper_layers(config.num_hidden_layers, k)
    members = []
    for name in ("one", *(f"reward{i}" for i in range(k))):
        shared.add_adapter(name, LoraConfig(r=16), seed=len(members))
        _fill(shared, name, config.num_hidden_layers - upper)
        weight = initial_head(config.hidden_size, len(members))
        members.append((shared.add_head(name, weight=weight), RewardSettings()))
    tokenizer: Any = None  # sequences are given as tokens
    one = RewardModel(AdapterTrunk(shared, "one"), members[0][0], tokenizer, RewardSettings())
    settings = EnsembleSettings(k, upper, "mean", 1.0)
    trunk = AdapterTrunk(shared, "reward")
    return one, RewardEnsemble(trunk, members[1:], tokenizer, RewardSettings(), settings)


@torch.no_grad()
def _fill(shared: SharedBase, name: str, lower: int) -> None:
    """Weights that every adapter has alike below, and of its own above."""
    for key, weight in shared.base.named_parameters():
        if f".{name}." in key:
            layer = int(key.split(".layers.")[1].split(".")[0])
            own = 0 if layer < lower else sum(map(ord, name))
            generator = torch.Generator().manual_seed(1000 * layer + own)
            weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of a call: on a shared core the clock on the wall measures the others, too."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Compare, time, report."""
    args = arguments()
    torch.set_num_threads(args.threads)
    one, ensemble = build(args.k, args.upper)
    generator = torch.Generator().manual_seed(1)
    lengths = [args.length - i for i in range(args.sequences)]
    rows = [torch.randint(0, 49152, (n,), generator=generator).tolist() for n in lengths]
    together = ensemble._member_scores(rows)
    errors = []
    for number, head in enumerate(ensemble.heads):
        trunk = AdapterTrunk(ensemble.shared, f"reward{number}")
        alone = RewardModel(trunk, head, one.tokenizer, RewardSettings())
        errors += [abs(a - b) for a, b in zip(alone.score_ids(rows), together[number], strict=True)]
    one.score_ids(rows)  # warm, as the ensemble is
    times: dict[str, list[float]] = {"one": [], "ours": []}
    for _ in range(args.rounds):
        times["one"].append(seconds(lambda: one.score_ids(rows)))
        times["ours"].append(seconds(lambda: ensemble.score_ids(rows)))
    result = {
        "benchmark": "reward_ensemble",
        "ratio": ratio(times["ours"], times["one"])._asdict(),
        "limit": LIMIT,
        "equal": max(errors) <= 1e-5,
        "largest_difference": max(errors),
        "k": args.k,
        "upper_layers": ensemble.ensemble.upper,
        "tokens": sum(lengths),
        **{name: statistics.median(found) for name, found in times.items()},
    }
    finish(result | provenance(None), "reward_ensemble" if args.save else None)


if __name__ == "__main__":
    main()
