"""Best of n: what the highest-scoring of n responses earns, from N responses a prompt.

The expectation over all subsets of n out of the N responses is taken in closed form, so it is
unbiased and uses every response (Nakano 2021, 2112.09332, section 3.2; Gao 2022, 2210.10760).
Responses of equal proxy score count as if one of them were taken at random.
"""

from __future__ import annotations

import math

import numpy as np

from evals.stats import Array


def best_of_kl(n: int) -> float:
    """KL (nats) of best-of-n to the policy it draws from: log n - (n - 1)/n.

    Exact where no two responses have the same score, else an upper bound (Beirami 2024,
    2401.01879).
    """
    return math.log(n) - (n - 1) / n


def sizes(samples: int) -> tuple[int, ...]:
    """1, 2, 4, ... and `samples` itself."""
    powers = (2**k for k in range(samples.bit_length()))
    return tuple(dict.fromkeys([*(n for n in powers if n <= samples), samples]))


def rank_weights(samples: int, n: int) -> Array:
    """Chance of each rank to be the best of n: C(i - 1, n - 1)/C(N, n), i = 1 lowest, (N,).

    From above: the highest is in a share n/N of the subsets, and rank i - 1 is the best in
    (i - n)/(i - 1) as many as rank i.

    Raises:
        ValueError: n is not from 1 to N.
    """
    if not 1 <= n <= samples:
        raise ValueError(f"the best of {n} needs 1 to {samples}")
    weights = np.zeros(samples)
    weights[-1] = n / samples
    for i in range(samples, n, -1):
        weights[i - 2] = weights[i - 1] * (i - n) / (i - 1)
    return weights


def best_of(proxy: Array, values: Array, n: int) -> Array:
    """Expected value of the response that the proxy likes best among n, for each prompt.

    Args:
        proxy: (P, N) scores that choose.
        values: (P, N) what is wanted of the chosen: the proxy itself, or a gold reward.
        n: Responses to choose from, 1 to N.

    Returns:
        (P,).
    """
    weights = rank_weights(proxy.shape[1], n)
    rows = zip(proxy, values, strict=True)
    return np.array([float(weights @ _by_rank(scores, own)) for scores, own in rows])


def _by_rank(scores: Array, values: Array) -> Array:
    """The values (N,) in the order of their scores; those of equal scores are averaged."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=values) / count
    return np.asarray(np.repeat(means, count))
