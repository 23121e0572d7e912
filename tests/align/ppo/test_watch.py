"""What is logged (docs/ppo.md items 5, 24, 25): sums and means by hand, and skipped steps."""

import math
import time
from dataclasses import replace

import pytest
import torch

from align.errors import UserError
from align.generation import Response
from align.ppo.losses import PolicyLoss, ValueLoss
from align.ppo.rollout import Rollout, start_rollout
from align.ppo.watch import (
    Watch,
    check_finite,
    part_means,
    peak_memory,
    response_metrics,
    rollout_metrics,
    spread_means,
)

CPU = torch.device("cpu")


def policy(loss: float, clipped: int, kl: float, ratio: float, largest: float) -> PolicyLoss:
    numbers = torch.tensor([clipped, kl, ratio, largest])
    return PolicyLoss(torch.tensor(loss, requires_grad=True), *numbers)


def value(loss: float, clipped: int) -> ValueLoss:
    return ValueLoss(torch.tensor(loss, requires_grad=True), torch.tensor(clipped))


def two_steps() -> Watch:
    """Three micro-batches of 4, 2 and 10 tokens in two optimizer steps."""
    watch = Watch()
    watch.policy(policy(0.5, 1, 0.2, 4.4, 1.9), torch.tensor(8.0), torch.tensor(4))
    watch.value(value(2.0, 3))
    watch.policy(policy(0.25, 0, 0.1, 2.0, 1.1), torch.tensor(3.0), torch.tensor(2))
    watch.value(value(1.0, 0))
    watch.step({"policy": 3.0, "critic": 5.0})
    watch.policy(policy(-1.25, 3, 0.5, 9.0, 1.4), torch.tensor(5.0), torch.tensor(10))
    watch.value(value(4.0, 2))
    watch.step({"policy": 1.0, "critic": 7.0})
    return watch


def without_memory(row: dict[str, float]) -> dict[str, float]:
    """The machine decides on that one."""
    return {name: value for name, value in row.items() if name != "memory_gb"}


