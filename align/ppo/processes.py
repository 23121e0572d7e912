"""What the processes of one training run tell each other: sums, largest values, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from accelerate import Accelerator


SHARDED = ("FSDP", "DEEPSPEED")
"""accelerate's names of what spreads one copy of the weights over all processes."""


@dataclass(frozen=True)
class Processes:
    """The processes behind an accelerator; alone, everything here is the identity.

    The trunk runs outside of DistributedDataParallel's forward, which would run it once for each
    adapter's loss, so its hooks stay silent and gradients are added here, once an optimizer step.
    """

    accelerator: Accelerator

    def sum(self, total: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        reduced: Tensor = self.accelerator.reduce(total.to(self.accelerator.device), "sum")
        return reduced.to(total.device)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.accelerator.num_processes)

    def anyone(self, mine: bool) -> bool:
        """Whether this process must go on because it wants to (`mine`), or because another does.

        Where weights are sharded, every process must take part in every forward pass.
        """
        if self.accelerator.distributed_type not in SHARDED:
            return mine
        return bool(self.largest(torch.tensor(float(mine))))

    def largest(self, value: Tensor) -> Tensor:
        """The largest of a scalar over all processes."""
        gathered: Tensor = self.accelerator.gather(value.reshape(1).to(self.accelerator.device))
        return gathered.max().to(value.device)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Put the sum of all processes' gradients into each; one message for all parameters.

        Sharded gradients (DTensor) arrive as means over the processes, one shard each.
        """
        if self.count == 1:
            return
        whole = [p for p in parameters if not isinstance(p, DTensor)]
        for parameter in parameters:
            if isinstance(parameter, DTensor) and parameter.grad is not None:
                parameter.grad.mul_(self.count)
        if not whole:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in whole]
        flat = self.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        pieces = flat.split([p.numel() for p in whole])
        for parameter, piece in zip(whole, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
