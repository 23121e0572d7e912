"""Rewards (docs/ppo.md items 6, 8, 10) against hand derivations and exact KL divergences."""

import math

import pytest
import torch

from align.ppo.rewards import (
    AdaptiveKL,
    bootstrap_rewards,
    kl_estimates,
    token_rewards,
    truncation_scores,
)

MASK = torch.tensor([[True, True, True, False], [True, False, False, False]])


def test_kl_estimators_of_single_tokens() -> None:
    # Item 6. With log-ratio d: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d.
    policy = torch.tensor([[math.log(0.6), math.log(0.2)]])
    reference = torch.tensor([[math.log(0.3), math.log(0.4)]])
    found = kl_estimates(policy, reference)
    d = math.log(2)
    torch.testing.assert_close(found.k1, torch.tensor([[d, -d]]))
    torch.testing.assert_close(found.k2, torch.tensor([[d * d / 2, d * d / 2]]))
    torch.testing.assert_close(found.k3, torch.tensor([[0.5 - 1 + d, 2 - 1 - d]]))


def test_k1_and_k3_are_unbiased_for_the_exact_divergence() -> None:
    # Item 6. The expectation over the whole vocabulary, against torch.distributions.
    generator = torch.Generator().manual_seed(0)
    policy = torch.distributions.Categorical(logits=torch.randn(50, generator=generator))
    reference = torch.distributions.Categorical(logits=torch.randn(50, generator=generator))
    found = kl_estimates(policy.logits[None], reference.logits[None])
    exact = torch.distributions.kl_divergence(policy, reference)
    for estimate in (found.k1, found.k3):
        torch.testing.assert_close((policy.probs * estimate[0]).sum(), exact)


def test_k3_is_never_negative_and_never_overflows() -> None:
    # Item 6: the log-ratio is clamped to +-20 before exp.
    ratio = torch.cat([torch.linspace(-500, 500, 2001), torch.linspace(-1e-3, 1e-3, 2001)])
    k3 = kl_estimates(ratio[None], torch.zeros_like(ratio)[None]).k3
    assert bool(torch.isfinite(k3).all())
    assert k3.min().item() >= 0.0
    largest = kl_estimates(torch.tensor([[-300.0]]), torch.zeros(1, 1)).k3.item()
    assert largest == pytest.approx(math.exp(20) - 21)


def test_rewards_of_a_response_by_hand() -> None:
    # Item 6. beta .5; the score stands on the last response token only.
    k1 = torch.tensor([[0.2, -0.4, 0.6, float("nan")], [1.0, 1e9, 1e9, 1e9]])
    found = token_rewards(torch.tensor([3.0, -2.0]), k1, MASK, beta=0.5)
    expected = torch.tensor([[-0.1, 0.2, -0.3 + 3.0, 0.0], [-0.5 - 2.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)


def test_rewards_of_a_response_sum_to_the_penalised_score() -> None:
    # Item 6: sum of rewards = score - beta * sum of k1.
    generator = torch.Generator().manual_seed(1)
    lengths = [1, 4, 9, 6]
    mask = torch.arange(9)[None] < torch.tensor(lengths)[:, None]
    k1 = torch.randn(4, 9, generator=generator)
    scores = torch.randn(4, generator=generator)
    rewards = token_rewards(scores, k1, mask, beta=0.07)
    for row, n in enumerate(lengths):
        expected = scores[row].item() - 0.07 * sum(k1[row, :n].tolist())
        assert sum(rewards[row].tolist()) == pytest.approx(expected, abs=1e-5)
        assert rewards[row, n:].tolist() == [0.0] * (9 - n)


def test_a_row_without_tokens_gets_no_reward() -> None:
    mask = torch.tensor([[False, False], [True, True]])
    found = token_rewards(torch.tensor([5.0, 7.0]), torch.zeros(2, 2), mask, beta=1.0)
    assert found.tolist() == [[0.0, 0.0], [0.0, 7.0]]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("penalty", [2.0, 1.5, -3.5]),
        ("replace", [2.0, -1.5, -1.5]),
        ("bootstrap", [2.0, 3.0, -2.0]),
        ("none", [2.0, 3.0, -2.0]),
    ],
)
def test_the_rule_for_cut_responses(policy: str, expected: list[float]) -> None:
    # Item 8. Scores 2, 3, -2; the first response ended by itself; penalty 1.5.
    scores = torch.tensor([2.0, 3.0, -2.0])
    found = truncation_scores(scores, torch.tensor([True, False, False]), policy, 1.5)  # type: ignore[arg-type]
    assert found.tolist() == expected
    assert scores.tolist() == [2.0, 3.0, -2.0]


def test_bootstrapping_adds_the_value_after_the_cut() -> None:
    # Item 8. Only the unfinished row 0, on its last token (the third), gamma * V = .9 * 5.
    rewards = torch.tensor([[1.0, 1.0, 1.0, 0.0], [2.0, 0.0, 0.0, 0.0]])
    finished = torch.tensor([False, True])
    found = bootstrap_rewards(rewards, finished, torch.tensor([5.0, 1e9]), MASK, gamma=0.9)
    assert found.flatten().tolist() == pytest.approx([1, 1, 5.5, 0, 2, 0, 0, 0])
    assert rewards[0, 2].item() == 1.0


def test_adaptive_coefficient_of_the_worked_example() -> None:
    # Item 10. KL 12 against target 6: error 1, clipped to .2; .15 * (1 + .2 * 512 / 10000).
    controller = AdaptiveKL(0.15, target=6.0, horizon=10_000)
    controller.update(12.0, 512)
    assert controller.beta == pytest.approx(0.151536, abs=1e-12)
    controller.update(0.0, 512)  # error -1, clipped to -.2
    assert controller.beta == pytest.approx(0.151536 * (1 - 0.2 * 512 / 10_000), abs=1e-12)


def test_adaptive_coefficient_is_proportional_inside_the_clip() -> None:
    # Item 10. KL 6.6 against 6: error .1; .2 * (1 + .1 * 100 / 1000) = .202.
    controller = AdaptiveKL(0.2, target=6.0, horizon=1000)
    controller.update(6.6, 100)
    assert controller.beta == pytest.approx(0.202, abs=1e-12)
    controller.update(6.0, 100)
    assert controller.beta == pytest.approx(0.202, abs=1e-12)


def test_without_a_target_the_coefficient_is_fixed() -> None:
    controller = AdaptiveKL(0.2)
    controller.update(1e9, 10**6)
    assert controller.beta == 0.2
