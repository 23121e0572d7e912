"""Packed weights against the layers they stand for."""

import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from align import products
from align.config import LoraConfig
from align.lora import QuickLinear, quicken
from align.packing import packed
from align.products import pack, packed_product, quicken_linear
from align.shared import SharedBase

onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN here")
IDS = torch.arange(3, 15).reshape(2, 6)


@pytest.fixture(autouse=True)
def small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small weights be packed too."""
    monkeypatch.setattr(products, "LEAST_PACKED", 1)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def a_base() -> SharedBase:
    """A shared base whose two adapters are not zero; the policy is in force."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=29, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, attention_bias=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data = torch.randn(parameter.shape)
    shared = SharedBase(model)
    for part in ("critic", "policy"):
        shared.add_adapter(part, LoraConfig(r=3, alpha=5), trainable=True, seed=1)
        for parameter in shared.trainable_parameters(part):
            parameter.data = torch.randn(parameter.shape) * 0.2
    return shared


@torch.no_grad()
def logits(shared: SharedBase, part: str | None) -> Tensor:
    with shared.active(part):
        found: Tensor = shared.causal(IDS).logits
    return found


@torch.no_grad()
def packed_logits(shared: SharedBase, part: str | None) -> Tensor:
    with shared.active(part), packed(shared.causal):
        found: Tensor = shared.causal(IDS).logits
    return found


@onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 6), (7, 6), (2, 3, 6)])
def test_a_packed_product_is_the_product(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, bias = (numbers(*s, seed=i) for i, s in enumerate((shape, (5, 6), (5,))))
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bfloat16 in oneDNN on this processor")
    blocks = pack(weight.to(dtype))
    assert blocks.is_mkldnn
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for given in (bias, None):
        expected = nn.functional.linear(x, weight, given)
        found = packed_product(x, blocks, given)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("least", [1, 10**9])
@pytest.mark.parametrize("part", ["policy", "critic", None])
def test_any_adapter_in_force_is_merged(
    part: str | None, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in blocks, and as they are
    monkeypatch.setattr(products, "LEAST_PACKED", least)
    shared = a_base()
    expected = {name: logits(shared, name) for name in ("policy", "critic", None)}
    torch.testing.assert_close(packed_logits(shared, part), expected[part], atol=1e-5, rtol=1e-5)
    others = [value for name, value in expected.items() if name != part]
    assert all((other - expected[part]).abs().max() > 1e-2 for other in others)


def test_every_layer_multiplies_with_its_copy_and_none_is_left() -> None:
    shared = a_base()
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    layers = [m for m in shared.causal.modules() if isinstance(m, products.Linear | QuickLinear)]
    with shared.active("policy"), packed(shared.causal):
        held = [m for m in layers if m.packed is not None]
        adapted = [m for m in layers if isinstance(m, QuickLinear)]
        assert len(adapted) == 2 * 7
        assert {id(m) for m in held} == {id(m) for m in [*adapted, shared.causal.lm_head]}
        for layer in held:
            layer.packed = torch.zeros_like(layer.packed.to_dense())  # type: ignore[union-attr]
        with torch.no_grad():
            assert shared.causal(IDS).logits.abs().max() == 0.0
    assert all(m.packed is None for m in layers)
    assert all(torch.equal(value, before[name]) for name, value in shared.state_dict().items())


def test_copies_go_when_sampling_fails() -> None:
    shared = a_base()
    with pytest.raises(KeyError), packed(shared.causal):
        raise KeyError
    assert all(getattr(m, "packed", None) is None for m in shared.causal.modules())


def test_under_autocast_copies_are_of_its_type() -> None:
    shared = a_base()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = logits(shared, "policy"), packed_logits(shared, "policy")
    torch.testing.assert_close(found.float(), expected.float(), atol=0.1, rtol=0.1)
    assert found.dtype == expected.dtype == torch.bfloat16


def test_merged_weights_are_peft_s() -> None:
    torch.manual_seed(0)
    model = get_peft_model(
        nn.Sequential(nn.Linear(6, 5)), PeftLora(r=3, lora_alpha=5, target_modules=["0"])
    )
    layer = model.base_model.model[0]
    layer.lora_B["default"].weight.data = torch.randn(5, 3)
    expected = layer.base_layer.weight + layer.get_delta_weight("default")
    quicken(layer)
    torch.testing.assert_close(layer.merged_weight(), expected)


def test_a_model_without_adapters_is_packed_too() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False))
    quicken_linear(model)
    x = numbers(3, 6)
    with torch.no_grad():
        expected = model(x)
        with packed(model):
            assert all(m.packed is not None for m in (model[0], model[2]))
            torch.testing.assert_close(model(x), expected)
