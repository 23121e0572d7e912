"""Weights as sampling wants them: adapters merged in, blocked for products of few rows.

A step of sampling multiplies a few rows with every weight. Adapters as layers of their own then
cost a third of the time, and laying weights out for the processor as much again, so both are done
once for many steps. The model itself stays as it is; the copies last as long as the context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from align import products
from align.lora import QuickLinear


@contextmanager
def packed(model: nn.Module) -> Iterator[None]:
    """Let the model's quick linear layers (`align.products`, `align.lora`) use packed copies.

    For passes without gradients, while neither weights nor the adapter in force change. Results are
    those of the layers up to rounding: merged weights are rounded to the type products run in.
    Sharded weights are left as they are.
    """
    layers = _quick_layers(model)
    try:
        with torch.no_grad():
            for layer in layers:
                layer.packed = products.pack(_weight(layer))
        yield
    finally:
        for layer in layers:
            layer.packed = None


def _quick_layers(model: nn.Module) -> list[products.Linear | QuickLinear]:
    """The layers that multiply, with the adapter in force or without one."""
    found = [m for m in model.modules() if isinstance(m, products.Linear | QuickLinear)]
    adapted = [m for m in found if isinstance(m, QuickLinear)]
    idle = {id(m) if m._disable_adapters else id(m.base_layer) for m in adapted}
    return [m for m in found if id(m) not in idle and is_whole(m.weight)]


def _weight(layer: products.Linear | QuickLinear) -> Tensor:
    """What a layer multiplies with, (out, in)."""
    if isinstance(layer, QuickLinear):
        return layer.merged_weight()
    return layer.weight.detach().to(products.compute_type(layer.weight))


def is_whole(weight: Tensor) -> bool:
    """Whether this process holds all of a weight."""
    return not isinstance(weight, DTensor) and weight.numel() > 0
