"""Trunk and vocabulary head of a causal model apart, so that the head runs only where scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Head = Callable[[Tensor], Tensor]
Headed = tuple[Tensor, Head]


def split_head(model: PreTrainedModel) -> Callable[..., Headed]:
    """Trunk and vocabulary head of a model, as ids (B, S) -> (hidden (B, S, H), head).

    Keys and values are kept where a cache is passed. Some models scale or cap their logits after
    the head; a probe finds them, and they run whole.
    """
    trunk, head = model.base_model, model.get_output_embeddings()

    def split(ids: Tensor, **past: Any) -> Headed:
        keep = "past_key_values" in past
        return trunk(input_ids=ids, use_cache=keep, **past).last_hidden_state, head

    def whole(ids: Tensor, **past: Any) -> Headed:
        keep = "past_key_values" in past
        return model(input_ids=ids, use_cache=keep, **past).logits, lambda logits: logits

    probe = torch.arange(4, device=model.device)[None]
    with torch.no_grad():
        hidden, _ = split(probe)
        same = torch.allclose(head(hidden).float(), whole(probe)[0].float(), rtol=1e-3, atol=1e-3)
    return split if same else whole
