"""Warnings (docs/ppo.md item 24): each rule at its boundary, and intervals by scipy."""

import math
import statistics
from typing import Any

import pytest
from scipy import stats

from align.ppo.alarms import Evaluated, alarms, divergence, fallen

FIRST = {
    "kl/k1": 0.0, "policy/entropy": 2.0, "response/length": 10.0, "response/distinct": 0.8,
    "sampler/gap_max": 0.0, "skipped_steps": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "metric", "silent", "loud", "words"),
    [
        ("kl", "kl/k1", 6.0, 6.001, "KL 6 nats a response exceeds its budget of 6"),
        ("entropy", "policy/entropy", 0.4, 0.399, "entropy fell from 2 to 0.399 nats a token"),
        ("length", "response/length", 20.0, 20.1, "drifted from 10 to 20.1 tokens"),
        ("length", "response/length", 5.0, 4.9, "drifted from 10 to 4.9 tokens"),
        ("alike", "response/distinct", 0.4, 0.39, "39% of the responses differ, at first 80%"),
        ("gap", "sampler/gap_max", 0.5, 0.51, "differ by 0.51 nats on a token"),
        ("skipped", "skipped_steps", 0, 1, "1 steps skipped"),
    ],
)
def test_a_rule_fires_past_its_boundary_and_not_on_it(
    name: str, metric: str, silent: float, loud: float, words: str
) -> None:
    assert alarms(FIRST, FIRST | {metric: silent}, kl_budget=6.0) == {}
    found = alarms(FIRST, FIRST | {metric: loud}, kl_budget=6.0)
    assert list(found) == [name]
    assert words in found[name]


def test_without_a_budget_no_kl_is_too_large() -> None:
    assert alarms(FIRST, FIRST | {"kl/k1": 1e9}) == {}


def test_every_complaint_is_told_at_once() -> None:
    row: dict[str, Any] = {
        "kl/k1": 9.0, "policy/entropy": 0.1, "response/length": 99.0, "response/distinct": 0.1,
        "sampler/gap_max": 1.0, "skipped_steps": 2,
    }  # fmt: skip
    found = alarms(FIRST, row, 1.0)
    assert list(found) == ["kl", "entropy", "length", "alike", "gap", "skipped"]


def half_width(changes: list[float]) -> float:
    """Half of a 95 % normal interval of the mean, to the two digits of 1.96."""
    return stats.norm.isf(0.025).round(2) * statistics.stdev(changes) / math.sqrt(len(changes))


BEFORE = Evaluated([0.0, 1.0, 2.0, 3.0], [5.0, 6.0, 7.0, 8.0])


def after(score: float, gold: float) -> Evaluated:
    """Paired changes around the given means: +-.3 and +-.1 for the score, +-.2 and 0 for gold."""
    scores = [b + score + d for b, d in zip(BEFORE.scores, (0.3, -0.3, 0.1, -0.1), strict=True)]
    golds = [b + gold + d for b, d in zip(BEFORE.gold, (0.2, -0.2, 0.0, 0.0), strict=True)]
    return Evaluated(scores, golds)


SCORE = half_width([0.3, -0.3, 0.1, -0.1])
GOLD = half_width([0.2, -0.2, 0.0, 0.0])


def test_intervals_are_paired_over_prompts() -> None:
    # The prompts differ by far more than the changes: unpaired intervals would hide both.
    assert pytest.approx(0.2530, abs=1e-4) == SCORE
    assert pytest.approx(0.1600, abs=1e-4) == GOLD
    rose, fell = SCORE + 1e-3, -GOLD - 1e-3
    said = divergence([BEFORE, after(rose, fell)])
    assert said == "the score rose by 0.254 while the gold reward fell by 0.161"
    assert divergence([BEFORE, after(SCORE - 1e-3, fell)]) is None
    assert divergence([BEFORE, after(rose, -GOLD + 1e-3)]) is None


def test_the_latest_is_compared_with_the_best_by_gold() -> None:
    best = after(1.0, 2.0)
    later = after(2.0, 1.0)  # above the first, below the best
    assert divergence([BEFORE, later]) is None
    assert divergence([BEFORE, best, later]) is not None
    assert divergence([best, BEFORE, later]) is not None
    # what happened before the latest evaluation is no complaint about it
    assert divergence([BEFORE, later, best]) is None


def test_without_gold_or_history_there_is_nothing_to_say() -> None:
    assert divergence([]) is None
    assert divergence([BEFORE]) is None
    assert divergence([Evaluated([0.0, 0.1], []), Evaluated([9.0, 9.1], [])]) is None


def test_evaluations_in_a_row_below_the_best_before_them_are_counted() -> None:
    low, lower = after(0.0, -GOLD - 1e-3), after(0.0, -2.0)
    level = after(0.0, -GOLD + 1e-3)  # its interval holds 0
    assert fallen([]) == fallen([BEFORE]) == fallen([BEFORE, level]) == 0
    assert fallen([BEFORE, low]) == 1
    assert fallen([BEFORE, low, lower]) == 2
    assert fallen([BEFORE, low, level]) == 0
    assert fallen([BEFORE, low, level, lower]) == 1
    # a new best starts the count again, and later ones are held against it
    assert fallen([BEFORE, low, after(0.0, 1.0)]) == 0
    assert fallen([BEFORE, low, after(0.0, 1.0), BEFORE]) == 1
    assert fallen([Evaluated([0.0], []), Evaluated([1.0], [])]) == 0


def test_responses_without_a_score_are_left_out_of_the_comparison() -> None:
    # Over the first three prompts, scored both times, the score rises by 1 and gold falls by 1; the
    # fourth would turn both. What was best is judged by the mean of what there is.
    before = Evaluated([0.0, 1.0, 2.0, 90.0], [5.0, 6.0, 7.0, None])
    after = Evaluated([1.0, 2.0, 3.0, None], [4.0, 5.0, 6.0, 90.0])
    worse = Evaluated([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    assert divergence([worse, before, after]) == (
        "the score rose by 1 while the gold reward fell by 1"
    )
    silent = Evaluated([None, None, None, 1.0], [5.0, 6.0, 7.0, 8.0])
    assert divergence([before, silent]) is None
