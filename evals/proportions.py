"""Differences of proportions, from counts alone: Newcombe's intervals and Tango's score test.

All stay inside [-1, 1] and have a width where no item differs. Stages are compared by Tango's
interval, whose two ends hold their level one by one, as non-inferiority needs; Newcombe's is for
independent groups, and its paired form stands beside for tables that state the margins.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from evals.stats import Interval, normal_quantile, wilson


class PairedCounts(NamedTuple):
    """Items by the outcomes, 0 or 1, of two models on them."""

    both: int
    gained: int
    """1 after, 0 before."""
    lost: int
    """0 after, 1 before."""
    neither: int


def newcombe(a: tuple[int, int], b: tuple[int, int], confidence: float = 0.95) -> Interval:
    """Interval of a/n_a - b/n_b of independent groups, each given as (hits, n).

    Method 10 of Newcombe 1998 (Stat. Med. 17:873). With Wilson's (l, u) of both:
    d - sqrt((p_a - l_a)^2 + (u_b - p_b)^2) to d + sqrt((u_a - p_a)^2 + (p_b - l_b)^2).
    """
    p_a, p_b = a[0] / a[1], b[0] / b[1]
    (l_a, u_a), (l_b, u_b) = wilson(*a, confidence), wilson(*b, confidence)
    difference = p_a - p_b
    low = difference - math.hypot(p_a - l_a, u_b - p_b)
    high = difference + math.hypot(u_a - p_a, p_b - l_b)
    return Interval(low, high)


def newcombe_paired(counts: PairedCounts, confidence: float = 0.95) -> Interval:
    """Interval of a difference, after minus before, of proportions on the same items.

    Method 10 of Newcombe 1998 (Stat. Med. 17:2635): the independent interval with the correlation
    phi of the outcomes, d - sqrt(x^2 - 2 phi x y + y^2) with x = p_a - l_a and y = u_b - p_b, and
    likewise above.
    """
    n = sum(counts)
    after, before = counts.both + counts.gained, counts.both + counts.lost
    p_a, p_b, phi = after / n, before / n, _correlation(counts)
    (l_a, u_a), (l_b, u_b) = wilson(after, n, confidence), wilson(before, n, confidence)

    def length(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    difference = p_a - p_b
    low = difference - length(p_a - l_a, u_b - p_b)
    high = difference + length(u_a - p_a, p_b - l_b)
    return Interval(low, high)


def _correlation(counts: PairedCounts) -> float:
    """Phi of the 2 x 2 table; a positive numerator loses n/2. 0 where a margin is 0."""
    both, gained, lost, neither = counts
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    cross = float(both * neither - gained * lost)
    if cross > 0:
        cross = max(0.0, cross - sum(counts) / 2)
    return cross / math.sqrt(margins)


def tango_statistic(gained: int, lost: int, n: int, difference: float) -> float:
    """Score statistic of a true paired difference (Tango 1998, Stat. Med. 17:891).

    (gained - lost - n d) / sqrt(n (2 q + d (1 - d))), q being the likeliest chance to lose under
    the difference d: the root of 2 n q^2 + b q - lost d (1 - d) with
    b = (2 n - gained + lost) d - gained - lost. At d = 0 it is McNemar's.
    """
    b = (2 * n - gained + lost) * difference - gained - lost
    spread = difference * (1 - difference)
    q = (math.sqrt(max(0.0, b * b + 8 * n * lost * spread)) - b) / (4 * n)
    excess = gained - lost - n * difference
    variance = n * (2 * q + spread)
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def tango(gained: int, lost: int, n: int, confidence: float = 0.95) -> Interval:
    """Interval of a paired difference: all that Tango's score test does not refute."""
    z = normal_quantile(confidence)
    return Interval(_tango_low(gained, lost, n, z), -_tango_low(lost, gained, n, z))


def _tango_low(gained: int, lost: int, n: int, z: float) -> float:
    """The difference at which the statistic, which falls with it, is z; by bisection."""
    low, high = -1.0, (gained - lost) / n
    for _ in range(50):
        middle = (low + high) / 2
        if tango_statistic(gained, lost, n, middle) > z:
            low = middle
        else:
            high = middle
    return low
