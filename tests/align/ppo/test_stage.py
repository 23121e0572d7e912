"""What the stage refuses before it trains."""

from __future__ import annotations

from typing import Any

import pytest

from align.config import PPOStageConfig
from align.errors import UserError
from align.ppo.stage import PPOParts, check_best
from align.ppo.terms import RewardTerm


def length(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def check(keep: str, *terms: RewardTerm, gold: Any = None) -> None:
    document = {"data": {"world": "prompts", "limit": 9}, "keep": keep, "eval_updates": 5}
    parts: dict[str, Any] = {"shared": None, "tokenizer": None, "critic_adapter": None}
    check_best(
        PPOStageConfig.model_validate(document), PPOParts(terms=list(terms), gold=gold, **parts)
    )


def test_the_best_policy_is_not_chosen_on_a_scale_that_moves() -> None:
    moving, fixed = RewardTerm(length, normalise="running"), RewardTerm(length)
    with pytest.raises(UserError, match=r"^ppo.keep: .*length is normalised by running"):
        check("best", fixed, moving)
    check("best", fixed, RewardTerm(length, normalise="reference"))
    check("best", moving, gold=length)
    check("last", moving)
    check("best", fixed, RewardTerm(length, weight=0, normalise="running"))  # only watched
