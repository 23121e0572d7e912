"""Proximal policy optimisation for language models on one shared base.

The arithmetic lives in pure functions of tensors and plain numbers (`advantages`, `rewards`,
`losses`), the data in one frozen `Rollout`, and the trainer is thin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from align.ppo.config import PPOConfig
    from align.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]


def __getattr__(name: str) -> Any:
    """Import the trainer only when it is asked for: `import align.ppo` stays fast."""
    if name == "PPOTrainer":
        from align.ppo.trainer import PPOTrainer

        return PPOTrainer
    if name == "PPOConfig":
        from align.ppo.config import PPOConfig

        return PPOConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
