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
        (B, T, heads, D) in the values' type, and no weights.
    """
    given, kind = (query, key, value), query.device.type
    trained = torch.is_grad_enabled() and query.requires_grad and kind == "cpu"
    # under autocast rotated queries and keys are float32 already, values are not
    if not (trained and torch.bfloat16 in {part.dtype for part in given}):
        return sdpa_attention_forward(module, *given, *mask, **options)[0], None
    with torch.autocast(kind, enabled=False):
        whole = (part.float() for part in given)
        found = sdpa_attention_forward(module, *whole, *mask, **options)[0]
    return found.to(value.dtype), None
