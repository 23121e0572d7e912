"""The model card that stands beside a saved policy."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from align.files import write_text_atomic
from align.ppo.config import PPOConfig
from align.ppo.terms import RewardTerm
from align.shared import SharedBase

SHOWN = {
    "score/mean": "score",
    "kl/k1": "KL to the reference, nats a response",
    "policy/entropy": "entropy, nats a token",
    "response/length": "length, tokens",
}


def write_card(
    folder: Path,
    args: PPOConfig,
    terms: Sequence[RewardTerm],
    shared: SharedBase,
    history: Sequence[dict[str, Any]],
) -> None:
    """Write `README.md`: what was trained, from what, on which score, and how it went."""
    adapter = "policy" in shared.adapters
    base = str(shared.config._name_or_path or "") or "unknown"
    updates = [row for row in history if "update" in row]
    lines = [
        "---",
        f"library_name: {'peft' if adapter else 'transformers'}",
        *([f"base_model: {base}"] if base != "unknown" else []),
        "tags: [ppo, rlhf, alignkit]",
        "---",
        "",
        f"# {'LoRA adapter' if adapter else 'Model'} trained with PPO",
        "",
        f"Trained by `align.ppo.PPOTrainer` against {', '.join(term.name for term in terms)}, "
        f"starting from {base}. Source of the method: arXiv 1707.06347 and 1909.08593.",
        "",
        f"* {len(updates)} updates of {args.local_rollout_size * args.world_size} responses, "
        f"{args.num_ppo_epochs} epochs each, learning rate {args.learning_rate:g}",
        f"* KL coefficient {args.kl_coef:g}, clip range {args.cliprange:g}, "
        f"temperature {args.temperature:g}, seed {args.seed}",
        "* "
        + ", ".join(
            f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "accelerate")
        ),
        "",
    ]
    if updates:
        lines += ["| metric | first update | last update |", "|---|---|---|"]
        for name, words in SHOWN.items():
            lines.append(f"| {words} | {updates[0][name]:.4g} | {updates[-1][name]:.4g} |")
        lines.append("")
    write_text_atomic(folder / "README.md", "\n".join(lines))
