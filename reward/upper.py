"""The upper layers of a trunk, run once for each of several adapters that agree below them.

The layers below are computed once. Where the model comes to its last layer, the upper ones are run
again for every further adapter, from the same hidden states and with the same masks and positions,
and the results are stacked along the batch; what follows (the last norm) works row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from align.errors import UserError

ADDED = 0.4
"""Most layers that an ensemble computes besides one model's, as a share of them, by default."""


def blocks_of(model: Any) -> nn.ModuleList:
    """The layers of a transformers model, lowest first.

    Raises:
        UserError: The model has no list of as many modules as its configuration has layers.
    """
    trunk, wanted = model.base_model, model.config.num_hidden_layers
    for module in trunk.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise UserError(f"{type(model).__name__} has no list of {wanted} layers", where="ensemble")


def upper_layers(layers: int, k: int) -> int:
    """How many upper layers each of k members has by default: n with (k - 1) n <= .4 layers, >= 1.

    One member computes `layers` layers, k members layers + (k - 1) n.
    """
    return max(1, int(ADDED * layers / (k - 1)))


def lower_prefixes(model: Any, upper: int) -> tuple[str, ...]:
    """Names of the layers below the last `upper`, each with a dot behind it, from the trunk on."""
    places = {id(module): name for name, module in model.base_model.named_modules()}
    return tuple(f".{places[id(block)]}." for block in list(blocks_of(model))[:-upper])


def lower_weights(model: Any, path: Path, upper: int) -> dict[str, Tensor]:
    """The tensors of a saved adapter that belong to the layers below the last `upper`."""
    lower = lower_prefixes(model, upper)
    tensors = load_file(path)
    return {name: tensors[name] for name in tensors if any(part in name for part in lower)}


@contextmanager
def forked(
    blocks: Iterable[nn.Module], upper: int, names: Sequence[str], switch: Callable[[str], None]
) -> Iterator[None]:
    """In here the trunk's output has a part (B, ...) for each name, stacked to (k * B, ...).

    Args:
        blocks: All layers; they take hidden states first and return them alone or first.
        upper: How many of the last ones differ between the names.
        names: Adapters; the first is in force.
        switch: Puts an adapter in force.
    """
    own = list(blocks)[-upper:]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    def fork(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        found = [_hidden(output)]
        for name in names[1:]:
            switch(name)
            found.append(_replay(own, calls))
        calls.clear()
        stacked = torch.cat(found)
        return (stacked, *output[1:]) if isinstance(output, tuple) else stacked

    handles = [block.register_forward_pre_hook(record, with_kwargs=True) for block in own]
    handles.append(own[-1].register_forward_hook(fork, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _replay(blocks: Sequence[nn.Module], calls: Sequence[tuple[Any, Any]]) -> Tensor:
    """Hidden states after the blocks, from those that the first of them was given."""
    args, kwargs = calls[0]
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    for block, (given, named) in zip(blocks, calls, strict=True):
        named = {key: value for key, value in named.items() if key != "hidden_states"}
        hidden = _hidden(block.forward(hidden, *given[1:], **named))
    return hidden


def _hidden(output: Any) -> Tensor:
    """A layer's hidden states, which it returns alone or first."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states
