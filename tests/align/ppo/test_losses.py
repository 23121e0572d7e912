"""PPO's losses (docs/ppo.md items 13-16): by hand, finite differences, independent autograd."""

import math

import pytest
import torch
from torch import Tensor

from align.ppo.losses import (
    explained_variance,
    policy_loss,
    value_loss,
)

CLIP = 0.2


def policy_token(ratio: float, advantage: float) -> float:
    """Loss of one token by cases (Schulman 2017, figure 1), without max or clamp of tensors."""
    if advantage >= 0:
        return -advantage * min(ratio, 1 + CLIP)
    return -advantage * max(ratio, 1 - CLIP)


def value_token(value: float, old: float, target: float) -> float:
    """Loss of one token: the worse of the plain and the clipped squared error, halved."""
    near = min(max(value, old - CLIP), old + CLIP)
    return 0.5 * max((value - target) ** 2, (near - target) ** 2)


def batch(seed: int = 0) -> dict[str, Tensor]:
    """Three responses of 4, 1 and 6 tokens whose padding is NaN; ratios leave the interval."""
    generator = torch.Generator().manual_seed(seed)

    def draw(scale: float) -> Tensor:
        return torch.randn(3, 7, generator=generator) * scale

    mask = torch.arange(7)[None] < torch.tensor([4, 1, 6])[:, None]
    old = draw(1.0) - 2
    parts = {
        "logprobs": old + draw(0.4),
        "old_logprobs": old,
        "advantages": draw(1.5),
        "values": draw(1.0),
        "returns": draw(1.0),
    }
    parts["old_values"] = parts["values"] + draw(0.4)
    filled = {name: part.masked_fill(~mask, math.nan) for name, part in parts.items()}
    return filled | {"mask": mask}


def test_policy_loss_of_the_four_cases_by_hand() -> None:
    # Item 13. A = 2: ratio 1.5 -> 1.2, ratio .5 stays; A = -3: ratio 1.5 stays, .5 -> .8.
    ratios = torch.tensor([[1.5, 0.5, 1.5, 0.5]])
    advantages = torch.tensor([[2.0, 2.0, -3.0, -3.0]])
    logprobs = ratios.log().requires_grad_()
    mask = torch.ones(1, 4, dtype=torch.bool)
    found = policy_loss(logprobs, torch.zeros(1, 4), advantages, mask, 4, CLIP)
    assert found.loss.item() == pytest.approx((-2.4 - 1.0 + 4.5 + 2.4) / 4)
    found.loss.backward()
    # The clipped side has zero gradient; the others d(-A ratio)/d(log pi) = -A ratio.
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([0.0, -0.25, 4.5 / 4, 0.0])
    assert found.clipped.item() == 2
    assert found.ratio.item() == pytest.approx(4.0)
    assert found.ratio_max.item() == pytest.approx(1.5)
    logs = [math.log(1.5), math.log(0.5)]
    assert found.approx_kl.item() == pytest.approx(sum(x * x for x in logs))


def test_policy_loss_equals_its_definition_token_by_token() -> None:
    parts = batch()
    mask = parts["mask"]
    names = ("logprobs", "old_logprobs", "advantages")
    found = policy_loss(*(parts[name] for name in names), mask, 11, CLIP)
    rows = zip(*(parts[name][mask].tolist() for name in names), strict=True)
    expected = sum(policy_token(math.exp(new - old), a) for new, old, a in rows) / 11
    assert found.loss.item() == pytest.approx(expected, abs=1e-5)


def test_policy_gradient_equals_finite_differences() -> None:
    # Items 13, 16: NaN in padding neither reaches the loss nor the gradient.
    parts = {k: v.double() if v.is_floating_point() else v for k, v in batch(1).items()}
    mask = parts["mask"]
    logprobs = parts["logprobs"].requires_grad_()

    def loss(at: Tensor) -> Tensor:
        return policy_loss(at, parts["old_logprobs"], parts["advantages"], mask, 11, CLIP).loss

    loss(logprobs).backward()
    assert logprobs.grad is not None
    assert logprobs.grad[~mask].tolist() == [0.0] * 10
    for row, column in mask.nonzero().tolist():
        step = torch.zeros_like(logprobs)
        step[row, column] = 1e-6
        slope = (loss(logprobs + step) - loss(logprobs - step)).item() / 2e-6
        assert logprobs.grad[row, column].item() == pytest.approx(slope, abs=1e-6)


