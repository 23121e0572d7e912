"""fairlearn's mitigations of a classifier, fitted on one half of the items and judged on the other.

`ThresholdOptimizer` (Hardt 2016, 1610.02413) puts a rule on scores: a threshold for each group, and
chance between two. It must know the group at decision time, which is disparate treatment by
construction and not allowed everywhere. `ExponentiatedGradient` (Agarwal 2018, 1803.02453) trains
on features under a constraint; it needs groups in training alone, and decides by chance too.

Both satisfy their constraint on the half they were fitted on; what counts is the other half.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evals.bias.fairness import Classified, is_known, rates
from evals.bias.shifts import EVERYONE, group_changes
from evals.stats import Array, Resampling

CONSTRAINTS = ("demographic_parity", "equalized_odds")
Places = NDArray[np.intp]
Codes = NDArray[np.int64]
Names = NDArray[np.str_]


class Halves(NamedTuple):
    """Places of the items that a rule is fitted on, and of those that it is judged on."""

    fit: Places
    judged: Places


class Found(NamedTuple):
    """What mitigations changed, and what could not be done, in sentences."""

    rows: list[dict[str, Any]]
    """Rows of `evals.bias.shifts` with method, constraint, `by`, the attribute, and `largest`:
    whether the pair of groups lay farthest apart in the half for fitting."""
    notes: list[str]


def halves(n: int, clusters: Sequence[str] | None, seed: int) -> Halves:
    """Two halves of n items by a seeded draw of whole clusters.

    Raises:
        ValueError: There is one unit alone.
    """
    units = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    count = int(units.max()) + 1
    if count < 2:
        raise ValueError("one item or cluster cannot be halved")
    drawn = np.random.default_rng((seed, 3)).permutation(count)[: count // 2]
    inside = np.isin(units, drawn)
    return Halves(np.flatnonzero(inside), np.flatnonzero(~inside))


def threshold_mitigations(data: Classified, scores: Array, resampling: Resampling) -> Found:
    """Thresholds by group under both constraints, for every attribute and intersection.

    Members of a group that is unknown, or has one label alone in the half for fitting, keep their
    prediction.

    Args:
        data: Items with two classes; its predictions are what is improved on.
        scores: (n,) higher for the positive class.
        resampling: Seed of the halves and of the rule's chance, and the intervals.

    Raises:
        ValueError: There are not two classes, or one unit alone.
    """
    labels, predictions, parts = _split(data, resampling.seed)
    rows, notes = [], []
    for attribute, names in data.attributes():
        treated = treatable(labels[parts.fit], names[parts.fit])
        if len(treated) < 2:
            notes.append(f"ThresholdOptimizer by {attribute}: {_few(treated)}")
            continue
        for constraint in CONSTRAINTS:
            after = predictions.copy()
            use = parts.fit[np.isin(names[parts.fit], treated)]
            to = parts.judged[np.isin(names[parts.judged], treated)]
            rule = _thresholds(scores[use], labels[use], names[use], constraint)
            after[to] = rule(scores[to], names[to], resampling.seed)
            before = _decided(data, labels, predictions)
            head = {"method": "ThresholdOptimizer", "constraint": constraint, "by": attribute}
            rows += _judged(before, after, parts, head, resampling)
        notes += _left(attribute, names[parts.judged], treated)
    return Found(rows, notes)


def reduction_mitigations(
    data: Classified, features: Sequence[Mapping[str, Any]], resampling: Resampling
) -> Found:
    """A logistic regression on features, and the same under both constraints, by attribute.

    Args:
        data: Items with two classes; its predictions take no part.
        features: (n,) column -> number or text of each item; null is a category of its own.
        resampling: Seed of the halves and of the rule's chance, and the intervals.

    Raises:
        ValueError: There are not two classes, or one unit alone.
    """
    labels, _, parts = _split(data, resampling.seed)
    table = _table(features, parts.fit)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    if len(set(labels[parts.fit].tolist())) < 2:
        return Found(rows, ["ExponentiatedGradient: one label alone in the half for fitting"])
    plain = _logistic().fit(table[parts.fit], labels[parts.fit]).predict(table)
    before = _decided(data, labels, plain)
    for attribute, names in _single(data):
        treated = treatable(labels[parts.fit], names[parts.fit])
        if len(treated) < 2:
            notes.append(f"ExponentiatedGradient by {attribute}: {_few(treated)}")
            continue
        use = parts.fit[np.isin(names[parts.fit], treated)]
        for constraint in CONSTRAINTS:
            model = _reduction(table[use], labels[use], names[use], constraint)
            after = np.asarray(model.predict(table, random_state=resampling.seed), dtype=np.int64)
            head = {"method": "ExponentiatedGradient", "constraint": constraint, "by": attribute}
            rows += _judged(before, after, parts, head, resampling)
    return Found(rows, notes)


def treatable(labels: Codes, names: Names) -> list[str]:
    """Known groups that have both labels: the others give no rule."""
    groups = sorted(set(names.tolist()))
    return [g for g in groups if is_known(g) and len(set(labels[names == g].tolist())) == 2]


def _split(data: Classified, seed: int) -> tuple[Codes, Codes, Halves]:
    """Labels and predictions as 0 and 1, and the halves."""
    labels, predictions, positive = data.codes()
    if positive is None:
        raise ValueError("a mitigation needs two classes")
    return labels, predictions, halves(len(labels), data.clusters, seed)


def _decided(data: Classified, labels: Codes, predictions: Codes) -> Classified:
    """The items with these labels and predictions, 0 and 1."""
    return replace(data, labels=labels.tolist(), predictions=predictions.tolist(), positive=None)


def _judged(
    before: Classified,
    after: Codes,
    parts: Halves,
    head: dict[str, Any],
    resampling: Resampling,
) -> list[dict[str, Any]]:
    """Changes on the other half, of everyone and of the attribute that was treated."""
    changed = replace(before, predictions=after.tolist())
    found = group_changes(before.only(parts.judged), changed.only(parts.judged), resampling)
    shown = (EVERYONE, head["by"])
    farthest = farthest_pairs(before.only(parts.fit), head["by"])
    return [
        head | row | {"largest": {row["group_a"], row["group_b"]} == farthest.get(row["metric"])}
        for row in found
        if row["attribute"] in shown
    ]


def farthest_pairs(data: Classified, attribute: str) -> dict[str, set[str]]:
    """The two known groups with the lowest and the highest of each rate.

    Chosen on one half and judged on the other, their difference is not the largest by chance.
    """
    names = dict(data.attributes())[attribute]
    found = {}
    for metric, share in rates(data).items():
        values = {
            group: float(share.hit[inside].mean())
            for group in sorted(set(names.tolist()))
            if is_known(group) and (inside := share.eligible & (names == group)).any()
        }
        if len(values) > 1:
            found[metric] = {
                min(values, key=values.__getitem__),
                max(values, key=values.__getitem__),
            }
    return found


def _single(data: Classified) -> list[tuple[str, Names]]:
    """Attributes without their intersections."""
    return [(name, groups) for name, groups in data.attributes() if name in data.groups]


def _thresholds(
    scores: Array, labels: Codes, names: Names, constraint: str
) -> Callable[[Array, Names, int], Codes]:
    """The fitted rule: scores, groups and a seed -> decisions."""
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.linear_model import LinearRegression

    identity = LinearRegression()  # the optimizer wants an estimator; the scores are its prediction
    identity.coef_, identity.intercept_, identity.n_features_in_ = np.ones(1), 0.0, 1
    rule = ThresholdOptimizer(
        estimator=identity, constraints=constraint, prefit=True, predict_method="predict"
    )
    rule.fit(scores[:, None], labels, sensitive_features=names)

    def decide(scores: Array, names: Names, seed: int) -> Codes:
        if len(scores) == 0:
            return np.zeros(0, dtype=np.int64)
        found = rule.predict(scores[:, None], sensitive_features=names, random_state=seed)
        return np.asarray(found, dtype=np.int64)

    return decide


def _table(features: Sequence[Mapping[str, Any]], fit: Places) -> Array:
    """Features as numbers: categories one by one, scaled by the half for fitting."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.preprocessing import StandardScaler

    plain = [{k: "missing" if v is None else v for k, v in row.items()} for row in features]
    columns = DictVectorizer(sparse=False).fit([plain[place] for place in fit]).transform
    table = columns(plain)
    scaled: Array = StandardScaler().fit(table[fit]).transform(table)
    return scaled


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


def _reduction(table: Array, labels: Codes, names: Names, constraint: str) -> Any:
    """The fitted randomised classifier."""
    from fairlearn.reductions import DemographicParity, EqualizedOdds, ExponentiatedGradient

    moment = DemographicParity() if constraint == CONSTRAINTS[0] else EqualizedOdds()
    model = ExponentiatedGradient(_logistic(), moment)
    with warnings.catch_warnings():  # of pandas, about fairlearn's own code
        warnings.simplefilter("ignore", DeprecationWarning)
        return model.fit(table, labels, sensitive_features=names)


def _few(treated: list[str]) -> str:
    return f"{len(treated)} known groups with both labels in the half for fitting, 2 needed"


def _left(attribute: str, names: Names, treated: list[str]) -> list[str]:
    """How many items kept their prediction."""
    left = sorted(set(names.tolist()) - set(treated))
    count = int((~np.isin(names, treated)).sum())
    if not count:
        return []
    return [
        f"ThresholdOptimizer by {attribute}: {count} items keep their prediction "
        f"({', '.join(left)}: unknown, or one label alone in the half for fitting)"
    ]
