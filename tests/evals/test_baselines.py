"""Baselines by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier

from evals.baselines import BASELINES, baseline_rows


def means(choices: list[tuple[str, ...]], gold: list[tuple[int, ...]]) -> dict[str, float]:
    rows = baseline_rows(choices, gold)
    known = {metric.stat: metric for metric in BASELINES}
    return {name: float(known[name].combine(rows[name].sum(axis=0))) for name in rows}


def test_the_same_choices_everywhere_have_a_majority_answer() -> None:
    found = means([("no", "yes")] * 4, [(1,), (0,), (1,), (1,)])
    assert found == {"uniform_guess": 0.5, "majority_answer": 0.75}


def test_majority_equals_scikit_learn_s_constant_prediction() -> None:
    labels = np.random.default_rng(1).choice(4, size=300, p=[0.2, 0.4, 0.3, 0.1])
    dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((300, 1)), labels)
    found = means([tuple("ABCD")] * 300, [(int(label),) for label in labels])
    assert found["majority_answer"] == pytest.approx(dummy.score(np.zeros((300, 1)), labels))
    assert found["uniform_guess"] == 0.25


def test_choices_that_differ_have_the_longest() -> None:
    choices = [("a", "bbb"), ("cc", "dd", "e"), ("f", "ggg", "hh", "iii")]
    # Longest: the second is right; a tie of the first two, one right; a tie of which none is.
    found = means(choices, [(1,), (0,), (2,)])
    assert found["longest_choice"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["uniform_guess"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert "majority_answer" not in found


def test_several_right_answers_raise_the_chance() -> None:
    found = means([("a", "b", "c")] * 2, [(0, 2), (2,)])
    assert found == {"uniform_guess": pytest.approx((2 / 3 + 1 / 3) / 2), "majority_answer": 1}
