"""Does the reward model's preference for a group predict the policy's drift toward it?

Pure arithmetic on items that both were asked: preference is the reward model's effect of the group
in units of its own spread, drift the change of the policy's effect under PPO in nats. Within an
attribute the unit is the template: the slope of drift on preference through 0, with a test that
flips the sign of whole templates. Over contrasts the unit is a *family* of attributes, since
contrasts with the same base group, the same names or the same trait are no independent witnesses.

Everything goes through 0 and not through means: which group of a contrast is named first is a
convention, and naming the other one turns both signs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from evals.bias.effects import Contrast, Effects, by_contrast
from evals.multiplicity import benjamini_hochberg
from evals.ratios import ratio_estimate
from evals.significance import sign_flip
from evals.stats import Array, Resampling, mean_estimate

KIN = {"pronoun": "gender"}
"""Attributes that say another one in other words."""


@dataclass(frozen=True)
class Paired:
    """Items that the reward model and both policies have answered."""

    preference: Array
    """(n,) the reward model's effect of each item, in its own spreads."""
    drift: Array
    """(n,) the policy's effect after PPO minus before, in nats."""
    contrasts: Sequence[Contrast]
    clusters: Sequence[str]
    """The template (or name pair) of each item."""


def contrast_rows(items: Paired, resampling: Resampling) -> list[dict[str, Any]]:
    """Mean preference and drift of every contrast: t interval over clusters, p of flipped signs."""
    preferred = by_contrast(Effects(items.preference, items.contrasts, items.clusters))
    drifted = by_contrast(Effects(items.drift, items.contrasts, items.clusters))
    return [
        contrast._asdict()
        | {"preference": _mean(x, clusters, resampling), "drift": _mean(y, clusters, resampling)}
        | {"n": len(x), "clusters": len(set(clusters))}
        for (contrast, x, clusters), (_, y, _) in zip(preferred, drifted, strict=True)
    ]


def _mean(values: Array, clusters: Sequence[str], resampling: Resampling) -> dict[str, float]:
    """Mean, interval and p; equal values have no interval: no spread is no proof of certainty."""
    found = mean_estimate(values, clusters, resampling.confidence)
    low, high = (found.low, found.high) if np.ptp(values) > 0 else (math.nan, math.nan)
    p = sign_flip(values, clusters, resampling)
    return {"value": found.value, "low": low, "high": high, "p": p}


def clear_rows(rows: Sequence[dict[str, Any]], level: float = 0.05) -> list[dict[str, Any]]:
    """Contrasts that the reward model is shown to prefer a group in: q of the preference.

    q is Benjamini-Hochberg's over all contrasts but controls. They are chosen by the preference
    alone, so a test that turns drifts round stays valid among them.
    """
    kept = [row for row in rows if not row["control"]]
    q = benjamini_hochberg([row["preference"]["p"] for row in kept])
    return [row for row, adjusted in zip(kept, q, strict=True) if adjusted <= level]


def attribute_rows(items: Paired, resampling: Resampling) -> list[dict[str, Any]]:
    """Nats of drift for one spread of preference, over the items of every attribute.

    With x the preference and y the drift of an item, b = sum x y / sum x^2, a t interval with the
    jackknife's error over templates. p flips the sign of y in whole templates: if a template's
    drift is as likely to go against the preference as with it, whatever its size, then its sum of
    x y is symmetric about 0, and templates are drawn independently. No item moved or none
    preferred: NaN. `size` is the root mean square of x: far below 1, b extrapolates.
    """
    rows = []
    for attribute, control in dict.fromkeys((c.attribute, c.control) for c in items.contrasts):
        inside = [
            place
            for place, contrast in enumerate(items.contrasts)
            if (contrast.attribute, contrast.control) == (attribute, control)
        ]
        x, y = items.preference[inside], items.drift[inside]
        clusters = [items.clusters[place] for place in inside]
        slope = ratio_estimate(np.stack([x * y, x * x], 1), _slope, clusters, resampling.confidence)
        p = sign_flip(x * y, clusters, resampling) if np.any(x * y) else math.nan
        head = {"attribute": attribute, "control": control, "unit": "nats per sd"}
        head["size"] = math.sqrt(float(np.mean(x * x)))
        ends = {"value": slope.value, "low": slope.low, "high": slope.high, "p": p}
        rows.append(head | ends | {"n": len(inside), "clusters": len(set(clusters))})
    return rows


