"""Stop training where the gold reward has fallen: the proxy is being exploited, not followed.

The rule: in `patience` evaluations in a row the gold reward lies below the best one before, paired
over the same held-out prompts, with a 95 % interval that excludes 0 (`align.ppo.alarms.fallen`).
One evaluation alone would stop too often: the best of many is partly luck, and later ones fall
back from it by chance.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from align.ppo.alarms import fallen
from align.ppo.config import PPOConfig
from align.ppo.memory import Memory


class GoldStop(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Ends training by the rule above; `trainer.add_callback(GoldStop(trainer.memory, 2))`.

    Args:
        memory: The trainer's, which holds its evaluations.
        patience: Evaluations in a row.
    """

    def __init__(self, memory: Memory, patience: int) -> None:
        self._memory, self._patience = memory, patience

    @property
    def due(self) -> bool:
        """Whether the rule says stop."""
        return fallen(self._memory.evaluated) >= self._patience

    def on_evaluate(
        self, args: PPOConfig, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for the end of training."""
        if state.global_step < state.max_steps and self.due:
            update = state.global_step // args.steps_per_update
            often = f"{self._patience} evaluations in a row" if self._patience > 1 else "evaluation"
            self._memory.warn({"stop": f"stopped, gold below its best in {often}"}, update)
            control.should_training_stop = True
