"""Advantages and masked statistics (docs/ppo.md items 2, 7, 11, 12) against their definitions."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor

from align.ppo.advantages import (
    gae,
    masked_mean,
    masked_sum,
    scale_to_unit_variance,
    whiten,
)


def ragged(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random rewards and values with rows of the given lengths; padding is NaN and 1e9."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) + 2
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    rewards = torch.randn(len(lengths), width, generator=generator)
    values = torch.randn(len(lengths), width, generator=generator)
    return (
        rewards.masked_fill(~mask, float("nan")),
        values.masked_fill(~mask, 1e9),
        mask,
    )


def gae_by_definition(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> list[float]:
    """A_t = sum_l (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t; O(T^2)."""
    n = len(rewards)
    following = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * following[t] - values[t] for t in range(n)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t)) for t in range(n)]


def test_gae_of_the_worked_example() -> None:
    # Item 7. V = [.1, .2, .3], r = [0, 0, 1], gamma 1:
    # deltas = [.1, .1, .7]; lambda .95: A_3 = .7, A_2 = .1 + .95*.7 = .765, A_1 = .1 + .95*.765
    rewards, values = torch.tensor([[0.0, 0, 1]]), torch.tensor([[0.1, 0.2, 0.3]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    found = gae(rewards, values, mask, gamma=1.0, lam=0.95)
    torch.testing.assert_close(found.advantages, torch.tensor([[0.82675, 0.765, 0.7]]))
    torch.testing.assert_close(found.returns, torch.tensor([[0.92675, 0.965, 1.0]]))
    whole = gae(rewards, values, mask, gamma=1.0, lam=1.0).advantages
    torch.testing.assert_close(whole, torch.tensor([[0.9, 0.8, 0.7]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (0.97, 0.0), (0.5, 1.0)])
def test_gae_equals_its_quadratic_definition(gamma: float, lam: float) -> None:
    # Item 11.
    lengths = [5, 1, 3, 7]
    rewards, values, mask = ragged(lengths)
    found = gae(rewards, values, mask, gamma, lam)
    for row, n in enumerate(lengths):
        expected = gae_by_definition(
            rewards[row, :n].tolist(), values[row, :n].tolist(), gamma, lam
        )
        assert found.advantages[row, :n].tolist() == pytest.approx(expected, abs=1e-5)
        returns = [a + v for a, v in zip(expected, values[row, :n].tolist(), strict=True)]
        assert found.returns[row, :n].tolist() == pytest.approx(returns, abs=1e-5)
        assert found.advantages[row, n:].tolist() == [0.0] * (mask.shape[1] - n)
        assert found.returns[row, n:].tolist() == [0.0] * (mask.shape[1] - n)


def test_lambda_one_is_the_monte_carlo_return_minus_the_value() -> None:
    # Item 11. With lambda 1 the values cancel: A_t = sum_l gamma^l r_{t+l} - V_t.
    gamma, lengths = 0.9, [4, 6]
    rewards, values, mask = ragged(lengths, seed=1)
    found = gae(rewards, values, mask, gamma, 1.0)
    for row, n in enumerate(lengths):
        r = rewards[row, :n].tolist()
        returns = [sum(gamma**k * r[t + k] for k in range(n - t)) for t in range(n)]
        assert found.returns[row, :n].tolist() == pytest.approx(returns, abs=1e-5)
        gaps = [g - v for g, v in zip(returns, values[row, :n].tolist(), strict=True)]
        assert found.advantages[row, :n].tolist() == pytest.approx(gaps, abs=1e-5)


def test_lambda_zero_is_the_one_step_error() -> None:
    # Item 11. The last token has no successor, so its bootstrap value is 0, not the padding's.
    rewards, values, mask = ragged([3], seed=2)
    found = gae(rewards, values, mask, 0.9, 0.0).advantages[0, :3].tolist()
    r, v = rewards[0, :3].tolist(), values[0, :3].tolist()
    expected = [r[0] + 0.9 * v[1] - v[0], r[1] + 0.9 * v[2] - v[1], r[2] - v[2]]
    assert found == pytest.approx(expected, abs=1e-5)


def test_undiscounted_advantages_telescope() -> None:
    # Item 11. gamma = lambda = 1: A_t - A_{t+1} = r_t + V_{t+1} - V_t.
    rewards, values, mask = ragged([6], seed=3)
    found = gae(rewards, values, mask, 1.0, 1.0).advantages[0, :6].tolist()
    r, v = rewards[0, :6].tolist(), values[0, :6].tolist()
    for t in range(5):
        assert found[t] - found[t + 1] == pytest.approx(r[t] + v[t + 1] - v[t], abs=1e-5)


def test_gae_does_not_see_padding() -> None:
    # Items 2, 11: neither its content nor its width.
    rewards, values, mask = ragged([5, 2, 4], seed=4)
    clean = gae(rewards.nan_to_num(0.0), values.clamp(-9, 9) * mask, mask, 0.9, 0.95)
    for found, expected in zip(gae(rewards, values, mask, 0.9, 0.95), clean, strict=True):
        assert torch.equal(found, expected)
    narrow = gae(rewards[:, :5], values[:, :5], mask[:, :5], 0.9, 0.95)
    assert torch.equal(narrow.advantages, clean.advantages[:, :5])
    assert torch.equal(narrow.returns, clean.returns[:, :5])


def test_masked_sums_and_means_ignore_what_is_outside() -> None:
    # Item 2.
    values = torch.tensor([[1.0, 2.0, float("nan")], [4.0, float("inf"), 1e9]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_sum(values, mask).item() == 7.0
    assert masked_mean(values, mask).item() == pytest.approx(7 / 3)
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0.0


def test_whitening_uses_the_population_variance_of_the_mask() -> None:
    # Item 12. Unmasked 1, 2, 6: mean 3, population variance (4 + 1 + 9) / 3 = 14 / 3.
    values = torch.tensor([[1.0, 2.0, float("nan")], [6.0, 1e9, -1e9]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    scale = 1 / math.sqrt(14 / 3 + 1e-8)
    expected = torch.tensor([[-2 * scale, -scale, 0.0], [3 * scale, 0.0, 0.0]])
    torch.testing.assert_close(whiten(values, mask), expected)


def test_whitened_advantages_have_mean_zero_and_variance_one() -> None:
    # Item 12, by torch's own statistics of the masked entries.
    rewards, _, mask = ragged([5, 9, 2, 7], seed=5)
    found = whiten(rewards * 40 + 3, mask)[mask]
    assert found.mean().item() == pytest.approx(0, abs=1e-6)
    assert found.var(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_scaling_of_rewards_keeps_the_mean() -> None:
    # Item 12, the fixture of summarize_from_feedback_details: mean 1.6, population variance
    # .06667 -> (1.2 - 1.6) / .2582 + 1.6 = .0508.
    values = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    found = scale_to_unit_variance(values, torch.ones(3, 3, dtype=torch.bool))
    torch.testing.assert_close(found[0], torch.tensor([0.0508, 0.4381, 0.8254]), atol=5e-5, rtol=0)
    assert found.mean().item() == pytest.approx(1.6, abs=1e-5)
    assert found.var(correction=0).item() == pytest.approx(1.0, abs=1e-4)


def test_scaling_of_rewards_does_not_see_padding() -> None:
    values = torch.tensor([[3.0, 5.0, float("nan")], [7.0, 1e9, 1e9]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    # 3, 5, 7: mean 5, population variance 8 / 3
    step = 2 / math.sqrt(8 / 3)
    expected = torch.tensor([[5 - step, 5.0, 0.0], [5 + step, 0.0, 0.0]])
    torch.testing.assert_close(scale_to_unit_variance(values, mask), expected)


def on_two_processes(function: Callable[..., Tensor], parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Run a function on two parts at once; `reduce` gives each the sum of what both pass in."""
    meet, sums = Barrier(2), [torch.zeros(()), torch.zeros(())]

    def run(rank: int) -> Tensor:
        def reduce(total: Tensor) -> Tensor:
            sums[rank] = total
            meet.wait()
            whole = sums[0] + sums[1]
            meet.wait()
            return whole

        return function(*parts[rank], reduce)

    with ThreadPoolExecutor(2) as pool:
        return torch.cat([part.reshape(-1) for part in pool.map(run, (0, 1))])


def test_statistics_are_those_of_all_processes() -> None:
    # Items 12, 14: two parts of unequal size, each given the sums of both, equal the whole.
    values, _, mask = ragged([4, 6, 1, 5], seed=6)
    parts = [(values[:1], mask[:1]), (values[1:], mask[1:])]
    for function in (whiten, scale_to_unit_variance):
        found = on_two_processes(function, parts)
        torch.testing.assert_close(found, function(values, mask).reshape(-1))
    expected = values[mask].mean()
    torch.testing.assert_close(on_two_processes(masked_mean, parts), expected.repeat(2))


def test_an_empty_row_and_a_single_token_are_harmless() -> None:
    rewards = torch.tensor([[1e9, 1e9], [2.0, float("nan")]])
    mask = torch.tensor([[False, False], [True, False]])
    found = gae(rewards, torch.full((2, 2), 0.5), mask, 1.0, 0.95)
    assert found.advantages.tolist() == [[0.0, 0.0], [1.5, 0.0]]
    assert whiten(rewards, mask).tolist() == [[0.0, 0.0], [0.0, 0.0]]
