"""Steps of sampling over tensors that never move, so that a GPU can replay one as a CUDA graph.

A step over few rows is hundreds of small kernels, and starting them costs a GPU's host more than
they take to run. With the cache, the mask and the positions in place, the kernels of the second
step are recorded, and each later step is one launch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from align import attention
from align.cache import Layer, StaticLayer, roomy_cache
from align.packing import is_whole

logger = logging.getLogger(__name__)

MULTIPLE = 8
"""The cache's length is a multiple of this: fused attention wants masks aligned."""
FEWEST = 8
"""Steps to come below which nothing is recorded: a recording costs a pass of the host."""

Read = Callable[[Tensor, Tensor, Tensor, DynamicCache], tuple[Tensor, Tensor | None]]
"""A pass over new tokens: ids (B, n), mask, positions (B, n) and cache give the last logits (B, V)
and, where a probe reads them, values (B,)."""


def can_be_static(model: PreTrainedModel) -> bool:
    """Whether steps of the model may run over a static cache.

    It must have whole weights, keep all keys, attend to them by torch's fused attention, take
    positions from `position_ids` alone (rotary), and have no branch that looks at data, which
    transformers says.
    """
    return (
        all(map(is_whole, model.parameters()))
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
        cache.layers = [StaticLayer(layer, size, self._place) for layer in cache.layers]
        self._left = steps
        self._steps = 0
        self._run: Callable[[], object] = self._once

    def step(self, chosen: Tensor) -> None:
        """Append one token (B,) to every row."""
        self._ids.copy_(chosen[:, None])
        # the first step of a shape is an ordinary one: libraries set themselves up in it
        if self._steps == 1 and self._left >= FEWEST:
            self._run = recorded(self._once, self._ids.device)
        self._run()
        self._steps += 1
        self._left -= 1

    def keep(self, rows: list[int]) -> Tensor:
        """Drop all rows but these, and what was recorded; returns their indices."""
        index = torch.tensor(rows, device=self._ids.device)
        self._steps, self._run = 0, self._once
        self._ids, self._positions = self._ids[index], self._positions[index]
        self._mask, self.logits = self._mask[index], self.logits[index]
        self.values = None if self.values is None else self.values[index]
        self._cache.batch_select_indices(index)
        return index

    def _once(self) -> None:
        """One pass over `_ids`; whatever changes is written where it stands."""
        self._mask.index_fill_(-1, self._place, True)
        logits, values = self._read(self._ids, self._mask, self._positions, self._cache)
        self.logits.copy_(logits)
        if self.values is not None and values is not None:
            self.values.copy_(values)
        self._positions += 1
        self._place += 1


def recorded(work: Callable[[], None], device: torch.device) -> Callable[[], Any]:
    """What does `work` again: on a GPU its CUDA graph, elsewhere, or if that fails, itself."""
    if device.type != "cuda" or _failed:
        return work
    try:
        graph = torch.cuda.CUDAGraph()
        with (
            _no_casts_kept(device),
            torch.cuda.graph(graph, pool=_pool(device), capture_error_mode="thread_local"),
        ):
            work()
    except RuntimeError as error:
        _failed.append(str(error))
        logger.warning("sampling runs without CUDA graphs, its steps take longer: %s", error)
        return work
    _newest[device] = graph
    return graph.replay


_failed: list[str] = []
"""Why recording failed in this process; it is not tried again."""
_pools: dict[torch.device, Any] = {}
_newest: dict[torch.device, torch.cuda.CUDAGraph] = {}
"""The last graph of a device: kept, for it keeps the memory that all of them share."""


def _pool(device: torch.device) -> Any:
    """The memory that the graphs of a device share; only the newest of them still runs."""
    if device not in _pools:
        _pools[device] = torch.cuda.graph_pool_handle()
    return _pools[device]


def _no_casts_kept(device: torch.device) -> torch.autocast:
    """Autocast as it is, but no cast weight outlives the recording, in whose memory it lies."""
    kind = device.type
    return torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )
