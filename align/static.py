"""Steps of sampling over tensors that never move, so that a GPU can replay one as a CUDA graph.

A step over few rows is hundreds of small kernels, and starting them can cost a GPU's host more than
they take to run (not measured here: no GPU yet). With the cache, the mask and the positions in
place, the kernels of the second step are recorded, and each later step is one launch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from align import attention
from align.cache import Layer, StaticLayer, roomy_cache
from align.graphs import recorded, runs_ahead
from align.packing import is_whole

MULTIPLE = 8
"""The cache's length is a multiple of this: fused attention wants masks aligned."""
FEWEST = 8
"""Steps to come below which nothing is recorded: a recording costs a pass of the host."""

Read = Callable[[Tensor, Tensor, Tensor, DynamicCache], tuple[Tensor, Tensor | None]]
"""A pass over new tokens: ids (B, n), mask, positions (B, n) and cache give the last logits (B, V)
and, where a probe reads them, values (B,)."""


def can_be_static(model: PreTrainedModel) -> bool:
    """Whether steps of the model may run over a static cache.

    It must have its weights whole and on one device, keep all keys, attend to them by torch's fused
    attention, take positions from `position_ids` alone (rotary), and have no branch that looks at
    data, which transformers says.
    """
    return (
        all(is_whole(p) and p.device == model.device for p in model.parameters())
        and all(type(layer) is Layer for layer in roomy_cache(model).layers)
        and getattr(model.config, "_attn_implementation", None) in ("sdpa", attention.NAME)
        and bool(getattr(model, "_can_compile_fullgraph", False))
        and any(name.endswith("rotary_emb") for name, _ in model.named_modules())
        and not getattr(model.config, "alibi", False)
    )


class StaticSteps:
    """The steps after a prefill, one token a row each.

    Attributes:
        logits: (B, V) of the next token, overwritten by every step.
        values: (B,) of the probe, likewise; None without one.
    """

    def __init__(
        self,
        read: Read,
        cache: DynamicCache,
        mask: Tensor,
        logits: Tensor,
        values: Tensor | None,
        steps: int,
    ) -> None:
        """Take over a batch.

        Args:
            read: The model.
            cache: What the prefill left, S tokens in layers of any dynamic kind that keeps all.
            mask: (B, S), 1 at real tokens.
            logits: (B, V) of the prefill.
            values: (B,) of the prefill, with a probe.
            steps: Most steps to come.
        """
        rows, old = mask.shape
        size = -(-(old + steps) // MULTIPLE) * MULTIPLE
        self.logits, self.values = logits, values
        self._read, self._cache = read, cache
        self._ids = torch.zeros(rows, 1, dtype=torch.int64, device=mask.device)
        self._positions = mask.sum(-1, keepdim=True)
        self._place = torch.tensor([old], device=mask.device)
        self._mask = torch.zeros(rows, 1, 1, size, dtype=torch.bool, device=mask.device)
        self._mask[..., :old] = mask[:, None, None].bool()
        for i, layer in enumerate(cache.layers):  # one by one: both at once are twice the memory
            cache.layers[i] = StaticLayer(layer, size, self._place)
        self._left = steps
        self._ahead: bool | None = None
        self._replay: Callable[[], None] | None = None

    def step(self, chosen: Tensor) -> None:
        """Append one token (B,) to every row."""
        self._ids.copy_(chosen[:, None])
        device = self._ids.device
        if self._ahead is None:  # the first step of a shape; libraries set themselves up in it
            self._ahead = runs_ahead(self._once, device)
        else:
            if self._replay is None and self._ahead and self._left >= FEWEST:
                self._replay = recorded(self._once, device)
                self._ahead = self._replay is not None
            (self._replay or self._once)()
        self._left -= 1

    def keep(self, rows: list[int]) -> Tensor:
        """Drop all rows but these, and what was recorded; returns their indices."""
        index = torch.tensor(rows, device=self._ids.device)
        self._ahead = self._replay = None
        self._ids, self._positions = self._ids[index], self._positions[index]
        self._mask, self.logits = self._mask[index], self.logits[index]
        self.values = None if self.values is None else self.values[index]
        self._cache.batch_select_indices(index)
        return index

    def _once(self) -> None:
        """One pass over `_ids`; what changes is written where it stands, the places last."""
        self._mask.index_fill_(-1, self._place, True)
        logits, values = self._read(self._ids, self._mask, self._positions, self._cache)
        self.logits.copy_(logits)
        if self.values is not None and values is not None:
            self.values.copy_(values)
        self._positions += 1
        self._place += 1
