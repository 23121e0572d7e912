"""Small scripted rewards with the convention of TRL's reward functions.

A reward function is called with the prompts, the completions and every further column of the rows,
and returns one float a completion: `f(prompts, completions, **columns) -> list[float]`. Completions
are strings, or lists of messages whose last one is the assistant's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Completion = str | Sequence[Mapping[str, str]]
RewardFunction = Callable[..., list[float]]


def completion_text(completion: Completion) -> str:
    """The text of a completion: itself, or the content of its last message."""
    if isinstance(completion, str):
        return completion
    return completion[-1]["content"]


def length_penalty(target: int) -> RewardFunction:
    """Minus the relative distance to `target` words: -|words - target| / target, at most 0."""

    def score(text: str) -> float:
        return -abs(len(text.split()) - target) / target

    return _named(f"length_penalty_{target}", score)


def token_count(word: str) -> RewardFunction:
    """How often `word` occurs among the blank-separated words, compared without case."""
    wanted = word.casefold()

    def score(text: str) -> float:
        return float(text.casefold().split().count(wanted))

    return _named(f"token_count_{wanted}", score)


def repetition_penalty(n: int = 3) -> RewardFunction:
    """Minus the share of word n-grams that occurred earlier in the same text, from -1 to 0."""

    def score(text: str) -> float:
        words = text.split()
        grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
        if not grams:
            return 0.0
        return len(set(grams)) / len(grams) - 1.0

    return _named(f"repetition_penalty_{n}", score)


def _named(name: str, score: Callable[[str], float]) -> RewardFunction:
    """Lift a function of the text to the convention, under the name that logs show."""

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float]:
        return [score(completion_text(completion)) for completion in completions]

    reward.__name__ = reward.__qualname__ = name
    return reward
