"""Token statistics and their gradients against torch's own log-softmax and autograd."""

import math

import pytest
import torch
from torch import Tensor, nn

from align.ppo import vocabulary
from align.ppo.vocabulary import token_statistics

N, V, H = 8, 11, 5


class Plain:
    """Random states, tokens and incoming gradients, and what autograd makes of the definition."""

    def __init__(self, temperature: float, *, bias: bool, entropy: bool) -> None:
        generator = torch.Generator().manual_seed(3)
        self.hidden = torch.randn(N, H, generator=generator).requires_grad_()
        self.head = nn.Linear(H, V, bias=bias)
        for parameter in self.head.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.chosen = torch.randint(V, (N,), generator=generator)
        self.incoming = torch.randn(2, N, generator=generator)
        said = torch.distributions.Categorical(logits=self.head(self.hidden) / temperature)
        self.logprobs, self.entropy = said.log_prob(self.chosen), said.entropy()
        total = self.incoming[0] @ self.logprobs
        if entropy:
            total = total + self.incoming[1] @ self.entropy
        self.gradients = self.of(total)

    def of(self, total: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(total, [self.hidden, *self.head.parameters()]))


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("tokens", [3, 100])
@pytest.mark.parametrize("words", [1, 2, 100])
def test_values_and_gradients_are_those_of_autograd(
    temperature: float,
    bias: bool,
    entropy: bool,
    tokens: int,
    words: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whatever the size of the blocks: N is no multiple of 3 tokens, V none of 2 words.
    monkeypatch.setattr(vocabulary, "BLOCK", {"cpu": (tokens, 4 * min(tokens, N) * words)})
    plain = Plain(temperature, bias=bias, entropy=entropy)
    found = token_statistics(
        plain.head, plain.hidden, plain.chosen, temperature, train_entropy=entropy
    )
    torch.testing.assert_close(found.logprobs, plain.logprobs)
    torch.testing.assert_close(found.entropy, plain.entropy)
    gradients = plain.of(plain.incoming[0] @ found.logprobs + plain.incoming[1] @ found.entropy)
    for one, other in zip(gradients, plain.gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_frozen_head_gets_no_gradient() -> None:
    plain = Plain(1.0, bias=True, entropy=False)
    plain.head.requires_grad_(False)
    found = token_statistics(plain.head, plain.hidden, plain.chosen, 1.0)
    (plain.incoming[0] @ found.logprobs).backward()
    assert plain.hidden.grad is not None
    torch.testing.assert_close(plain.hidden.grad, plain.gradients[0], atol=1e-5, rtol=1e-5)
    assert plain.head.weight.grad is None


def test_no_logits_are_kept_for_the_backward_pass() -> None:
    # What autograd keeps is of the size of the hidden states and of the head, never (N, V).
    head = nn.Linear(H, 1000).requires_grad_(False)
    hidden = torch.randn(400, H, requires_grad=True)
    kept: list[int] = []
    weights = {head.weight.data_ptr(), head.bias.data_ptr()}

    def keep(tensor: Tensor) -> Tensor:
        kept.append(0 if tensor.data_ptr() in weights else tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = token_statistics(head, hidden, torch.arange(400), 1.3)
        (found.logprobs * 2).sum()
    assert max(kept) == 400 * H


def test_certainty_has_no_entropy() -> None:
    # logits 0 and 200: p = (0, 1) in float32, log p = (-200, 0); half and half: log 2.
    head = nn.Linear(1, 2, bias=False)
    head.weight.data = torch.tensor([[0.0], [200.0]])
    found = token_statistics(head, torch.tensor([[1.0], [0.0]]), torch.tensor([0, 1]), 1.0)
    assert found.logprobs.tolist() == pytest.approx([-200.0, -math.log(2)])
    assert found.entropy.tolist() == pytest.approx([0.0, math.log(2)])


def test_autocast_computes_in_its_type_and_answers_in_float32() -> None:
    plain = Plain(1.0, bias=False, entropy=False)
    with torch.autocast("cpu", torch.bfloat16):
        found = token_statistics(plain.head, plain.hidden.bfloat16(), plain.chosen, 1.0)
    assert found.logprobs.dtype == torch.float32
    # bfloat16 has 8 bits: logits of size 5 are off by about .02
    assert 1e-5 < (found.logprobs - plain.logprobs).abs().max().item() < 0.1
