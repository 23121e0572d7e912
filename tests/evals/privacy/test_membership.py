"""Membership scores by hand; AUC and DeLong's error against scikit-learn and double loops."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from evals.privacy.membership import (
    TokenScores,
    auc_change,
    auc_estimate,
    auc_p,
    caught,
    document_scores,
    placements,
)


def test_scores_of_a_document_by_hand() -> None:
    logs = np.array([-1.0, -5.0, -2.0, -4.0, -3.0])
    standard = np.array([0.5, -3.0, 0.0, -1.0, -2.0])
    found = document_scores(TokenScores(logs, standard), "abc abc", 0.4)
    # the lowest two: -5, -4 and -3, -2
    size = len(zlib.compress(b"abc abc"))
    assert found == {"loss": -3.0, "min_k": -4.5, "min_k_pp": -2.5, "zlib": -3.0 / size}
    assert document_scores(TokenScores(logs, standard), "a", 0.1)["min_k"] == -5.0


def loops(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """AUC and DeLong's variance by their definitions."""
    wins = np.array([[(a > b) + (a == b) / 2 for b in others] for a in members])
    own = np.array([row.mean() for row in wins])
    held = np.array([column.mean() for column in wins.T])
    variance = own.var(ddof=1) / len(own) + held.var(ddof=1) / len(held)
    return float(wins.mean()), float(variance)


def test_auc_and_error_agree_with_scikit_learn_and_double_loops() -> None:
    generator = np.random.default_rng(5)
    members, others = generator.integers(0, 9, size=40) + 1.0, generator.integers(0, 9, size=25)
    found = placements(members, others)
    truth = np.r_[np.ones(40), np.zeros(25)]
    assert found.auc == pytest.approx(roc_auc_score(truth, np.r_[members, others]))
    # each held-out document stands below its share of the members
    assert found.others.mean() == pytest.approx(found.auc)
    auc, variance = loops(members, others)
    assert (found.auc, found.error) == (pytest.approx(auc), pytest.approx(math.sqrt(variance)))
    estimate = auc_estimate(members, others)
    # logit A +- 1.96 SE / (A (1 - A))
    slope = math.sqrt(variance) / (auc * (1 - auc))
    ends = [math.log(end / (1 - end)) for end in (estimate.low, estimate.high)]
    assert ends[1] - ends[0] == pytest.approx(2 * 1.959964 * slope)
    assert sum(ends) / 2 == pytest.approx(math.log(auc / (1 - auc)))


def test_intervals_cover_the_true_auc() -> None:
    # members N(1, 1), others N(0, 1): P(a > b) = Phi(1 / sqrt 2) = 0.76025
    generator, hits = np.random.default_rng(7), 0
    for _ in range(600):
        found = auc_estimate(generator.normal(1, 1, 40), generator.normal(0, 1, 40))
        hits += found.low <= 0.76025 <= found.high
    assert 0.925 < hits / 600 < 0.975


def test_a_change_is_the_difference_of_paired_placements() -> None:
    generator = np.random.default_rng(2)
    members, others = generator.normal(0.5, 1, 50), generator.normal(0, 1, 30)
    before = placements(members, others)
    after = placements(members + 0.5, others)
    found = auc_change(before, after)
    assert found.difference == pytest.approx(after.auc - before.auc)
    own, held = after.members - before.members, after.others - before.others
    error = math.sqrt(own.var(ddof=1) / 50 + held.var(ddof=1) / 30)
    assert found.high - found.difference == pytest.approx(1.959964 * error)
    assert found.low < found.difference < found.high
    assert 0 < found.p < 0.05
    same = auc_change(before, before)
    assert (same.difference, math.isnan(same.p)) == (0.0, True)


def test_separation_and_single_documents_have_a_value_and_no_interval() -> None:
    apart = auc_estimate(np.array([3.0, 4.0]), np.array([1.0, 2.0]))
    assert (apart.value, math.isnan(apart.low), apart.method) == (
        1.0,
        True,
        "no interval: no spread",
    )
    alone = auc_estimate(np.array([1.5]), np.array([1.0, 2.0]))
    assert (alone.value, math.isnan(alone.high)) == (0.5, True)
    # all 6 orders of two and two are equally likely: 2 of them separate the sides completely
    assert auc_p(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == pytest.approx(2 / 6)


def test_what_is_caught_agrees_with_scikit_learns_curve() -> None:
    generator = np.random.default_rng(4)
    members, others = generator.normal(2, 1, 300), generator.normal(0, 1, 400)
    truth, scores = np.r_[np.ones(300), np.zeros(400)], np.r_[members, others]
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    found = caught(members, others, 0.01)
    assert found.share == pytest.approx(true[false <= 0.01 + 1e-12].max())
    assert found.false == 0.01
    assert found.hits == round(found.share * 300)
    # fewer than 100 others: none may pass
    few = caught(np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0]), 0.01)
    assert (few.share, few.false) == (pytest.approx(1 / 3), 0.0)
    # half of two others may pass: the threshold is the lower one
    assert caught(np.array([1.0, 2.0, 3.0]), np.array([2.0, 0.0]), 0.5).hits == 3
    assert caught(np.array([1.0]), np.array([0.0]), 1.0).hits == 1