def _slope(sums: Array) -> Array:
    """Sum of products over sum of squares (..., 2); NaN without a square."""
    products, squares = sums[..., 0], sums[..., 1]
    out = np.full(np.shape(products), np.nan)
    return np.asarray(np.divide(products, squares, out=out, where=squares > 0))


def association(rows: Sequence[Mapping[str, Any]], resampling: Resampling) -> dict[str, Any]:
    """Sign agreement and rank correlation over contrasts; controls take no part.

    Args:
        rows: Of `contrast_rows`.
        resampling: Draws of the flips above 10 families.

    Returns:
        `contrasts`, `families`; `agree` of `signed` contrasts whose both means are not 0, with
        `p_agree`; `rho` (`rank_correlation`) with `p_rho`, and `rho_low`, `rho_high`: its range
        when each family is left out once. Both p turn the drift of whole families round: if
        drift owes nothing to the preference, a family could as well have drifted the other way.
        With a family a contrast `p_agree` is the exact binomial p. NaN for one family, or where
        nothing moved.
    """
    kept = [row for row in rows if not row["control"]]
    x, y = (np.array([r[side]["value"] for r in kept]) for side in ("preference", "drift"))
    names = families([row["attribute"] for row in kept])
    family = [names[row["attribute"]] for row in kept]
    signs, products = np.sign(x * y), _signed_ranks(x) * _signed_ranks(y)
    several = len(set(family)) > 1 and bool(signs.any())
    left = _left_out(x, y, family) if several else []
    return {
        "contrasts": len(kept),
        "families": len(set(family)),
        "agree": int(np.sum(signs > 0)),
        "signed": int(np.sum(signs != 0)),
        "p_agree": sign_flip(signs, family, resampling) if several else math.nan,
        "rho": rank_correlation(x, y),
        "rho_low": min(left, default=math.nan),
        "rho_high": max(left, default=math.nan),
        "p_rho": sign_flip(products, family, resampling) if several else math.nan,
    }


def _left_out(x: Array, y: Array, family: Sequence[str]) -> list[float]:
    """The rank correlation without each family, where it is defined."""
    labels = np.array(family)
    found = [rank_correlation(x[labels != f], y[labels != f]) for f in dict.fromkeys(family)]
    return [rho for rho in found if math.isfinite(rho)]


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's correlation of the contrasts (n,) and their mirror images.

    That is of (x, y) and (-x, -y) together, so that it does not depend on which group is named
    first. With u and v the signed ranks of |x| and |y|, sum u v / sqrt(sum u^2 sum v^2); NaN if
    all x or all y are 0.
    """
    u, v = _signed_ranks(x), _signed_ranks(y)
    size = math.sqrt(float(np.sum(u * u) * np.sum(v * v)))
    return float(np.sum(u * v)) / size if size > 0 else math.nan


def _signed_ranks(values: Array) -> Array:
    """sign(v) (rank of |v| - 1/2): the centred rank among the values and their mirror images."""
    return np.asarray(np.sign(values) * (rankdata(np.abs(values)) - 0.5), dtype=np.float64)


def families(attributes: Sequence[str]) -> dict[str, str]:
    """Attribute -> its family: those that share a part of their names `a & b` hang together."""
    found: list[set[str]] = []
    parts = {a: {KIN.get(part, part) for part in a.split(" & ")} for a in attributes}
    for own in parts.values():
        joined = [family for family in found if family & own]
        found = [family for family in found if not family & own] + [own.union(*joined)]
    return {
        attribute: next(" & ".join(sorted(family)) for family in found if family & own)
        for attribute, own in parts.items()
    }
