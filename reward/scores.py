"""Scores of texts for an audit: each prompt and response once, however many items share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.stats import Array
from reward.functions import RewardFunction

Text = tuple[str, str]
"""Prompt and response."""


class Scores:
    """A reward function with a memory; prompts are asked as conversations.

    Args:
        model: The reward model or function.
    """

    def __init__(self, model: RewardFunction) -> None:
        self._model, self._unit = model, 1.0
        self._known: dict[Text, float] = {}

    def __call__(self, texts: Sequence[Text]) -> Array:
        """Scores (n,) in units; NaN where the function gives none or one that is not finite."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            prompts: list[Any] = [[{"role": "user", "content": prompt}] for prompt, _ in new]
            found = self._model(prompts, [response for _, response in new])
            values = np.array(found, dtype=np.float64)
            self._known |= zip(new, np.where(np.isfinite(values), values, np.nan), strict=True)
        return np.array([self._known[text] for text in texts], dtype=np.float64) / self._unit

    def per(self, unit: float) -> Scores:
        """The same scores, with the same memory, in units of `unit`."""
        same = Scores(self._model)
        same._known, same._unit = self._known, self._unit * unit
        return same

    @property
    def spread(self) -> float:
        """Standard deviation (population) of all scores so far; NaN without a finite one."""
        values = np.array([value for value in self._known.values() if np.isfinite(value)])
        return float(values.std()) / self._unit if len(values) else float("nan")
