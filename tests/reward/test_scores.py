"""The memory of an audit's scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from reward.scores import Scores


def test_each_text_is_scored_once_as_a_conversation_and_in_units() -> None:
    seen: list[Any] = []

    def model(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        seen.extend(zip(prompts, completions, strict=True))
        return [float(len(text)) for text in completions]

    scores = Scores(model)
    assert scores([("p", "aa"), ("p", "aaaa"), ("p", "aa")]).tolist() == [2.0, 4.0, 2.0]
    halved = scores.per(2.0)
    assert halved([("p", "aa"), ("q", "aa")]).tolist() == [1.0, 1.0]
    assert seen == [
        ([{"role": "user", "content": text}], answer)
        for text, answer in [("p", "aa"), ("p", "aaaa"), ("q", "aa")]
    ]
    assert halved.spread == pytest.approx(np.std([2, 4, 2]) / 2)


def test_a_score_that_is_none_or_not_finite_is_missing() -> None:
    values = [None, float("inf"), 3.0]

    def model(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[Any]:
        return values

    scores = Scores(model)
    assert np.isnan(scores([("p", "a"), ("p", "b"), ("p", "c")])).tolist() == [True, True, False]
    assert scores.spread == 0.0
    assert np.isnan(Scores(model).spread)
