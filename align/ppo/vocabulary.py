"""Log-probabilities of chosen tokens straight from hidden states; logits are never kept.

With z = (W h + b) / temperature, p = softmax(z) and H = -sum p log p:

    log p(y)           = z_y - logsumexp(z)
    d log p(y) / d h   = (W_y - sum_v p_v W_v) / temperature
    d H / d h          = -sum_v p_v (log p_v + H) W_v / temperature

Up to one factor a token, both gradients are known in the forward pass. So N vectors of size H are
kept for the backward pass instead of N vectors of size V (85 times as many for SmolLM2), and the
backward pass is a product of a column and a matrix. The logits exist for one chunk of tokens at a
time, in one buffer. Only where W itself trains (full fine-tuning) are they computed a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**28}
"""Size of one chunk's float32 logits: fewer tokens leave the matrix product short of work."""


class TokenStatistics(NamedTuple):
    """Log-probabilities and entropies (nats) of tokens, float32, (N,) or (B, T) each."""

    logprobs: Tensor
    entropy: Tensor


def token_statistics(
    head: nn.Module,
    hidden: Tensor,
    chosen: Tensor,
    temperature: float,
    *,
    train_entropy: bool = False,
) -> TokenStatistics:
    """Log-probability of each chosen token, and the entropy of the distribution it came from.

    Args:
        head: Vocabulary head with `weight` (V, H) and perhaps `bias` (V,).
        hidden: (N, H) states before the tokens.
        chosen: (N,) token ids.
        temperature: Divides the logits, as in sampling.
        train_entropy: Whether the entropy has a gradient too; costs one more product.

    Returns:
        (N,) each, float32.
    """
    weight, bias = head.weight, getattr(head, "bias", None)
    found = _Statistics.apply(hidden, weight, bias, chosen, temperature, train_entropy)  # type: ignore[no-untyped-call]
    return TokenStatistics(*found)


class _Statistics(torch.autograd.Function):
    """The formulas above, a chunk of tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        chosen: Tensor,
        temperature: float,
        train_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        """Statistics of all tokens, and the directions of their gradients where one is wanted."""
        logprobs = torch.empty(len(chosen), device=hidden.device)
        entropies = torch.empty_like(logprobs)
        wanted = ctx.needs_input_grad[0]
        directions = torch.empty_like(hidden) if wanted else None
        spread = torch.empty_like(hidden) if wanted and train_entropy else None
        weight, bias, dtype = _compute_type(hidden, weight, bias)
        for rows, shifted, odds in _softmax_parts(hidden, weight, bias, temperature):
            total = odds.sum(-1)
            log_total = total.log()
            logprobs[rows] = shifted.gather(-1, chosen[rows, None]).squeeze(-1) - log_total
            # H = log Z - sum p z, as a product of rows that makes no (n, V) of its own
            mean_logit = torch.bmm(odds[:, None], shifted[:, :, None]).flatten() / total
            entropies[rows] = log_total - mean_logit
            if directions is not None:
                mean = (odds.to(dtype) @ weight) / total[:, None]
                directions[rows] = ((weight[chosen[rows]] - mean) / temperature).to(hidden.dtype)
            if spread is not None:
                tilt = shifted.sub_(mean_logit[:, None]).mul_(odds).div_(total[:, None])
                spread[rows] = (-(tilt.to(dtype) @ weight) / temperature).to(hidden.dtype)
        ctx.save_for_backward(hidden, weight, bias, chosen, directions, spread)
        ctx.temperature = temperature
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Directions scaled by what arrives; gradients of the head only where it trains."""
        hidden, weight, bias, chosen, directions, spread = ctx.saved_tensors
        of_logprobs, of_entropy = gradients
        of_hidden = of_weight = of_bias = None
        if directions is not None:
            of_hidden = directions * of_logprobs[:, None].to(directions.dtype)
        if spread is not None:
            of_hidden += spread * of_entropy[:, None].to(spread.dtype)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            entropy = of_entropy if spread is not None else None
            of_weight, of_bias = _head_gradients(
                hidden, weight, bias, chosen, ctx.temperature, of_logprobs, entropy
            )
        return of_hidden, of_weight, of_bias, None, None, None


def _head_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    chosen: Tensor,
    temperature: float,
    of_logprobs: Tensor,
    of_entropy: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the head: sum over tokens of (d loss / d z) h^T, in float32."""
    total = torch.zeros(weight.shape, device=weight.device)
    total_bias = None if bias is None else torch.zeros(bias.shape, device=bias.device)
    for rows, shifted, odds in _softmax_parts(hidden, weight, bias, temperature):
        total_odds = odds.sum(-1, keepdim=True)
        p = odds.div_(total_odds)
        # d log p(y) / d z = [v is y] - p_v;  d H / d z = -p_v (z_v - sum p z)
        of_logits = -p * of_logprobs[rows, None]
        of_logits.scatter_add_(-1, chosen[rows, None], of_logprobs[rows, None])
        if of_entropy is not None:
            mean_logit = torch.linalg.vecdot(p, shifted)[:, None]
            of_logits -= of_entropy[rows, None] * p * (shifted - mean_logit)
        of_logits /= temperature
        total += of_logits.T @ hidden[rows].float()
        if total_bias is not None:
            total_bias += of_logits.sum(0)
    of_weight = total.to(weight.dtype)
    return of_weight, None if bias is None or total_bias is None else total_bias.to(bias.dtype)


def _compute_type(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, torch.dtype]:
    """The head in the type that products run in: autocast's if it is on, else the head's own."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return weight.to(dtype), None if bias is None else bias.to(dtype), dtype


def _softmax_parts(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Chunks of tokens: their rows, logits less the row's largest, and exp of that, (n, V) float32.

    All chunks share two buffers: fresh pages for every chunk cost more than the arithmetic on them.
    """
    size = max(CHUNK_BYTES.get(weight.device.type, 2**26) // (4 * weight.shape[0]), 1)
    n, states = len(hidden), hidden.to(weight.dtype)
    shape = (min(size, n), weight.shape[0])
    products = torch.empty(shape, dtype=weight.dtype, device=weight.device)
    logits = products if weight.dtype == torch.float32 else products.float()
    odds = torch.empty_like(logits)
    for first in range(0, n, size):
        rows = slice(first, min(first + size, n))
        held = rows.stop - rows.start
        torch.mm(states[rows], weight.T, out=products[:held])
        part = logits[:held]
        if part.data_ptr() != products.data_ptr():
            part.copy_(products[:held])
        if bias is not None:
            part += bias
        if temperature != 1:
            part /= temperature
        part -= part.amax(-1, keepdim=True)
        yield rows, part, torch.exp(part, out=odds[:held])
