"""The LoRA layer's forward pass with fewer and smaller tensors than peft's.

peft computes `W x + s * (B (A x))` with a product, a scaling and a sum of the layer's full width,
in the adapter's float32. Here the update is accumulated into `W x` by the product itself, in the
type of `W x`: the adapter's weights are cast, not the activations.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional


def quicken(layer: nn.Module) -> None:
    """Replace a plain LoRA layer's forward pass; other layers and variants (DoRA) keep theirs."""
    if type(layer) is Linear and type(layer.base_layer) is nn.Linear and not layer.lora_variant:
        layer.forward = _Forward(layer)


class _Forward:
    """`layer(x)` for the one adapter in force, or the base layer alone."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __call__(self, x: Tensor) -> Tensor:
        """Return W x + b + scaling * B A x.

        Args:
            x: (..., in).

        Returns:
            (..., out).
        """
        layer = self._layer
        result: Tensor = layer.base_layer(x)
        if layer._disable_adapters:
            return result
        name = layer._active_adapter[0]
        dtype, up = result.dtype, layer.lora_B[name].weight
        small = functional.linear(x.to(dtype), layer.lora_A[name].weight.to(dtype))
        with torch.autocast(x.device.type, enabled=False):
            flat = result.view(-1, result.shape[-1]).addmm_(
                small.view(-1, small.shape[-1]), up.to(dtype).t(), alpha=layer.scaling[name]
            )
        return flat.view_as(result)
