"""Keys and values with room to grow.

transformers' growing cache copies everything it holds for every token; here a new token is written
behind the others, and only where the room is used up everything moves into a larger one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens to come that every move makes room for."""


def roomy_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache of a model; layers that keep all keys and values have room to grow."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer() if type(x) is DynamicLayer else x for x in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """A layer whose `keys` and `values` (B, heads, S, D) are the used part of larger tensors."""

    _rooms: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append tokens (B, heads, n, D); returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        length = used + key_states.shape[-2]
        if self._rooms is None or length > self._rooms[0].shape[-2]:
            old = (self.keys, self.values) if used else (None, None)
            new = (key_states, value_states)
            self._rooms = (_moved(old[0], new[0], length), _moved(old[1], new[1], length))
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[..., used:length, :] = states
        self.keys, self.values = (room[..., :length, :] for room in self._rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        super().batch_select_indices(indices)
        self._rooms = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        super().batch_repeat_interleave(repeats)
        self._rooms = None


def _moved(old: Tensor | None, states: Tensor, length: int) -> Tensor:
    """A room for `length` tokens and more, what is there already in its place."""
    room = torch.empty(
        (*states.shape[:-2], length + ROOM, states.shape[-1]),
        dtype=states.dtype,
        device=states.device,
    )
    if old is not None:
        room[..., : old.shape[-2], :] = old
    return room
