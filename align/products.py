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
LEAST_PACKED = 2**16
"""Numbers of a weight below which packing saves nothing."""


def quicken_linear(model: nn.Module) -> None:
    """Let the model's plain linear layers use `linear`; weights, names and files stay the same."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


class Linear(nn.Linear):
    """`torch.nn.Linear`, its products by `linear`."""

    packed: Tensor | None = None
    """The weights for products without gradients, where they are packed (`align.packing`)."""

    def forward(self, input: Tensor) -> Tensor:
        """Return x W^T + b: (..., out) from (..., in)."""
        if self.packed is not None:
            return packed_product(input, self.packed, self.bias)
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


def pack(weight: Tensor) -> Tensor:
    """A weight (out, in) laid out for `packed_product`: on CPUs in oneDNN's blocks.

    Otherwise oneDNN lays it out anew in every product, which costs more than a product of few rows.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight) if _packs(weight) else weight


def packed_product(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, (..., out), with a packed weight, in its type; without gradients."""
    rows = x.to(packed.dtype).flatten(0, -2)
    bias = None if bias is None else bias.to(packed.dtype)
    found: Tensor
    if packed.is_mkldnn:
        found = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    else:
        with torch.autocast(x.device.type, enabled=False):
            found = functional.linear(rows, packed, bias)
    return found.view(*x.shape[:-1], -1)


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


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN has blocks for this weight, and it is large enough to gain."""
    return (
        weight.device.type == "cpu"
        and weight.numel() >= LEAST_PACKED
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and (
            weight.dtype == torch.float32
            or (weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        )
    )


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is there and this is a product for it."""
    return (
        not torch.compiler.is_compiling()  # it rewrites this operation, and fails
        and x.shape[-1] >= LEAST_WIDTH
        and x.numel() * len(weight) >= LEAST
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
