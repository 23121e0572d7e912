"""From scores to advantages (docs/ppo.md items 6, 8, 9, 11, 12) against loops over plain lists."""

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch

from align.generation import Response
from align.ppo.experience import PlainShaping, collect
from align.ppo.rollout import Rollout, start_rollout

LENGTHS, FINISHED = [3, 1, 4], [True, True, False]
SCORES = [2.0, -7.0, 0.5]
GAP = math.nan
LOGPROBS = [[-1.0, -2.0, -0.5, GAP], [-3.0, GAP, GAP, GAP], [-0.2, -0.4, -0.6, -0.8]]
REFERENCE = [[-1.5, -1.0, -0.5, GAP], [-2.0, GAP, GAP, GAP], [-0.1, -0.9, -0.6, -1.8]]
VALUES = [
    [0.1, 0.2, 0.3, 9e9, 9e9],
    [-0.5, 9e9, 9e9, 9e9, 9e9],
    [0.4, 0.3, 0.2, 0.1, 0.7],  # the last one is the value after the cut
]


def measured() -> Rollout:
    responses = [
        Response([5] * n, [0.0] * n, finished)
        for n, finished in zip(LENGTHS, FINISHED, strict=True)
    ]
    rollout = start_rollout([[3], [4], [5, 6]], responses, 0, torch.device("cpu"))
    return replace(
        rollout,
        logprobs=torch.tensor(LOGPROBS),
        sampler_logprobs=torch.tensor(LOGPROBS) + 0.25,
        reference=torch.tensor(REFERENCE),
        values=torch.tensor(VALUES),
    )


def by_loops(beta: float, shaping: PlainShaping) -> tuple[list[list[float]], list[list[float]]]:
    """Advantages before whitening and returns of every response, from the definitions."""
    advantages, returns = [], []
    for row, n in enumerate(LENGTHS):
        score = SCORES[row]
        if shaping.score_clip is not None:
            score = min(max(score, -shaping.score_clip), shaping.score_clip)
        if not FINISHED[row]:
            score = {
                "penalty": score - shaping.truncation_penalty,
                "replace": -shaping.truncation_penalty,
            }.get(shaping.truncation, score)
        r = [-beta * (LOGPROBS[row][t] - REFERENCE[row][t]) for t in range(n)]
        r[-1] += score
        if shaping.truncation == "bootstrap" and not FINISHED[row]:
            r[-1] += shaping.gamma * VALUES[row][n]
        v = [*VALUES[row][:n], 0.0]
        deltas = [r[t] + shaping.gamma * v[t + 1] - v[t] for t in range(n)]
        decay = shaping.gamma * shaping.lam
        a = [sum(decay**k * deltas[t + k] for k in range(n - t)) for t in range(n)]
        advantages.append(a)
        returns.append([a[t] + v[t] for t in range(n)])
    return advantages, returns


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"truncation": "replace", "truncation_penalty": 3.0},
        {"truncation": "bootstrap", "gamma": 0.9},
        {"truncation": "none", "lam": 0.5, "gamma": 0.8},
        {"score_clip": 1.5},
    ],
)
def test_advantages_and_returns_equal_the_definitions(settings: dict[str, Any]) -> None:
    shaping = PlainShaping(**settings)
    rollout, _ = collect(measured(), torch.tensor(SCORES), 0.3, shaping)
    advantages, returns = by_loops(0.3, shaping)
    flat = [a for row in advantages for a in row]
    # Item 12: population standard deviation over all tokens of all responses.
    mean, std = statistics.fmean(flat), statistics.pstdev(flat)
    for row, n in enumerate(LENGTHS):
        whitened = [(a - mean) / std for a in advantages[row]]
        assert rollout.advantages[row, :n].tolist() == pytest.approx(whitened, abs=1e-4)
        assert rollout.returns[row, :n].tolist() == pytest.approx(returns[row], abs=1e-5)
        assert rollout.advantages[row, n:].tolist() == [0.0] * (4 - n)
        assert rollout.returns[row, n:].tolist() == [0.0] * (4 - n)
        assert rollout.values[row, :n].tolist() == pytest.approx(VALUES[row][:n])
    assert rollout.values.shape == (3, 4)
    assert rollout.scores.tolist() == SCORES  # raw


def test_whitened_rewards_keep_their_mean() -> None:
    # Item 12: the rewards of all tokens are scaled to variance 1 before GAE.
    shaping = PlainShaping(whiten_rewards=True, truncation="none", lam=1.0)
    rollout, metrics = collect(measured(), torch.tensor(SCORES), 0.3, shaping)
    rewards = []
    for row, n in enumerate(LENGTHS):
        r = [-0.3 * (LOGPROBS[row][t] - REFERENCE[row][t]) for t in range(n)]
        rewards.append([*r[:-1], r[-1] + SCORES[row]])
    flat = [r for row in rewards for r in row]
    mean, std = statistics.fmean(flat), statistics.pstdev(flat)
    for row, n in enumerate(LENGTHS):
        scaled = [(r - mean) / std + mean for r in rewards[row]]
        expected = [sum(scaled[t:]) for t in range(n)]  # lambda and gamma 1
        assert rollout.returns[row, :n].tolist() == pytest.approx(expected, abs=1e-4)
    assert metrics["reward/mean"] == pytest.approx(mean * 8 / 3, abs=1e-4)


def test_metrics_of_a_rollout_by_hand() -> None:
    # Items 9, 25: raw scores are logged; KL and reward are sums a response; padding is NaN.
    beta = 0.3
    _, metrics = collect(measured(), torch.tensor(SCORES), beta, PlainShaping(score_clip=1.0))
    d = [[LOGPROBS[row][t] - REFERENCE[row][t] for t in range(n)] for row, n in enumerate(LENGTHS)]
    kl = sum(sum(row) for row in d) / 3
    k3 = sum(math.exp(-x) - 1 + x for row in d for x in row) / 3
    final = [1.0, -1.0, 0.5 - 1.0]  # clipped to +-1; the cut response is penalised by 1
    _, returns = by_loops(beta, PlainShaping(score_clip=1.0))
    flat = [(r, v) for row, n in enumerate(LENGTHS) for r, v in zip(returns[row], VALUES[row][:n])]  # noqa: B905
    spread = statistics.pvariance([r for r, _ in flat])
    missed = statistics.pvariance([r - v for r, v in flat])
    assert metrics == pytest.approx(
        {
            "score/mean": statistics.fmean(SCORES),
            "score/std": statistics.pstdev(SCORES),
            "reward/mean": sum(final) / 3 - beta * kl,
            "return/mean": statistics.fmean(r for r, _ in flat),
            "kl/k1": kl,
            "kl/k3": k3,
            "value/explained_variance": 1 - missed / spread,
            "response/length": 8 / 3,
            "response/eos_rate": 2 / 3,
            "response/distinct": 1.0,
        },
        abs=1e-5,
    )


def test_a_fresh_policy_is_scored_by_its_score_alone() -> None:
    # Items 6, 15: where policy and reference agree, the rewards sum to the score.
    rollout = measured()
    rollout = replace(rollout, reference=rollout.logprobs.clone())
    shaping = PlainShaping(truncation="none", lam=1.0)
    collected, metrics = collect(rollout, torch.tensor(SCORES), 5.0, shaping)
    assert metrics["kl/k1"] == metrics["kl/k3"] == 0.0
    assert metrics["reward/mean"] == pytest.approx(statistics.fmean(SCORES))
    for row, n in enumerate(LENGTHS):
        assert collected.returns[row, :n].tolist() == pytest.approx([SCORES[row]] * n)