def test_at_the_old_policy_the_gradient_is_that_of_reinforce() -> None:
    # Item 15. grad of -mean A log pi, computed apart.
    parts = batch(2)
    mask, advantages = parts["mask"], parts["advantages"]
    logprobs = parts["logprobs"].clone().requires_grad_()
    found = policy_loss(logprobs, parts["logprobs"], advantages, mask, 11, CLIP)
    found.loss.backward()
    plain = parts["logprobs"].clone().requires_grad_()
    (-(advantages[mask] * plain[mask]).sum() / 11).backward()
    assert logprobs.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(logprobs.grad, plain.grad)
    assert found.clipped.item() == 0
    assert found.approx_kl.item() == 0.0
    assert found.ratio.item() == 11.0
    assert found.ratio_max.item() == 1.0


def test_value_loss_equals_its_definition_token_by_token() -> None:
    # Item 13.
    parts = batch(3)
    mask, names = parts["mask"], ("values", "old_values", "returns")
    found = value_loss(*(parts[name] for name in names), mask, 11, CLIP)
    rows = list(zip(*(parts[name][mask].tolist() for name in names), strict=True))
    expected = sum(value_token(*row) for row in rows) / 11
    assert found.loss.item() == pytest.approx(expected, abs=1e-5)
    clipped = sum(value_token(*row) > 0.5 * (row[0] - row[2]) ** 2 + 1e-9 for row in rows)
    assert found.clipped.item() == clipped
    assert 0 < clipped < 11


def test_value_gradient_equals_finite_differences() -> None:
    # Items 13, 16.
    parts = {k: v.double() if v.is_floating_point() else v for k, v in batch(4).items()}
    mask = parts["mask"]
    values = parts["values"].requires_grad_()

    def loss(at: Tensor) -> Tensor:
        return value_loss(at, parts["old_values"], parts["returns"], mask, 11, CLIP).loss

    loss(values).backward()
    assert values.grad is not None
    assert values.grad[~mask].tolist() == [0.0] * 10
    for row, column in mask.nonzero().tolist():
        step = torch.zeros_like(values)
        step[row, column] = 1e-6
        slope = (loss(values + step) - loss(values - step)).item() / 2e-6
        assert values.grad[row, column].item() == pytest.approx(slope, abs=1e-6)


def test_value_clipping_by_hand() -> None:
    # Item 13. Old value 1, clip .2. Return 0: V = .5 moved beyond .8, so the loss is .5 * .8^2 with
    # no gradient. Return 2: V = .5 moved away, so the loss is .5 * 1.5^2 with gradient -1.5.
    values = torch.tensor([[0.5, 0.5]], requires_grad=True)
    old, returns = torch.ones(1, 2), torch.tensor([[0.0, 2.0]])
    found = value_loss(values, old, returns, torch.ones(1, 2, dtype=torch.bool), 1, CLIP)
    assert found.loss.item() == pytest.approx(0.5 * 0.64 + 0.5 * 2.25)
    found.loss.backward()
    assert values.grad is not None
    assert values.grad[0].tolist() == pytest.approx([0.0, -1.5])


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    # Item 14: each part is divided by the tokens of all.
    parts = batch(5)
    mask, tokens = parts["mask"], parts["mask"].sum()
    p = ("logprobs", "old_logprobs", "advantages")
    v = ("values", "old_values", "returns")
    whole = policy_loss(*(parts[n] for n in p), mask, tokens, CLIP).loss
    pieces = [
        policy_loss(*(parts[n][i : i + 1] for n in p), mask[i : i + 1], tokens, CLIP).loss
        for i in range(3)
    ]
    torch.testing.assert_close(torch.stack(pieces).sum(), whole)
    whole = value_loss(*(parts[n] for n in v), mask, tokens, CLIP).loss
    pieces = [
        value_loss(*(parts[n][i : i + 1] for n in v), mask[i : i + 1], tokens, CLIP).loss
        for i in range(3)
    ]
    torch.testing.assert_close(torch.stack(pieces).sum(), whole)


def test_explained_variance_by_hand() -> None:
    # Item 25. Masked returns 1, 3, 5: variance 8/3; errors 0, 0, 1.5: variance .5.
    returns = torch.tensor([[1.0, 3.0, math.nan], [5.0, 1e9, 1e9]])
    values = torch.tensor([[1.0, 3.0, 7.0], [3.5, -1e9, 0.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = explained_variance(values, returns, mask).item()
    assert found == pytest.approx(1 - 0.5 / (8 / 3))
    assert explained_variance(returns, returns, mask).item() == 1.0
    # A constant shift leaves the variance of the error at 0; constant returns explain nothing.
    assert explained_variance(returns + 4, returns, mask).item() == pytest.approx(1.0)
    assert explained_variance(values, torch.ones(2, 3), mask).item() == 0.0
    assert explained_variance(values, returns, torch.zeros_like(mask)).item() == 0.0
