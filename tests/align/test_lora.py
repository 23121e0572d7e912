"""The lighter LoRA forward pass against peft's own."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from align.lora import quicken


class Two(nn.Module):
    """A layer with a bias and one without, both adapted."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.two(torch.tanh(self.one(x)))
        return found


def adapted(**more: Any) -> nn.Module:
    """A model with an adapter whose B is not zero."""
    torch.manual_seed(0)
    settings = LoraConfig(r=3, lora_alpha=5, target_modules=["one", "two"], **more)
    model = get_peft_model(Two(), settings)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape)
    return model.eval()


def lora_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, Linear)]


@pytest.mark.parametrize("shape", [(7, 6), (2, 3, 6), (1, 6)])
def test_outputs_and_gradients_are_peft_s(shape: tuple[int, ...]) -> None:
    expected = adapted()
    found = deepcopy(expected)
    for layer in lora_layers(found):
        quicken(layer)
    x = torch.randn(shape, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    said, wanted = found(x), expected(y)
    torch.testing.assert_close(said, wanted, atol=1e-5, rtol=1e-5)
    (said**2).sum().backward()
    (wanted**2).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-5)
    moved = 0
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-5)
            moved += 1
    assert moved == 4


def test_without_adapter_the_base_answers_to_the_bit() -> None:
    model = adapted()
    x = torch.randn(3, 6)
    expected = Two()
    expected.load_state_dict(
        {
            key.replace("base_model.model.", "").replace("base_layer.", ""): value
            for key, value in model.state_dict().items()
            if "lora_" not in key
        }
    )
    for layer in lora_layers(model):
        quicken(layer)
        layer._disable_adapters = True
    assert torch.equal(model(x), expected(x))


def test_bfloat16_weights_are_not_met_in_float32() -> None:
    # peft casts the activations to the adapter's float32; here the adapter's weights are cast.
    model = adapted()
    wanted = model(x := torch.randn(4, 6))
    for layer in lora_layers(model):
        layer.base_layer.to(torch.bfloat16)
        quicken(layer)
    found = model(x.bfloat16())
    assert found.dtype == torch.bfloat16
    # bfloat16 has 8 bits; outputs are of size 30
    torch.testing.assert_close(found.float(), wanted, atol=0.5, rtol=0.05)
    found.sum().backward()
    grads = [p.grad for name, p in model.named_parameters() if "lora_" in name]
    assert all(grad is not None and grad.dtype == torch.float32 for grad in grads)


def test_other_kinds_of_adapters_keep_their_own_pass() -> None:
    model = adapted(use_dora=True)
    x = torch.randn(3, 6)
    expected = model(x)
    for layer in lora_layers(model):
        quicken(layer)
        assert "forward" not in vars(layer)
    assert torch.equal(model(x), expected)
