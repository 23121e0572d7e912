"""What the processes of one training run tell each other: sums, largest values, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Processes:
    """The processes behind an accelerator; alone, everything here is the identity.

    The trunk runs outside of DistributedDataParallel's forward, which would run it once for each
    adapter's loss, so its hooks stay silent and gradients are added here, once an optimizer step.
    """

    accelerator: Accelerator

    def sum(self, total: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        reduced: Tensor = self.accelerator.reduce(total, "sum")
        return reduced

    def largest(self, value: Tensor) -> Tensor:
        """The largest of a scalar over all processes."""
        gathered: Tensor = self.accelerator.gather(value.reshape(1))
        return gathered.max()

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Put the sum of all processes' gradients into each; one message for all parameters."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = self.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        pieces = flat.split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
