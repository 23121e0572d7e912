"""A causal model as a trunk (docs/ppo.md items 1, 4): positions, freezing, recomputation."""

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from align.errors import UserError
from align.trunk import (
    enable_checkpointing,
    last_hidden,
    make_base,
    position_ids,
    recomputing,
)

V, H = 40, 16
IDS = torch.randint(3, V, (3, 7), generator=torch.Generator().manual_seed(1))
SHAPE = {
    "vocab_size": V, "hidden_size": H, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


def test_positions_are_the_exclusive_sum_of_the_mask() -> None:
    # Item 1. Padding before the first token counts as 0.
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 1]])
    expected = [[max(sum(row[: t + 1]) - 1, 0) for t in range(5)] for row in mask.tolist()]
    assert position_ids(mask).tolist() == expected
    assert position_ids(mask.bool()).tolist() == expected


def test_states_are_those_of_the_trunk_whatever_its_head() -> None:
    config = LlamaConfig(**SHAPE, num_labels=1, pad_token_id=0)
    for kind in (LlamaForCausalLM, LlamaForSequenceClassification):
        model = kind(config).eval()
        with torch.no_grad():
            expected = model.model(IDS).last_hidden_state
            assert torch.equal(last_hidden(model, IDS, torch.ones_like(IDS)), expected)
            assert torch.equal(last_hidden(model.model, IDS, torch.ones_like(IDS)), expected)


def test_a_frozen_model_neither_trains_nor_drops() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, attention_dropout=0.9)).train()
    make_base(model)
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert torch.equal(model(IDS).logits, model(IDS).logits)


def test_a_model_that_scales_its_logits_is_refused() -> None:
    settings = {
        "vocab_size": V, "hidden_size": H, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    with pytest.raises(UserError, match="GraniteForCausalLM scales"):
        make_base(GraniteForCausalLM(GraniteConfig(**settings, logits_scaling=4.0)))
    make_base(GraniteForCausalLM(GraniteConfig(**settings, logits_scaling=1.0)))


def test_only_blocks_with_checkpointing_forget_and_only_inside() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=H, n_layer=2, n_head=2)).eval()
    with recomputing(model):
        assert not any(module.training for module in model.modules())
    enable_checkpointing(model, {}, {})
    runs: list[int] = []
    for block in model.transformer.h:
        block.mlp.register_forward_pre_hook(lambda module, inputs: runs.append(1))
    expected = torch.autograd.grad(model(IDS).logits.pow(2).mean(), model.lm_head.weight)[0]
    assert len(runs) == 2  # both blocks, once: this is no training mode
    with recomputing(model):
        inside = {name for name, module in model.named_modules() if module.training}
        assert inside == {"transformer.h.0", "transformer.h.1"}
        assert not any(m.training for m in model.modules() if isinstance(m, nn.Dropout))
        loss = model(IDS).logits.pow(2).mean()
        found = torch.autograd.grad(loss, model.lm_head.weight)[0]
    assert torch.equal(found, expected)
    assert len(runs) == 2 + 2 * 2
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    "name", ["activation_checkpointing_enable", "gradient_checkpointing_enable"]
)
def test_checkpointing_is_enabled_under_either_name(name: str) -> None:
    # The method was renamed in transformers 5.23.
    seen: list[object] = []

    class Model:
        pass

    def enable(kwargs: dict[str, object], **options: object) -> None:
        seen.append((kwargs, options))

    model = Model()
    setattr(model, name, enable)
    enable_checkpointing(model, {"a": 1, "use_reentrant": True}, {"offload": False})  # type: ignore[arg-type]
    assert seen == [({"a": 1, "use_reentrant": False}, {"offload": False})]
