"""Matrix products in float32 on CPUs through oneDNN.

torch multiplies float32 matrices with MKL, which was the slower one where it was measured; oneDNN,
which torch carries for its other number formats, was the faster (docs/log.md: an AMD EPYC).
The result is the same up to rounding. Other types, devices and small products take torch's way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST = 2**23
"""Multiplications of a product below which oneDNN saves nothing."""
LEAST_WIDTH = 512
"""Likewise, the length of the sums."""


def quicken_linear(model: nn.Module) -> None:
    """Let the model's plain linear layers use `linear`; weights, names and files stay the same."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


class Linear(nn.Linear):
    """`torch.nn.Linear`, its products by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b: (..., out) from (..., in)."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`functional.linear` with gradients: x W^T + b, (..., out).

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,).
    """
    if not _by_onednn(x, weight):
        return functional.linear(x, weight, bias)
    found: Tensor = _Linear.apply(x.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
    return found.view(*x.shape[:-1], -1)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same for rows x (N, in), without a thought of gradients; the result is a new tensor."""
    if not _by_onednn(x, weight):
        return functional.linear(x, weight, bias)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def compute_type(weight: Tensor) -> torch.dtype:
    """The type that products with a weight run in: autocast's if it is on, else the weight's."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class _Linear(torch.autograd.Function):
    """The product of rows and its gradients; x is kept only where the weights train."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return x W^T + b."""
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of what wants one."""
        x, weight = ctx.saved_tensors
        (of_result,) = gradients
        return (
            product(of_result, weight.t()) if ctx.needs_input_grad[0] else None,
            # here, where the sums run over tokens, MKL is the faster one
            of_result.t() @ x if x is not None else None,
            of_result.sum(0) if ctx.needs_input_grad[2] else None,
        )


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is there and this is a product for it."""
    return (
        x.shape[-1] >= LEAST_WIDTH
        and x.numel() * len(weight) >= LEAST
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
