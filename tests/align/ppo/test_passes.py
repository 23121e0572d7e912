"""Passes over a rollout (docs/ppo.md items 1, 3, 16) against one unpadded sequence at a time."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from align.generation import Response
from align.ppo.losses import policy_loss
from align.ppo.passes import response_hidden, response_statistics, state_values
from align.ppo.rollout import Rollout, start_rollout
from align.shared import SharedBase

EOS, PAD = 1, 0
CPU = torch.device("cpu")
PROMPTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]
RESPONSES = [
    Response([12, 13, EOS], [-1.0, -2.0, -3.0], finished=True),
    Response([14, 15, 16, 17, 18], [-0.1, -0.2, -0.3, -0.4, -0.5], finished=False),
    Response([EOS], [-4.0], finished=True),
]


def rollout_of(pad: int = PAD) -> Rollout:
    return start_rollout(PROMPTS, RESPONSES, pad, CPU)


class Alone(NamedTuple):
    """One row measured alone: log-probabilities and entropies (T,), values (T + 1,)."""

    logprobs: Tensor
    entropy: Tensor
    values: Tensor


@torch.no_grad()
def measured_alone(shared: SharedBase, row: int, temperature: float = 1.0) -> Alone:
    """What the policy and the critic say of one unpadded sequence, by the causal LM itself."""
    prompt, response = PROMPTS[row], RESPONSES[row].ids
    ids = torch.tensor([prompt + response])
    start = len(prompt) - 1
    with shared.active("policy"):
        logits = shared.causal(ids).logits[0, start:-1] / temperature
    with shared.active("critic"):
        hidden = shared.causal.base_model(ids).last_hidden_state[0, start:]
    said = torch.distributions.Categorical(logits=logits)
    values = shared.heads["critic"](hidden)[:, 0]
    return Alone(said.log_prob(torch.tensor(response)), said.entropy(), values)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.9])
@pytest.mark.parametrize("pad", [PAD, EOS, 20])
def test_logprobs_and_entropies_are_those_of_each_row_alone(
    shared: SharedBase, temperature: float, pad: int
) -> None:
    # Items 1, 3.
    rollout = rollout_of(pad)
    hidden = response_hidden(shared, rollout)
    found = response_statistics(shared, hidden, rollout, temperature)
    for row, response in enumerate(RESPONSES):
        n, alone = len(response.ids), measured_alone(shared, row, temperature)
        torch.testing.assert_close(found.logprobs[row, :n], alone.logprobs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.entropy[row, :n], alone.entropy, atol=1e-5, rtol=1e-5)
        assert found.logprobs[row, n:].tolist() == [0.0] * (5 - n)
        assert found.entropy[row, n:].tolist() == [0.0] * (5 - n)


def test_values_are_those_of_each_row_alone(shared: SharedBase) -> None:
    # Item 1: the state before every token, and the one after the last.
    rollout = rollout_of()
    with shared.active("critic"):
        found = state_values(shared, response_hidden(shared, rollout))
    assert found.shape == (3, 6)
    for row, response in enumerate(RESPONSES):
        n = len(response.ids) + 1
        expected = measured_alone(shared, row).values
        torch.testing.assert_close(found[row, :n], expected, atol=1e-5, rtol=1e-5)


def test_micro_batches_measure_the_same(shared: SharedBase) -> None:
    # Item 1: whatever the rows beside it.
    rollout = rollout_of()
    whole = response_statistics(shared, response_hidden(shared, rollout), rollout, 1.0).logprobs
    for rows in ([0], [1], [2], [2, 1], [0, 2]):
        part = rollout.rows(torch.tensor(rows))
        found = response_statistics(shared, response_hidden(shared, part), part, 1.0).logprobs
        torch.testing.assert_close(found, whole[rows, : found.shape[1]], atol=1e-5, rtol=1e-5)


def test_prompts_and_padding_get_no_gradient(shared: SharedBase) -> None:
    # Item 16, at the places where the loss looks: the trunk's last hidden states.
    rollout = rollout_of()
    seen: list[Tensor] = []
    shared.causal.base_model.register_forward_hook(
        lambda module, inputs, output: seen.append(output.last_hidden_state)
    )
    hidden = response_hidden(shared, rollout)
    seen[0].retain_grad()
    found = response_statistics(shared, hidden, rollout, 1.0)
    advantages = torch.full((3, 5), math.nan).masked_fill(rollout.mask, 0.5)
    old = found.logprobs.detach().masked_fill(~rollout.mask, math.nan)
    policy_loss(found.logprobs, old, advantages, rollout.mask, 9, 0.2).loss.backward()
    assert seen[0].grad is not None
    touched = seen[0].grad.abs().sum(-1) > 0
    # Token t is predicted at P - 1 + t: the last prompt token's place, then the response's.
    expected = torch.zeros(3, 10, dtype=torch.bool)
    for row, response in enumerate(RESPONSES):
        expected[row, 4 : 4 + len(response.ids)] = True
    assert torch.equal(touched, expected)


def test_padding_gets_no_gradient_at_the_embedding(shared: SharedBase, make_model: object) -> None:
    # Item 16 with a full copy: gradient of the input embeddings is 0 exactly where the mask is.
    rollout = rollout_of()
    seen: list[Tensor] = []

    def keep(module: object, inputs: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    shared.causal.get_input_embeddings().register_forward_hook(keep)
    found = response_statistics(shared, response_hidden(shared, rollout), rollout, 1.0)
    found.logprobs.sum().backward()
    with shared.active("critic"):
        state_values(shared, response_hidden(shared, rollout))[:, :-1][
            rollout.mask
        ].sum().backward()
    mask = torch.cat([rollout.prompt_mask, rollout.mask], dim=1)
    last = torch.tensor([7, 9, 5])  # nothing is predicted from a row's last token
    for part in seen:
        assert part.grad is not None
        assert bool(torch.isfinite(part.grad).all())
        touched = part.grad.abs().sum(-1) > 0
        expected = mask.clone()
        expected[torch.arange(3), last] = False
        assert torch.equal(touched, expected)


def test_the_gradient_of_padded_rows_equals_that_of_single_rows(shared: SharedBase) -> None:
    # Items 1, 14, 16: the adapter's gradient, against a loop over unpadded rows through the LM.
    rollout = rollout_of(EOS)
    parameters = shared.trainable_parameters("policy")
    found = response_statistics(shared, response_hidden(shared, rollout), rollout, 1.3).logprobs
    weights = torch.linspace(-1, 1, 15).reshape(3, 5)
    (found * weights)[rollout.mask].sum().backward()
    gradients = [p.grad.clone() for p in parameters if p.grad is not None]
    for p in parameters:
        p.grad = None
    for row, response in enumerate(RESPONSES):
        ids = torch.tensor([PROMPTS[row] + response.ids])
        start, n = len(PROMPTS[row]) - 1, len(response.ids)
        said = (shared.causal(ids).logits[0, start:-1] / 1.3).log_softmax(-1)
        chosen = said[torch.arange(n), torch.tensor(response.ids)]
        (chosen * weights[row, :n]).sum().backward()
    assert len(gradients) == len(parameters)
    for gradient, p in zip(gradients, parameters, strict=True):
        torch.testing.assert_close(gradient, p.grad, atol=1e-4, rtol=1e-4)


def test_bfloat16_trunks_give_float32_statistics(
    make_model: Callable[..., LlamaForCausalLM],
) -> None:
    base = SharedBase(make_model().to(torch.bfloat16))
    base.add_head("critic", weight=torch.ones(1, 16))
    rollout = rollout_of()
    hidden = response_hidden(base, rollout)
    assert hidden.dtype == torch.bfloat16
    found = response_statistics(base, hidden, rollout, 1.0)
    assert found.logprobs.dtype == found.entropy.dtype == torch.float32
    expected = base.vocabulary_head(hidden[1, 0]).float().log_softmax(-1)[14]
    torch.testing.assert_close(found.logprobs[1, 0], expected)
    assert state_values(base, hidden).dtype == torch.float32
