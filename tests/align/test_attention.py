"""Attention that trains in float32 under bfloat16 models on CPUs."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from align import attention as module
from align.attention import NAME, quicken_attention


def tiny(dtype: torch.dtype, implementation: str = "sdpa") -> LlamaForCausalLM:
    """A Llama of two layers with fewer key heads than heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, attn_implementation=implementation,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


def answer(model: LlamaForCausalLM) -> tuple[Tensor, Tensor]:
    """Logits of a padded batch, and the gradient of the embeddings."""
    ids = torch.arange(12).view(2, 6) % 31
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    logits = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    gradient = torch.autograd.grad(logits.float().pow(2).sum(), model.model.embed_tokens.weight)
    return logits.float(), gradient[0].float()


def test_bfloat16_comes_nearer_to_float32() -> None:
    expected = answer(tiny(torch.float32))
    plain, quick = tiny(torch.bfloat16), tiny(torch.bfloat16)
    quicken_attention(quick)
    assert quick.config._attn_implementation == NAME
    for wanted, usual, found in zip(expected, answer(plain), answer(quick), strict=True):
        assert (found - wanted).norm() < 1.1 * (usual - wanted).norm()
        assert (found - wanted).norm() < 0.03 * wanted.norm()


def test_float32_is_untouched() -> None:
    quick = tiny(torch.float32)
    quicken_attention(quick)
    for wanted, found in zip(answer(tiny(torch.float32)), answer(quick), strict=True):
        assert torch.equal(wanted, found)


def test_only_what_trains_goes_through_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def spy(layer: object, query: Tensor, *rest: Tensor, **options: object) -> tuple[Tensor, None]:
        seen.append(query.dtype)
        return query.transpose(1, 2), None

    monkeypatch.setattr(module, "sdpa_attention_forward", spy)
    parts = [torch.ones(1, 2, 3, 4, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    layer = torch.nn.Identity()
    assert module.attention(layer, *parts, None)[0].dtype == torch.bfloat16
    with torch.no_grad():
        module.attention(layer, *parts, None)
    module.attention(layer, *(part.detach() for part in parts), None)
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16]


def test_mixed_precision_trains() -> None:
    expected = answer(tiny(torch.float32))
    quick = tiny(torch.float32)
    quicken_attention(quick)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = answer(quick)
    for wanted, other in zip(expected, found, strict=True):
        assert 0 < (other - wanted).norm() < 0.03 * wanted.norm()


def test_other_implementations_stay() -> None:
    model = tiny(torch.bfloat16, "eager")
    quicken_attention(model)
    assert model.config._attn_implementation == "eager"
