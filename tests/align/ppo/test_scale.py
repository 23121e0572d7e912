"""Normalised scores (docs/ppo.md item 9) against numpy over everything that was seen."""

import numpy as np
import pytest
import torch
from torch import Tensor

from align.ppo.scale import ScoreScale

GENERATOR = np.random.default_rng(0)
BATCHES = [GENERATOR.normal(40.0, s, n) for s, n in ((0.5, 7), (3.0, 4), (0.1, 9), (2.0, 1))]
"""Far from 0, so that moments by sums of squares in float32 would lose their digits."""


def scores(batch: np.ndarray) -> Tensor:
    return torch.tensor(batch, dtype=torch.float32)


def test_raw_scores_stay_as_they_are() -> None:
    scale = ScoreScale("none")
    given = scores(BATCHES[0])
    assert scale(given) is given
    assert scale.n == 0


def test_the_reference_scale_is_that_of_the_first_update() -> None:
    scale = ScoreScale("reference")
    mean, std = BATCHES[0].mean(), BATCHES[0].std()  # the population's, divided by n
    for batch in BATCHES:
        expected = (batch - mean) / std
        np.testing.assert_allclose(scale(scores(batch)), expected, atol=1e-4)
    assert scale.n == 7


def test_the_running_scale_is_that_of_all_scores_so_far() -> None:
    scale = ScoreScale("running")
    for i, batch in enumerate(BATCHES):
        seen = np.concatenate(BATCHES[: i + 1]).astype(np.float32).astype(np.float64)
        found = scale(scores(batch)).numpy()
        assert scale.n == len(seen)
        assert scale.mean == pytest.approx(seen.mean(), rel=1e-12)
        assert scale.squares / scale.n == pytest.approx(seen.var(), rel=1e-10)
        # 40 has an ulp of 4e-6 in float32, and the smallest std is .48
        np.testing.assert_allclose(found, (batch - seen.mean()) / seen.std(), atol=3e-5)


@pytest.mark.parametrize("kind", ["reference", "running"])
def test_scores_that_were_all_equal_have_no_unit(kind: str) -> None:
    # A sparse reward may be 0 everywhere at first: later scores must not be divided by nothing.
    scale = ScoreScale(kind)  # type: ignore[arg-type]
    assert scale(torch.full((5,), 0.1)).tolist() == [0.0] * 5
    if kind == "reference":
        assert scale(torch.tensor([1.1])).item() == pytest.approx(1.0)


def test_two_processes_measure_what_one_would() -> None:
    # Both see the sum of both: the other process has other scores, also of another number.
    one, other = BATCHES[0], BATCHES[1]
    both = np.concatenate([one, other]).astype(np.float32).astype(np.float64)
    others = torch.tensor(other, dtype=torch.float32).double()
    sums = iter(
        [
            torch.tensor([4.0, others.sum().item()]).double(),
            ((others - both.mean()) ** 2).sum(),
        ]
    )
    scale = ScoreScale("running")
    found = scale(scores(one), lambda mine: mine + next(sums))
    assert (scale.n, scale.mean) == (11, pytest.approx(both.mean(), rel=1e-12))
    np.testing.assert_allclose(found, (one - both.mean()) / both.std(), atol=3e-5)


def test_a_state_comes_back_bit_equal() -> None:
    scale = ScoreScale("running")
    for batch in BATCHES[:2]:
        scale(scores(batch))
    again = ScoreScale(**scale.state())  # type: ignore[arg-type]
    assert again == scale
    for batch in BATCHES[2:]:
        assert torch.equal(again(scores(batch)), scale(scores(batch)))
