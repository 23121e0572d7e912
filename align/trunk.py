"""A causal language model as the trunk of several parts: frozen, read, recomputed.

Scalar heads and the vocabulary head read the trunk's last hidden state, so a model whose logits are
anything but its head applied to that state is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from align.attention import quicken_attention
from align.errors import UserError
from align.products import quicken_linear

Place = tuple[nn.Module, str]
"""A module and the name of one of its parameters."""


def places_of(model: nn.Module, parameters: Sequence[nn.Parameter]) -> list[Place]:
    """Where a model's parameters stand: sharding puts others in their places."""
    places: dict[int, Place] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), (module, name))
    return [places[id(parameter)] for parameter in parameters]


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that do not depend on padding: the exclusive cumulative sum of the mask.

    Args:
        attention_mask: (B, S), 1 on real tokens.

    Returns:
        (B, S) int64; 0 on padding before the first real token.
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)


def last_hidden(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states (B, S, H) of a model's trunk, in the model's dtype.

    Args:
        model: With or without a head, which is left out.
        input_ids: (B, S), padded on either side.
        attention_mask: (B, S), 1 on real tokens.
    """
    output = model.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids(attention_mask),
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def make_base(model: PreTrainedModel) -> None:
    """Freeze a model, switch its dropout off, quicken its linear layers, check its vocabulary head.

    Raises:
        UserError: The model's logits are not its head applied to the trunk's last hidden state.
    """
    model.requires_grad_(False)
    model.eval()
    quicken_linear(model)
    quicken_attention(model)
    if model.get_output_embeddings() is not None:
        _check_plain_head(model)


def enable_checkpointing(
    model: PreTrainedModel, kwargs: dict[str, Any], options: dict[str, Any]
) -> None:
    """Let a model's blocks recompute their activations (not by the reentrant way).

    Args:
        model: A model of transformers, whose method was renamed in 5.23.
        kwargs: For torch's checkpoint function.
        options: For transformers.
    """
    newest, older = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    enable = getattr(model, newest if hasattr(model, newest) else older)
    enable({**kwargs, "use_reentrant": False}, **options)


@contextmanager
def recomputing(module: nn.Module) -> Iterator[None]:
    """Blocks in here keep no activations, where checkpointing is enabled in them.

    transformers checkpoints a block only in training mode, which would also switch dropout on: the
    block alone is put in that mode, not what it holds.
    """
    blocks = [m for m in module.modules() if isinstance(m, GradientCheckpointingLayer)]
    blocks = [block for block in blocks if block.gradient_checkpointing]
    for block in blocks:
        block.training = True
    try:
        yield
    finally:
        for block in blocks:
            block.training = False


@torch.no_grad()
def _check_plain_head(model: PreTrainedModel) -> None:
    probe = torch.arange(4, device=model.device)[None] % model.config.vocab_size
    expected = model(input_ids=probe, use_cache=False).logits
    hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
    if not torch.allclose(model.get_output_embeddings()(hidden), expected, atol=1e-3):
        raise UserError(
            f"{type(model).__name__} scales or caps its logits after the head",
            allowed="models whose logits are head(hidden), such as Llama, Qwen, Mistral, GPT-2",
        )
