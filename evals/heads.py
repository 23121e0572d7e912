"""Trunk and vocabulary head of a causal model apart, so that the head runs only where scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Headed = tuple[Tensor, Callable[[Tensor], Tensor]]


def split_head(model: PreTrainedModel) -> Callable[[Tensor], Headed]:
    """Trunk and vocabulary head of a model, as ids (B, S) -> (hidden (B, S, H), head).

    Some models scale or cap their logits after the head; a probe finds them, and they run whole.
    """
    trunk, head = model.base_model, model.get_output_embeddings()

    def split(ids: Tensor) -> Headed:
        return trunk(input_ids=ids, use_cache=False).last_hidden_state, head

    def whole(ids: Tensor) -> Headed:
        return model(input_ids=ids, use_cache=False).logits, lambda logits: logits

    probe = torch.arange(4, device=model.device)[None]
    with torch.no_grad():
        hidden, _ = split(probe)
        same = torch.allclose(head(hidden).float(), whole(probe)[0].float(), rtol=1e-3, atol=1e-3)
    return split if same else whole
