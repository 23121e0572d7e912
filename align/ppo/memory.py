"""What PPO remembers from update to update, beside weights and the trainer's own state."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from align.files import write_json_atomic
from align.ppo.alarms import Evaluated, divergence
from align.ppo.config import PPOConfig
from align.ppo.rewards import AdaptiveKL
from align.ppo.scale import ScoreScale
from align.ppo.terms import RewardTerm

STATE = "ppo_state.json"
"""Its file in a checkpoint."""
logger = logging.getLogger("align.ppo")


@dataclass
class Memory:
    """State of a run that a checkpoint holds, so that a resumed run goes on as if never killed.

    Attributes:
        kl: The coefficient of the KL penalty and its controller.
        scale: Zero and unit of the scores.
        evaluated: What the held-out prompts got, evaluation by evaluation.
        alarms: The first complaint of each kind, with its update.
        terms: Zero and unit of what each reward function says, by its name.
    """

    kl: AdaptiveKL
    scale: ScoreScale
    evaluated: list[Evaluated] = field(default_factory=list)
    alarms: dict[str, str] = field(default_factory=dict)
    terms: dict[str, ScoreScale] = field(default_factory=dict)

    @classmethod
    def start(cls, args: PPOConfig, terms: Sequence[RewardTerm] = ()) -> Memory:
        """Before the first update."""
        kl = AdaptiveKL(args.kl_coef, args.kl_target, args.kl_horizon)
        scales = {term.name: term.scale() for term in terms}
        return cls(kl, ScoreScale(args.score_normalisation), terms=scales)

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "beta": self.kl.beta,
            "scale": self.scale.state(),
            "evaluated": self.evaluated,
            "alarms": self.alarms,
            "terms": {name: scale.state() for name, scale in self.terms.items()},
        }
        write_json_atomic(folder / STATE, state)

    def load(self, folder: Path) -> None:
        """Read it from a checkpoint."""
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.kl.beta = state["beta"]
        self.scale = ScoreScale(**state["scale"])
        self.evaluated = [Evaluated(*entry) for entry in state["evaluated"]]
        self.alarms = state["alarms"]
        self.terms = {name: ScoreScale(**kept) for name, kept in state["terms"].items()}

    def judge(self, evaluated: Evaluated) -> dict[str, str]:
        """Compare an evaluation with those before; returns the complaint about it, if any."""
        self.evaluated.append(evaluated)
        reason = divergence(self.evaluated)
        return {} if reason is None else {"gold": reason}

    def warn(self, found: dict[str, str], update: int, *, aloud: bool = True) -> None:
        """Say what was not said before.

        Args:
            found: Complaints, by a short name.
            update: Updates done.
            aloud: Whether this process is the one that logs.
        """
        for name, reason in found.items():
            if name not in self.alarms:
                self.alarms[name] = f"update {update}: {reason}"
                if aloud:
                    logger.warning("%s", self.alarms[name])
