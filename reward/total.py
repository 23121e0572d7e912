"""What PPO adds up, asked again of other responses: its terms, on the scales that it ended with.

`reward_model` stands under the name REWARD; other functions have PART before PPO's name for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from align.config import RewardTermConfig
from align.config.rewards import REWARD_MODEL
from align.ppo.prompts import PromptBatch
from align.ppo.scale import ScoreScale
from align.ppo.scoring import ask
from align.ppo.terms import RewardTerm, as_terms, combine, signature_of
from align.references import ModelReference
from evals.prompts import PART
from reward.combine import build_terms
from reward.functions import RewardFunction

Array = NDArray[np.float64]
REWARD = "reward"
STORED = "ppo.json"
"""In PPO's folder: the scales of its scores at the end, and more."""


def named_terms(
    entries: Sequence[RewardTermConfig], reward_model: Callable[[], RewardFunction] | None
) -> dict[str, RewardTerm]:
    """Name of each score -> PPO's term; none where PPO's score is the reward model's alone.

    Args:
        entries: `ppo.rewards`.
        reward_model: Loads the run's on first use; needed where an entry names it.

    Raises:
        UserError: See `reward.combine.build_terms`.
    """
    if [entry.function for entry in entries] in ([], [REWARD_MODEL]):
        return {}

    def judge(**given: Any) -> Sequence[float | None]:
        assert reward_model is not None
        return reward_model()(**given)

    judge.__name__ = REWARD_MODEL
    terms = as_terms(build_terms(entries, judge))
    return {REWARD if t.function is judge else PART + t.name: t for t in terms}


def stored_scales(
    terms: Mapping[str, RewardTerm], policy: ModelReference | None
) -> dict[str, ScoreScale]:
    """PPO's name of each term -> its scale at the end, as stored beside the policy."""
    stored: dict[str, Any] = {}
    if policy is not None:
        path = Path((policy.adapters or (policy.base,))[-1]).parent / STORED
        stored = json.loads(path.read_text(encoding="utf-8"))["scales"] if path.is_file() else {}
    return {
        term.name: ScoreScale(**stored[term.name]) if term.name in stored else term.scale()
        for term in terms.values()
    }


def record(terms: Mapping[str, RewardTerm], scales: Mapping[str, ScoreScale]) -> dict[str, Any]:
    """What scores of these terms depend on, but for the files of functions."""
    return {
        "rewards": [signature_of(term) for term in terms.values()],
        "scales": {name: scale.state() for name, scale in scales.items()},
    }


def add_up(
    terms: Mapping[str, RewardTerm], scales: Mapping[str, ScoreScale], said: Mapping[str, Array]
) -> Array:
    """PPO's score (n,) from what the functions said, (n,) each by score's name, NaN for None."""
    parts = {term.name: torch.from_numpy(said[name]) for name, term in terms.items()}
    total: Array = combine(parts, list(terms.values()), scales).numpy()
    return total


def ask_function(
    name: str,
    function: RewardFunction,
    prompts: Sequence[Any],
    texts: Sequence[str],
    columns: Mapping[str, list[Any]],
) -> Array:
    """What a function says of responses as in PPO, (n,), NaN for None.

    Raises:
        UserError: See `align.ppo.scoring.ask`.
    """
    term = RewardTerm(function, name=name)
    said: Array = ask(term, PromptBatch(list(prompts), [], dict(columns)), texts).double().numpy()
    return said
