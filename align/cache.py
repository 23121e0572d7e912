"""Key-value caches with room for what comes.

transformers' `DynamicCache` copies every key and value of every layer at each step. Here they stand
in tensors with room for `ROOM` more tokens, so a step writes its own and a copy is rare. A
`StaticLayer` has room for all that will come, and each step the same shapes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens a layer has room for when it has just grown."""


def roomy_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for a model; layers with windows or states of their own keep their kind."""
    cache = DynamicCache(config=model.config)
    cache.layers = [Layer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class Layer(DynamicLayer):  # type: ignore[misc]
    """One layer: `keys` and `values` (B, H, S, D) are the filled parts of larger tensors."""

    keys: Tensor
    values: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens (B, H, n, D); returns all, (B, H, S + n, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = _append(self.keys, key_states)
        self.values = _append(self.values, value_states)
        return self.keys, self.values


class StaticLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of fixed size: what is not filled yet is 0 and must be masked.

    Unlike transformers' layer of this name it takes over a filled one, lets rows leave, and all
    layers share one place to write at.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, filled: DynamicLayer, size: int, place: Tensor) -> None:
        """Keys and values of a layer (B, H, S, D), then zeros up to `size`.

        Args:
            filled: The layer to take over.
            size: Tokens there is room for.
            place: (1,) int64, where the next token's are written; whoever steps moves it on.
        """
        super().__init__()
        self.lazy_initialization(filled.keys, filled.values)
        self.keys, self.values = _sized(filled.keys, size), _sized(filled.values, size)
        self._place = place

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the keys and values of one new token (B, H, 1, D); returns all, (B, H, size, D)."""
        self.keys.index_copy_(-2, self._place, key_states)
        self.values.index_copy_(-2, self._place, value_states)
        return self.keys, self.values


def _sized(filled: Tensor, size: int) -> Tensor:
    """`filled` (B, H, S, D) followed by zeros, (B, H, size, D)."""
    larger = filled.new_zeros(*filled.shape[:-2], size, filled.shape[-1])
    larger[..., : filled.shape[-2], :] = filled
    return larger


def _append(filled: Tensor, new: Tensor) -> Tensor:
    """`filled` (B, H, S, D) and `new` (B, H, n, D) as one, in place where there is room.

    The room is what the tensor's own storage holds behind each head's S rows; a selection of rows
    has none, and neither has a tensor that is empty.
    """
    old = filled.shape[-2] if filled.numel() else 0
    total = old + new.shape[-2]
    if not old or filled.stride(-3) < total * new.shape[-1]:
        larger = new.new_empty(*new.shape[:-2], total + ROOM, new.shape[-1])
        if old:
            larger[..., :old, :] = filled
        filled = larger
    whole = filled.as_strided((*new.shape[:-2], total, new.shape[-1]), filled.stride())
    whole[..., old:, :] = new
    return whole
