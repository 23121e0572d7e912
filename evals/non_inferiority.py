"""One-sided tests of "no worse than by a margin"; a large p of no difference never shows that.

The null is a loss of the margin or more: after - before <= -margin. p is small where the data
refute it. Each test is the other side of the interval of `evals.significance`: p <= level exactly
where the lower end of the interval with confidence 1 - 2 level lies at or above -margin (Schuirmann
1987, J. Pharmacokinet. Biopharm. 15:657). For metrics where lower is better, before and after
change places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats as distributions

from evals.proportions import tango, tango_statistic
from evals.significance import Pair, change_error
from evals.stats import Array, Combine, MeanError, mean_error, t_quantile

LEVEL = 0.025
"""The one-sided level of a two-sided interval of 95 %."""


class NonInferiority(NamedTuple):
    """Whether a loss of the margin or more is refuted."""

    holds: bool
    p: float
    """One-sided, of a true loss of at least the margin."""
    difference: float
    """After minus before."""
    bound: float
    """Lower end of the difference at the level."""
    margin: float


def non_inferior_proportions(
    before: Array, after: Array, margin: float, level: float = LEVEL
) -> NonInferiority:
    """Test of two 0/1 vectors (n,) item by item, by Tango's score statistic at -margin."""
    changes = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    gained, lost, n = int(np.sum(changes > 0)), int(np.sum(changes < 0)), len(changes)
    if _checked(margin) >= 1:
        raise ValueError(f"no proportion can fall by more than 1; choose a margin below: {margin}")
    p = float(distributions.norm.sf(tango_statistic(gained, lost, n, -margin)))
    low = tango(gained, lost, n, 1 - 2 * level).low
    return NonInferiority(p <= level, p, float(changes.mean()), low, margin)


def non_inferior_means(
    before: Array,
    after: Array,
    clusters: Sequence[str] | None,
    margin: float,
    level: float = LEVEL,
) -> NonInferiority:
    """Test of the means of two value vectors (n,): paired t over items or clusters."""
    changes = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return _by_t(mean_error(changes, clusters), margin, level)


def non_inferior_functions(
    pair: Pair, combine: Combine, margin: float, level: float = LEVEL
) -> NonInferiority:
    """Test of combine(sum of rows) of two models: t with the jackknife's standard error."""
    return _by_t(change_error(pair, combine), margin, level)


def _by_t(change: MeanError, margin: float, level: float) -> NonInferiority:
    """(difference + margin) / SE against t(units - 1); without an SE nothing is shown to hold."""
    difference, error, units = change
    gap = difference + _checked(margin)
    if math.isnan(error):
        return NonInferiority(False, math.nan, difference, math.nan, margin)
    # Without a spread every unit changed alike, and the sign of the gap decides.
    p = float(distributions.t.sf(gap / error, units - 1) if error > 0 else gap < 0)
    bound = difference - t_quantile(1 - 2 * level, units - 1) * error
    return NonInferiority(p <= level, p, difference, bound, margin)


def _checked(margin: float) -> float:
    """The margin.

    Raises:
        ValueError: It is not positive: no data show that there is no loss at all.
    """
    if not margin > 0:
        raise ValueError(f"a non-inferiority margin is the largest acceptable loss, > 0: {margin}")
    return margin
