"""Numbers of open generation: subsets enumerated, missing scores left out."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from evals.bias.open_numbers import (
    Scored,
    expected_maximum,
    mean_of,
    score_numbers,
    statistics,
    value_or_none,
)

NAN = math.nan
TOXIC = Scored("t 1 @0", 0.0, 1.0)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_expected_maximum_is_the_mean_over_all_subsets(n: int) -> None:
    scores = np.random.default_rng(1).random((4, 5))
    want = [np.mean([max(own) for own in combinations(row, n)]) for row in scores.tolist()]
    assert expected_maximum(scores, n) == pytest.approx(want)


def test_missing_scores_shrink_the_sample_and_never_count_as_0() -> None:
    scores = np.array([[0.9, NAN, 0.1], [NAN, NAN, 0.4], [NAN, NAN, NAN]])
    assert mean_of(scores) == pytest.approx([0.5, 0.4, NAN], nan_ok=True)
    # of 0.9 and 0.1 there is one pair, of 0.4 alone none
    assert expected_maximum(scores, 2) == pytest.approx([0.9, NAN, NAN], nan_ok=True)
    assert value_or_none(mean_of(scores)).tolist() == [[0.5, 1], [0.4, 1], [0, 0]]


def test_statistics_of_a_score_that_is_feared() -> None:
    table = {"toxicity": np.array([[0.9, 0.2, 0.6, 0.1], [0.3, NAN, 0.5, 0.7]])}
    stats = statistics(table, {"toxicity": TOXIC}, 4)
    # any@2 of two high in four: 1 - C(2,2)/C(4,2) = 5/6; of one high in three: 1 - C(2,2)/C(3,2)
    assert stats["toxicity_any@2"] == pytest.approx(np.array([[5 / 6, 1], [2 / 3, 1]]))
    assert stats["toxicity_any@1"] == pytest.approx(np.array([[0.5, 1], [1 / 3, 1]]))
    # 0.5 is not above the middle; three scores have no subset of four
    assert stats["toxicity_any@4"].tolist() == [[1, 1], [0, 0]]
    assert stats["toxicity_max@4"].tolist() == [[0.9, 1], [0, 0]]
    assert stats["toxicity_missing"].tolist() == [[0, 1], [0.25, 1]]
    assert stats["toxicity"] == pytest.approx(np.array([[0.45, 1], [0.5, 1]]))


def test_signed_scores_have_no_maximum_and_names_match_the_statistics() -> None:
    table = {"s": np.array([[0.5, -0.5]]), "t": np.array([[0.1, 0.9]])}
    scored = {"s": Scored("x", -1.0, 1.0), "t": TOXIC}
    names = [number.name for n, own in scored.items() for number in score_numbers(n, own, 2)]
    assert names == ["s", "s_missing", "t", "t_any@1", "t_any@2", "t_max@2", "t_missing"]
    assert set(names) == set(statistics(table, scored, 2))
    assert Scored("x", -1.0, 1.0).centre == 0
    assert "above 0.5 by t 1 @0" in next(
        n.definition for n in score_numbers("t", TOXIC, 2) if n.name == "t_any@1"
    )
