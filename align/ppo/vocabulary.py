"""Log-probabilities of chosen tokens straight from hidden states; logits are never kept.

With z = (W h + b) / temperature, p = softmax(z) and H = -sum p log p:

    log p(y)           = z_y - logsumexp(z)
    d log p(y) / d h   = (W_y - sum_v p_v W_v) / temperature
    d H / d h          = -sum_v p_v (log p_v + H) W_v / temperature

Up to one factor a token, both gradients are known in the forward pass. So N vectors of size H are
kept for the backward pass instead of N vectors of size V (85 times as many for SmolLM2), and the
backward pass is a product of a column and a matrix. The logits exist for one block of tokens and
words of the vocabulary at a time, small enough for the processor's cache; sums over the vocabulary
run along, rescaled whenever a block brings a larger logit (online softmax: Milakov and Gimelshein
2018, 1805.02867). Only where W itself trains (full fine-tuning) are logits computed a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from align.products import compute_type, product

BLOCK = {"cpu": (1024, 2**23)}
"""Most tokens of a block of logits, and its size in bytes of float32."""
GPU_BLOCK = (4096, 2**28)


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


@dataclass
class _Sums:
    """Sums over the vocabulary so far, for n tokens; every term has the factor exp(-largest).

    Attributes:
        largest: (n,) largest logit so far.
        odds: (n,) sum of e = exp(z - largest).
        tilt: (n,) sum of e * (z - largest).
        words: (n, H) sum of e * W; None where no gradient is wanted.
        tilted_words: (n, H) sum of e * (z - largest) * W; None where entropy has no gradient.
    """

    largest: Tensor
    odds: Tensor
    tilt: Tensor
    words: Tensor | None
    tilted_words: Tensor | None

    @classmethod
    def empty(cls, n: int, width: int, device: torch.device, depth: int) -> _Sums:
        """Sums over nothing; `depth` 0 without gradients, 1 for log-probabilities', 2 for both."""
        zeros = torch.zeros(n, device=device)
        words = [torch.zeros(n, width, device=device) if depth > i else None for i in range(2)]
        return cls(torch.full_like(zeros, -torch.inf), zeros, zeros.clone(), *words)

    def add(self, logits: Tensor, weight: Tensor) -> None:
        """Take in the logits (n, v) of v more words, whose rows of the head are `weight` (v, H).

        Overwrites the logits.
        """
        largest = torch.maximum(self.largest, logits.amax(-1))
        self._rescale(largest)
        shifted = logits.sub_(largest[:, None])
        odds = shifted.exp()
        self.odds += odds.sum(-1)
        # a product of rows, which makes no (n, v) of its own
        self.tilt += torch.bmm(odds[:, None], shifted[:, :, None]).flatten()
        if self.words is not None:
            self.words += product(odds.to(weight.dtype), weight.t())
        if self.tilted_words is not None:
            self.tilted_words += product(shifted.mul_(odds).to(weight.dtype), weight.t())

    def _rescale(self, largest: Tensor) -> None:
        """Make `largest` the logit that terms are relative to."""
        step = (self.largest - largest).masked_fill(self.odds == 0, 0)  # no terms, no step
        factor = step.exp()
        self.tilt = factor * (self.tilt + step * self.odds)
        if self.tilted_words is not None:
            assert self.words is not None
            self.tilted_words.add_(step[:, None] * self.words).mul_(factor[:, None])
        if self.words is not None:
            self.words.mul_(factor[:, None])
        self.odds = self.odds * factor
        self.largest = largest