def test_token_means_are_over_all_tokens_and_losses_over_steps() -> None:
    # Item 25: 16 tokens, 2 steps.
    row = two_steps().summary()
    expected = {
        "policy/clip_fraction": 4 / 16,
        "policy/approx_kl": 0.8 / 16,
        "policy/ratio_mean": 15.4 / 16,
        "policy/entropy": 16 / 16,
        "value/clip_fraction": 5 / 16,
        "policy/loss": -0.5 / 2,
        "value/loss": 7 / 2,
        "grad_norm/policy": 2.0,
        "grad_norm/critic": 6.0,
        "policy/ratio_max": 1.9,
        "skipped_steps": 0,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert row["memory_gb"] == pytest.approx(peak_memory(), rel=0.1)
    assert 0.05 < row["memory_gb"] < 64


def test_a_step_that_is_not_finite_is_counted_and_left_out() -> None:
    # Item 24.
    watch = two_steps()
    expected = watch.summary()
    watch.policy(
        policy(math.nan, 9, math.inf, math.nan, math.inf), torch.tensor(9.0), torch.tensor(9)
    )
    watch.value(value(math.nan, 9))
    watch.step({"policy": math.nan, "critic": 1.0})
    row = watch.summary()
    assert row.pop("skipped_steps") == 1
    assert expected.pop("skipped_steps") == 0
    assert without_memory(row) == pytest.approx(without_memory(expected))


def test_sums_of_all_processes_are_divided_by_all_tokens() -> None:
    # A second process that saw the same: sums double, means stay; its largest ratio counts.
    row = two_steps().summary(lambda sums: 2 * sums, lambda ratio: ratio.clamp_min(2.5))
    alone = two_steps().summary()
    for name in ("policy/clip_fraction", "policy/entropy", "value/clip_fraction"):
        assert row[name] == pytest.approx(alone[name])
    assert row["policy/loss"] == pytest.approx(-0.5)  # each part's loss is a share of the whole
    assert row["value/loss"] == pytest.approx(7.0)
    assert row["policy/ratio_max"] == 2.5


def test_an_update_without_steps_has_zeros() -> None:
    watch = Watch()
    watch.fixed = {"update": 4}
    row = watch.summary()
    assert row["update"] == 4
    assert row["policy/loss"] == row["policy/ratio_max"] == row["policy/entropy"] == 0.0


def test_phases_are_timed_and_their_tokens_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0, 20.0, 23.0, 30.0, 30.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = Watch()
    for _ in range(2):
        with watch.phase("sample"):
            pass
    with watch.phase("score"):
        pass
    watch.count("sample", 40)
    watch.count("sample", 60)
    row = watch.summary()
    assert row["seconds/sample"] == 5.0
    assert row["tokens_per_second/sample"] == 20.0
    assert row["seconds/score"] == 0.5
    assert "tokens_per_second/score" not in row


def two_responses() -> Rollout:
    """Of two tokens and one; the sampler said -1.5, -2 and -2.75, and garbage in the padding."""
    responses = [Response([5, 1], [0.0, 0.0], True), Response([6], [0.0], False)]
    rollout = start_rollout([[3], [3]], responses, 1, CPU)
    return replace(rollout, sampler_logprobs=torch.tensor([[-1.5, -2.0], [-2.75, 1e9]]))


def test_response_metrics_do_not_see_padding() -> None:
    # Two responses: log-ratios 1, -.5 and 2; log-probabilities -1, -2 and -3.
    rollout = replace(
        two_responses(),
        logprobs=torch.tensor([[-1.0, -2.0], [-3.0, math.nan]]),
        reference=torch.tensor([[-2.0, -1.5], [-5.0, 1e9]]),
    )
    found = response_metrics(rollout)
    k3 = (math.exp(-1) - 1 + 1) + (math.exp(0.5) - 1 - 0.5) + (math.exp(-2) - 1 + 2)
    expected = {"kl": 2.5 / 2, "kl_k3": k3 / 2, "entropy": 2.0, "length": 1.5, "eos_rate": 0.5}
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_sampler_is_compared_with_the_trainer_before_the_first_step() -> None:
    # Item 5: the largest distance on a masked token; after a step their weights differ.
    watch, rollout = Watch(), two_responses()
    watch.sampler_gap(torch.tensor([[-1.0, -2.0], [-3.0, math.nan]]), rollout)
    watch.sampler_gap(torch.tensor([[-1.5, -2.0], [-2.875, -9.0]]), rollout)
    watch.step({"policy": 1.0, "critic": 1.0})
    watch.sampler_gap(torch.tensor([[-9.0, -2.0], [-2.75, 0.0]]), rollout)
    assert watch.summary()["sampler/gap_max"] == 0.5
    assert watch.summary(largest=lambda gap: 2 * gap)["sampler/gap_max"] == 1.0


def test_the_first_comparison_is_kept_where_its_step_is_skipped() -> None:
    watch, rollout = Watch(), two_responses()
    watch.sampler_gap(torch.tensor([[-1.25, -2.0], [-2.75, 0.0]]), rollout)
    watch.step({"policy": math.nan, "critic": 1.0})
    watch.sampler_gap(torch.tensor([[-9.0, -2.0], [-2.75, 0.0]]), rollout)
    assert watch.summary()["sampler/gap_max"] == 0.25


def test_different_responses_are_counted() -> None:
    # [5, 1] twice (the second with another token in its padding), [5] and [6]: 3 of 4 differ.
    responses = [[5, 1], [5, 1], [5], [6]]
    rollout = start_rollout(
        [[3]] * 4, [Response(ids, [0.0] * len(ids), True) for ids in responses], 1, CPU
    )
    rollout = replace(rollout, values=torch.zeros(4, 2))
    assert rollout_metrics(rollout, torch.zeros(4, 2))["response/distinct"] == 0.75


def test_pretraining_losses_are_means_over_steps() -> None:
    # Shares of two micro-batches add up to a step's mean; two steps: (1.5 + 2.5) / 2.
    watch = Watch()
    for shares in ((1.0, 0.5), (2.0, 0.5)):
        for share in shares:
            watch.text(torch.tensor(share))
        watch.step({"policy": 1.0, "critic": 1.0})
    assert watch.summary()["ptx/loss"] == 2.0
    assert watch.summary(lambda sums: 2 * sums)["ptx/loss"] == 4.0
    assert "ptx/loss" not in two_steps().summary()


def test_a_stopped_step_is_counted_and_left_out() -> None:
    # Item 17: what the policy did on the waiting batch decides, and is not logged.
    watch = two_steps()
    expected = watch.summary()
    assert watch.moved() == 0.0
    watch.policy(policy(9.0, 9, 0.75, 9.0, 99.0), torch.tensor(9.0), torch.tensor(10))
    watch.policy(policy(9.0, 9, 0.25, 9.0, 99.0), torch.tensor(9.0), torch.tensor(15))
    assert watch.moved() == pytest.approx(1 / 25)
    assert watch.moved(lambda sums: sums + torch.tensor([2.0, 5.0])) == pytest.approx(3 / 30)
    watch.stop()
    row = watch.summary()
    assert row.pop("stopped_steps") == 1
    assert expected.pop("stopped_steps") == 0
    assert without_memory(row) == pytest.approx(without_memory(expected))
    # nor does it wait for the next step
    watch.step({"policy": 2.0, "critic": 6.0})
    row = watch.summary()
    for name in ("policy/clip_fraction", "policy/approx_kl", "policy/entropy", "policy/ratio_max"):
        assert row[name] == pytest.approx(expected[name])


def test_means_of_reward_functions_leave_out_what_they_did_not_score() -> None:
    nan = math.nan
    parts = {"a": torch.tensor([1.0, nan, 4.0]), "b": torch.tensor([nan, nan, nan])}
    found = part_means(parts, CPU)
    assert found == {"score/a": 2.5, "score/b": 0.0}
    # another process has one score of 4.5: (1 + 4 + 4.5) / 3
    found = part_means({"a": parts["a"]}, CPU, lambda sums: sums + torch.tensor([4.5, 1.0]))
    assert found["score/a"] == pytest.approx(9.5 / 3)


def test_the_disagreement_of_an_ensemble_is_averaged_under_a_name_of_its_own() -> None:
    found = spread_means({"judges": torch.tensor([0.5, 1.5, 4.0])}, CPU)
    assert found == {"spread/judges": 2.0}


def test_training_stops_where_a_number_is_not_finite() -> None:
    # Item 24: a clear stop.
    check_finite({"update": 2.0, "kl/k1": 1.0}, all_skipped=False)
    with pytest.raises(UserError, match="not finite after update 2: kl/k1, policy/loss"):
        check_finite({"update": 2.0, "kl/k1": math.nan, "policy/loss": math.inf}, all_skipped=False)
    with pytest.raises(UserError, match="not finite after update 3: all gradients"):
        check_finite({"update": 3.0}, all_skipped=True)
