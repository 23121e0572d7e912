"""Products by oneDNN against torch's own, with their gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from align import products
from align.products import Linear, linear, product, quicken_linear

onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN here")


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small products take oneDNN's way too."""
    monkeypatch.setattr(products, "LEAST", 1)
    monkeypatch.setattr(products, "LEAST_WIDTH", 1)


def numbers(*shape: int, seed: int = 0, grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).requires_grad_(grad)


def by_onednn(result: Tensor) -> bool:
    """Whether our own operation made this, perhaps under a view."""
    node = result.grad_fn
    assert node is not None
    if "View" in node.name():
        node = node.next_functions[0][0]
        assert node is not None
    return node.name() == "_LinearBackward"


@onednn
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 6), (2, 3, 6), (1, 6), (2, 2, 2, 6)])
def test_values_and_gradients_are_those_of_torch(
    shape: tuple[int, ...], bias: bool, frozen: bool
) -> None:
    given = [numbers(*shape), numbers(5, 6, seed=1, grad=not frozen)]
    given += [numbers(5, seed=2, grad=not frozen)] if bias else []
    same = [one.detach().clone().requires_grad_(one.requires_grad) for one in given]
    found, expected = linear(*given), functional.linear(*same)
    assert by_onednn(found)
    assert not by_onednn(expected)
    torch.testing.assert_close(found, expected)
    found.pow(2).sum().backward()
    expected.pow(2).sum().backward()
    for one, other in zip(given, same, strict=True):
        if not one.requires_grad:
            assert one.grad is None
        else:
            torch.testing.assert_close(one.grad, other.grad)


@onednn
def test_weights_need_not_be_contiguous() -> None:
    x, weight = numbers(4, 10, grad=False)[:, ::2], numbers(5, 3, grad=False).t()
    torch.testing.assert_close(product(x, weight), x @ weight.t())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_torch_s_own(dtype: torch.dtype) -> None:
    x, weight = numbers(4, 6).to(dtype), numbers(5, 6, seed=1).to(dtype)
    assert torch.equal(linear(x, weight), functional.linear(x, weight))


def test_autocast_is_torch_s_own() -> None:
    x, weight = numbers(4, 6), numbers(5, 6, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear(x, weight)
        assert found.dtype == torch.bfloat16 == products.compute_type(weight)
    assert products.compute_type(weight) == torch.float32


def test_small_products_are_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = numbers(4, 6), numbers(5, 6, seed=1)
    monkeypatch.setattr(products, "LEAST", 4 * 6 * 5 + 1)
    assert not by_onednn(linear(x, weight))
    monkeypatch.setattr(products, "LEAST", 1)
    monkeypatch.setattr(products, "LEAST_WIDTH", 7)
    assert not by_onednn(linear(x, weight))


def test_a_model_keeps_its_weights_names_and_answers() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False))
    x, before = numbers(3, 6, grad=False), {k: v.clone() for k, v in model.state_dict().items()}
    expected = model(x)
    quicken_linear(model)
    assert [type(layer) for layer in model] == [Linear, nn.Tanh, Linear]
    torch.testing.assert_close(model(x), expected)
    assert all(torch.equal(before[name], found) for name, found in model.state_dict().items())


def test_layers_of_other_kinds_stay_as_they_are() -> None:
    class Other(nn.Linear):
        """Has a forward of its own, as quantised layers do."""

    model = nn.Sequential(Other(3, 2))
    quicken_linear(model)
    assert type(model[0]) is Other


@onednn
def test_a_compiler_sees_the_plain_product() -> None:
    seen: list[str] = []

    def collect(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    x, weight = numbers(4, 6), numbers(5, 6, seed=1, grad=False)
    torch.compiler.reset()
    found = torch.compile(linear, backend=collect, fullgraph=True)(x, weight)
    torch.testing.assert_close(found, functional.linear(x, weight))
    assert len(seen) == 1
    assert "linear" in seen[0]
    assert by_onednn(linear(x, weight))
    assert not by_onednn(found)