class _Statistics(torch.autograd.Function):
    """The formulas above, a block of logits at a time."""

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
        entropies, log_totals = torch.empty_like(logprobs), torch.empty_like(logprobs)
        wanted = ctx.needs_input_grad[0]
        directions = torch.empty_like(hidden) if wanted else None
        spread = torch.empty_like(hidden) if wanted and train_entropy else None
        dtype = compute_type(weight)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        depth = 0 if directions is None else 1 if spread is None else 2
        for rows in _token_blocks(hidden):
            sums = _Sums.empty(rows.stop - rows.start, hidden.shape[1], hidden.device, depth)
            picked = torch.empty_like(sums.odds)
            for words, logits in _logit_blocks(hidden[rows], weight, bias, temperature):
                here, place = _chosen_in(words, chosen[rows])
                picked[here] = logits[here, place]
                sums.add(logits, weight[words])
            log_total = sums.largest + sums.odds.log()
            logprobs[rows], log_totals[rows] = picked - log_total, log_total
            # H = log Z - sum p z
            mean_shifted = sums.tilt / sums.odds
            entropies[rows] = sums.odds.log() - mean_shifted
            if directions is not None and sums.words is not None:
                mean_word = sums.words / sums.odds[:, None]
                directions[rows] = (weight[chosen[rows]] - mean_word) / temperature
            if spread is not None and sums.tilted_words is not None:
                tilted = sums.tilted_words / sums.odds[:, None] - mean_shifted[:, None] * mean_word
                spread[rows] = -tilted / temperature
        ctx.save_for_backward(hidden, weight, bias, chosen, directions, spread, log_totals)
        ctx.temperature, ctx.entropies = temperature, entropies
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Directions scaled by what arrives; gradients of the head only where it trains."""
        directions, spread = ctx.saved_tensors[4:6]
        of_logprobs, of_entropy = gradients
        of_hidden = of_weight = of_bias = None
        if directions is not None:
            of_hidden = directions * of_logprobs[:, None].to(directions.dtype)
        if spread is not None:
            of_hidden += spread * of_entropy[:, None].to(spread.dtype)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            of_weight, of_bias = _head_gradients(
                ctx, of_logprobs, of_entropy if spread is not None else None
            )
        return of_hidden, of_weight, of_bias, None, None, None


def _head_gradients(
    ctx: Any, of_logprobs: Tensor, of_entropy: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the head: sum over tokens of (d loss / d z) h^T, in float32."""
    hidden, weight, bias, chosen, _, _, log_totals = ctx.saved_tensors
    total = torch.zeros(weight.shape, device=weight.device)
    total_bias = None if bias is None else torch.zeros(bias.shape, device=bias.device)
    for rows in _token_blocks(hidden):
        for words, logits in _logit_blocks(hidden[rows], weight, bias, ctx.temperature):
            logp = logits.sub_(log_totals[rows, None])
            p = logp.exp()
            # d log p(y) / d z = [v is y] - p_v;  d H / d z = -p_v (log p_v + H)
            of_logits = -p * of_logprobs[rows, None]
            here, place = _chosen_in(words, chosen[rows])
            of_logits[here, place] += of_logprobs[rows][here]
            if of_entropy is not None:
                of_logits -= of_entropy[rows, None] * p * (logp + ctx.entropies[rows, None])
            of_logits /= ctx.temperature
            total[words] += of_logits.T @ hidden[rows].float()
            if total_bias is not None:
                total_bias[words] += of_logits.sum(0)
    of_weight = total.to(weight.dtype)
    return of_weight, None if bias is None or total_bias is None else total_bias.to(bias.dtype)


def _token_blocks(hidden: Tensor) -> Iterator[slice]:
    """Rows of hidden (N, H), a block at a time."""
    size = _block(hidden)[0]
    for first in range(0, len(hidden), size):
        yield slice(first, min(first + size, len(hidden)))


def _logit_blocks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> Iterator[tuple[slice, Tensor]]:
    """Words of the vocabulary, a block at a time, with their logits (n, v), float32."""
    size = max(_block(hidden)[1] // (4 * len(hidden)), 1)
    states = hidden.to(weight.dtype)
    for first in range(0, len(weight), size):
        words = slice(first, min(first + size, len(weight)))
        with torch.autocast(hidden.device.type, enabled=False):
            logits = product(states, weight[words], None if bias is None else bias[words]).float()
        yield words, logits if temperature == 1 else logits.div_(temperature)


def _chosen_in(words: slice, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens (n,) were chosen among these words: their rows, and places in the block."""
    here = ((chosen >= words.start) & (chosen < words.stop)).nonzero().squeeze(-1)
    return here, chosen[here] - words.start


def _block(hidden: Tensor) -> tuple[int, int]:
    return BLOCK.get(hidden.device.type, GPU_BLOCK)
