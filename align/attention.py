"""Attention that trains in bfloat16 on CPUs without torch's slow backward pass.

torch's fused attention goes back through bfloat16 on a CPU several times slower than through
float32 (docs/log.md); casting queries, keys and values, which are small, costs less than that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_trained_in_float32"


def quicken_attention(model: PreTrainedModel) -> None:
    """Let a model that runs torch's fused attention on a CPU train it in float32."""
    fused = getattr(model.config, "_attn_implementation", None) == "sdpa"
    if fused and model.device.type == "cpu":
        AttentionInterface.register(NAME, attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **options: Any
) -> tuple[Tensor, None]:
    """The fused attention of transformers; what has gradients to come goes through float32.

    Args:
        module: The attention layer.
        query: (B, heads, T, D); key and value likewise.
        key: (B, key heads, S, D).
        value: (B, key heads, S, D).
        mask: The attention mask.
        options: Passed on.

    Returns:
        (B, T, heads, D) in the query's type, and no weights.
    """
    dtype = query.dtype
    trained = torch.is_grad_enabled() and query.requires_grad and query.device.type == "cpu"
    if trained and dtype == torch.bfloat16:
        query, key, value = query.float(), key.float(), value.float()
    with torch.autocast(query.device.type, enabled=False):
        found = sdpa_attention_forward(module, query, key, value, *mask, **options)[0]
    return found.to(dtype), None
