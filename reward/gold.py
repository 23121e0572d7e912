"""The gold reward that a run names: a better judge than the reward model, which is only watched.

It may be another reward model (trained on more or cleaner pairs), a classifier with one label, or
a function. Nothing here is trained on: a gold reward that PPO can see is a proxy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.artifacts import StageJob
from align.config import RunConfig
from align.data.encoding import response_text
from align.errors import UserError
from reward.combine import import_function
from reward.functions import RewardFunction
from reward.parts import is_reward_stage

if TYPE_CHECKING:
    from reward.model import RewardModel

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
ALLOWED = "a reward stage's folder, a classifier's folder or hub id, or package.module:function"


def gold_function(config: RunConfig, job: StageJob) -> RewardFunction | None:
    """The gold reward: what `ppo.gold` names, else the world's rule where prompts are its own."""
    if config.ppo is not None and config.ppo.gold is not None:
        from align.models import pick_device

        return load_gold(config.ppo.gold, pick_device(config.device))
    world: Any = job.data.world
    if world is None or config.ppo is None or config.ppo.data.world is None:
        return None

    def gold(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float]:
        rows = [
            {"prompt": prompt} | {name: values[i] for name, values in columns.items()}
            for i, prompt in enumerate(prompts)
        ]
        pairs = zip(rows, completions, strict=True)
        return [world.gold_score(row, response_text(completion)) for row, completion in pairs]

    return gold


def load_gold(name: str, device: str) -> RewardFunction:
    """The gold reward of that name.

    Args:
        name: See `ALLOWED`.
        device: Where a model computes.

    Raises:
        UserError: There is no such function or model, or the classifier has several labels.
    """
    if _FUNCTION.fullmatch(name):
        return import_function(name, "ppo.gold")
    if is_reward_stage(Path(name)):
        return load_stage(Path(name), device)
    return _classifier(name, device)


def load_stage(folder: Path, device: str) -> RewardModel:
    """The reward model of a stage, with a base of its own, in units of its scores' spread."""
    from reward.load import load_reward

    return load_reward(folder, normalised=True, device=device)


def _classifier(name: str, device: str) -> RewardFunction:
    """A classifier with one label.

    Raises:
        UserError: transformers finds none under that name, or it has several labels.
    """
    import torch

    from align.ppo.classifier import as_reward

    try:
        reward: RewardFunction = as_reward(name, None, torch.device(device))
    except (OSError, ValueError) as error:
        what = str(error).strip().split("\n")[0]
        raise UserError(what, where=f"ppo.gold {name!r}", allowed=ALLOWED) from error
    return reward
