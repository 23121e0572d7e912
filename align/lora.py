"""The LoRA layer as one operation, with fewer and smaller tensors than peft's.

peft computes `W x + s * (B (A x))` with a product, a scaling and a sum of the layer's full width,
in the adapter's float32, and autograd takes the same way back. Here both products are accumulated
into the large one, forward and backward, in the type of `W x`: the adapter's weights are cast, not
the activations. Besides x, only A x is kept for the gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional

from align import products


def quicken(layer: nn.Module) -> None:
    """Let a plain LoRA layer use `QuickLinear`; other layers and variants keep their own way."""
    plain = type(layer) is Linear and type(layer.base_layer) in (nn.Linear, products.Linear)
    if plain and not layer.lora_variant:
        layer.__class__ = QuickLinear


class QuickLinear(Linear):  # type: ignore[misc]
    """peft's layer with one adapter in force, or none."""

    packed: Tensor | None = None
    """Merged weights for products without gradients, where they are packed (`align.packing`)."""

    def merged_weight(self) -> Tensor:
        """W + scaling * B A of the adapter in force, (out, in), in the type products run in."""
        weight, name = self.base_layer.weight, self._active_adapter[0]
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        found = torch.addmm(weight.to(up.dtype), up, down, alpha=self.scaling[name])
        return found.to(products.compute_type(weight))

    def forward(self, x: Tensor) -> Tensor:
        """Return W x + b + scaling * B A x.

        Args:
            x: (..., in).

        Returns:
            (..., out).
        """
        base: Any = self.base_layer
        if self.packed is not None:
            return products.packed_product(x, self.packed, base.bias)
        if self._disable_adapters:
            return base(x)  # type: ignore[no-any-return]
        name = self._active_adapter[0]
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        dtype = products.compute_type(base.weight)
        bias = None if base.bias is None else base.bias.to(dtype)
        given = (
            x.to(dtype).flatten(0, -2),
            base.weight.to(dtype),
            bias,
            down.to(dtype),
            up.to(dtype),
        )
        result: Tensor
        if torch.is_grad_enabled():
            result = _Lora.apply(*given, self.scaling[name])  # type: ignore[no-untyped-call]
        else:
            result = _adapted(*given, self.scaling[name])[0]
        return result.view(*x.shape[:-1], -1)


def _adapted(
    x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """W x + b + scaling * B A x (N, out), and A x (N, r)."""
    with torch.autocast(x.device.type, enabled=False):
        small = functional.linear(x, down)
        result = products.product(x, weight, bias)
        return result.addmm_(small, up.t(), alpha=scaling), small


class _Lora(torch.autograd.Function):
    """The layer on rows (N, in), and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
    ) -> Tensor:
        """Return W x + b + scaling * B A x, (N, out)."""
        result, small = _adapted(x, weight, bias, down, up, scaling)
        ctx.save_for_backward(x, weight, down, up, small)
        ctx.scaling = scaling
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of what wants one: x, W, b, A, B."""
        (of_result,) = gradients
        x, weight, down, up, small = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        of_small = (of_result @ up).mul_(ctx.scaling)
        return (
            products.product(of_result, weight.t()).addmm_(of_small, down) if wanted[0] else None,
            of_result.t() @ x if wanted[1] else None,
            of_result.sum(0) if wanted[2] else None,
            of_small.t() @ x if wanted[3] else None,
            (of_result.t() @ small).mul_(ctx.scaling) if wanted[4] else None,
            None,
        )
