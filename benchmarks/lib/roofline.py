"""What an update of PPO must compute and read at least, and how long a machine needs for that.

A phase can be no faster than its operations at the machine's rate of products, nor than its bytes
at the machine's bandwidth (the roofline model: Williams et al. 2009, 10.1145/1498765.1498785).
Operations are those of matrix products, two a multiplication and addition; attention is counted
over all pairs of positions. Frozen weights have no gradient of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from align.products import product


@dataclass(frozen=True)
class Model:
    """Sizes of a causal LM with LoRA adapters.

    Attributes:
        linear: Weights of all linear layers but the vocabulary head.
        adapter: Weights of one adapter.
        vocabulary: Weights of the vocabulary head.
        attended: Layers x heads x size of a head.
        cached: Numbers that the cache keeps of a token: 2 x layers x key heads x size of a head.
        width: Bytes of a number.
    """

    linear: int
    adapter: int
    vocabulary: int
    attended: int
    cached: int
    width: int

    def trunk(self, tokens: int, pairs: int, adapter: bool = True) -> float:
        """Operations of a forward pass without the vocabulary head.

        Args:
            tokens: Positions computed.
            pairs: Pairs of a position and one it attends to.
            adapter: Whether an adapter is a layer of its own (neither off nor merged).
        """
        return 2.0 * tokens * (self.linear + adapter * self.adapter) + 4.0 * pairs * self.attended

    def head(self, tokens: int) -> float:
        """Operations of the vocabulary head."""
        return 2.0 * tokens * self.vocabulary


@dataclass(frozen=True)
class Update:
    """One update of PPO: `batch` responses of `response` tokens to prompts of `prompt` tokens.

    `measured` says whether the policy is measured again, as in half precision.
    """

    batch: int
    prompt: int
    response: int
    epochs: int
    measured: bool


class Need(NamedTuple):
    """Least operations and bytes of a phase."""

    operations: float
    read: float

    def seconds(self, machine: Machine) -> float:
        """What the machine needs for them at least."""
        return max(self.operations / machine.operations, self.read / machine.bandwidth)


class Machine(NamedTuple):
    """Measured: operations a second of products, and bytes a second read."""

    operations: float
    bandwidth: float


def needs(model: Model, update: Update) -> dict[str, Need]:
    """Operations and bytes of each phase."""
    b, p, t = update.batch, update.prompt, update.response
    spoken, whole = b * t, b * (p + t)
    pairs = whole * (p + t)
    # the first token comes with the prompt; step i then attends to p + i positions
    steps = sum(p + i for i in range(1, t))
    sampled = (
        model.trunk(whole - b, b * p * p + b * steps, adapter=False),
        model.head(spoken),
        t * (model.linear + model.vocabulary) + b * steps * model.cached,
    )
    passes = model.trunk(whole, pairs, adapter=False) + model.head(spoken)  # the reference
    if update.measured:
        passes += model.trunk(whole, pairs) + model.head(spoken)
    # forward; backward to the inputs; gradients of the adapter's own weights
    learned = 2 * (model.trunk(whole, pairs) + model.head(spoken)) + 2.0 * whole * model.adapter
    learned += 4.0 * pairs * model.attended  # attention has two products, their gradients four
    once = (model.linear + model.vocabulary) * model.width
    return {
        "sample": Need(sampled[0] + sampled[1], sampled[2] * model.width),
        "score": Need(model.trunk(whole, pairs), once),
        "measure": Need(passes, (1 + update.measured) * once),
        "optimise": Need(update.epochs * learned, 2 * update.epochs * once),
    }


def measured_machine(device: str, dtype: torch.dtype) -> Machine:
    """The machine's rates: the fastest of a few large products, and of reading a large tensor."""
    side, size = (8192, 2**30) if device == "cuda" else (2048, 2**27)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    long = torch.ones(size // 4, device=device)

    def fastest(work: Callable[[], object]) -> float:
        return min(_seconds(work, device) for _ in range(8))

    by = min(fastest(lambda: torch.mm(a, b)), fastest(lambda: product(a, b)))
    return Machine(2 * side**3 / by, size / fastest(lambda: long.amax()))


def _seconds(work: Callable[[], object], device: str) -> float:
    """Seconds of some work on a device."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
