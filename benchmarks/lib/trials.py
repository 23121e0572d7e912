"""What is simulated: one data set, and whether each interval covers or each test rejects.

A trial takes a generator and a seed of resampling, draws a data set, and calls the functions that
evaluation itself calls. Where the outcomes can be counted, the probability is exact instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from lib.populations import Population, answers, choices, documents, exchange, sentences
from scipy import stats as distributions

from evals.jackknife import positive_estimate
from evals.non_inferiority import non_inferior_means, non_inferior_proportions
from evals.proportions import PairedCounts, newcombe, newcombe_paired, tango
from evals.significance import (
    bonett_price,
    compare_functions,
    mcnemar,
    paired_bootstrap,
    permutation,
    sign_flip,
)
from evals.stats import (
    Array,
    Resampling,
    bootstrap,
    cluster_sums,
    mean_estimate,
    proportion_estimate,
    wilson,
)

RESAMPLES = 1000
LEVEL = 0.05
Outcomes = Mapping[str, bool]
Trial = Callable[[np.random.Generator, int], Outcomes]
Chances = Mapping[str, list[float]]


class Case(NamedTuple):
    """A family of data sets; `trial` is repeated, `exact` holds probabilities over a grid."""

    kind: str
    """coverage: of 95 % intervals; level: of tests under the null."""
    metric: str
    units: str
    trial: Trial | None = None
    exact: Callable[[], Chances] | None = None
    times: int = 1
    """Data sets of a cheap case, as a multiple of the others'."""


def covers(interval: object, truth: float) -> bool:
    """Whether low <= truth <= high; an interval with NaN ends does not cover."""
    low, high = getattr(interval, "low"), getattr(interval, "high")  # noqa: B009
    return bool(low <= truth <= high)


def one_model(population: Population, positive: bool, n: int, clustered: bool) -> Trial:
    """Interval of one model's metric."""
    truth = population.truth()[0]
    draw = population.draw_clusters if clustered else population.draw

    def trial(generator: np.random.Generator, seed: int) -> Outcomes:
        rows, _, clusters = draw(generator, n)
        boot = bootstrap(rows, population.combine, clusters, Resampling(RESAMPLES, seed=seed))
        name = "BCa bootstrap (not used)" if positive else "BCa bootstrap"
        found = {name: covers(boot, truth)}
        if positive:
            by_log = positive_estimate(rows, population.combine, clusters)
            found["t of the logarithm"] = covers(by_log, truth)
        return found

    return trial


def difference(population: Population, n: int, clustered: bool) -> Trial:
    """Intervals of the paired difference of two models."""
    before, after = population.truth()
    draw = population.draw_clusters if clustered else population.draw

    def trial(generator: np.random.Generator, seed: int) -> Outcomes:
        pair = draw(generator, n)
        by_t = compare_functions(pair, population.combine, Resampling(1, seed=seed))
        boot = paired_bootstrap(pair, population.combine, Resampling(RESAMPLES, seed=seed))
        truth = after - before
        return {
            "t, jackknife": covers(by_t, truth),
            "paired bootstrap (not used)": covers(boot, truth),
        }

    return trial


def null(population: Population, n: int, clustered: bool) -> Trial:
    """Tests of two models that were exchanged by chance."""
    draw = population.draw_clusters if clustered else population.draw

    def trial(generator: np.random.Generator, seed: int) -> Outcomes:
        pair = exchange(draw(generator, n), generator)
        boot = paired_bootstrap(pair, population.combine, Resampling(RESAMPLES, seed=seed))
        before, after = (cluster_sums(rows, pair.clusters) for rows in pair[:2])
        p = permutation(
            before, after, population.combine, Resampling(RESAMPLES // 2 - 1, seed=seed)
        )
        return {"permutation": p <= LEVEL, "paired bootstrap (not used)": not covers(boot, 0.0)}

    return trial


def clustered_rate(p: float, correlation: float, clusters: int) -> Trial:
    """Accuracy over clusters of 1 + Poisson(7) items, rates from a beta distribution."""
    size = (1 - correlation) / correlation

    def trial(generator: np.random.Generator, seed: int) -> Outcomes:
        sizes = 1 + generator.poisson(7, clusters)
        rates = np.repeat(generator.beta(p * size, (1 - p) * size, clusters), sizes)
        hits = (generator.random(len(rates)) < rates) * 1.0
        labels = [str(label) for label in np.repeat(np.arange(clusters), sizes)]
        by_t = mean_estimate(hits, labels)
        return {
            "Korn-Graubard": covers(proportion_estimate(hits, labels), p),
            "t over clusters (not used)": covers(by_t, p),
        }

    return trial


def skewed_mean(n: int) -> Trial:
    """Mean of log-normal values (sd .8 of the logarithm), as lengths are."""

    def trial(generator: np.random.Generator, seed: int) -> Outcomes:
        values = np.exp(generator.normal(-0.32, 0.8, n))
        return {"t": covers(mean_estimate(values), 1.0)}

    return trial


def flipped_signs(n: int, skewed: bool) -> Trial:
    """Changes with mean zero: Student's t(3), or exponential ones less their mean."""

    def trial(generator: np.random.Generator, seed: int) -> Outcomes:
        changes = generator.exponential(size=n) - 1 if skewed else generator.standard_t(3, n)
        draws = Resampling(RESAMPLES // 2 - 1, seed=seed)
        lost = non_inferior_means(np.zeros(n), changes - 0.5, None, 0.5)
        return {
            "sign-flip": sign_flip(changes, None, draws) <= LEVEL,
            "t interval": not covers(mean_estimate(changes), 0.0),
            "non-inferiority, nominal .025": lost.holds,
        }

    return trial


def binomial(n: int) -> Chances:
    """Coverage of Wilson's interval at p = .01, .02 ... .99."""
    hits = np.arange(n + 1)
    ends = np.array([wilson(int(k), n) for k in hits])
    return {
        "Wilson": [
            float(distributions.binom.pmf(hits, n, p)[(ends[:, 0] <= p) & (p <= ends[:, 1])].sum())
            for p in np.arange(1, 100) / 100
        ]
    }


def independent(n: int, m: int) -> Chances:
    """Coverage of Newcombe's interval of groups of n and m at rates of .05, .15 ... .95."""
    ends = np.array([[newcombe((a, n), (b, m)) for b in range(m + 1)] for a in range(n + 1)])
    found = []
    for p in np.arange(0.05, 1, 0.1):
        for q in np.arange(0.05, 1, 0.1):
            inside = (ends[..., 0] <= p - q + 1e-12) & (p - q - 1e-12 <= ends[..., 1])
            chance = np.outer(
                distributions.binom.pmf(range(n + 1), n, p),
                distributions.binom.pmf(range(m + 1), m, q),
            )
            found.append(float(chance[inside].sum()))
    return {"Newcombe": found}


def changed(n: int) -> Iterator[tuple[float, float, Array, Array]]:
    """(gain, loss, counts, their chances); .05 to .5 of the items change, differences to .2."""
    counts = np.array([(g, k) for g in range(n + 1) for k in range(n + 1 - g)])
    table = np.column_stack([counts, n - counts.sum(axis=1)])
    for moved in (0.05, 0.1, 0.2, 0.3, 0.5):
        for gap in (0.0, 0.05, 0.1, 0.2):
            if gap <= moved:
                gain, loss = (moved + gap) / 2, (moved - gap) / 2
                chances = distributions.multinomial.pmf(table, n, [gain, loss, 1 - moved])
                yield gain, loss, counts, chances


def paired_proportions(n: int) -> Chances:
    """Coverage of the intervals of paired accuracies that need only the changes."""
    methods = {"Tango": tango, "Bonett-Price (not used)": bonett_price}
    found: dict[str, list[float]] = {name: [] for name in methods}
    for gain, loss, counts, chances in changed(n):
        for name, method in methods.items():
            ends = np.array([method(int(g), int(k), n)[:2] for g, k in counts])
            truth = gain - loss
            inside = (ends[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[:, 1])
            found[name].append(float(chances[inside].sum()))
    return found


def paired_tables(n: int) -> Chances:
    """Coverage of Newcombe's paired interval, of items right before and after half the rest."""
    found = []
    for gain, loss, counts, chances in changed(n):
        same = 1 - gain - loss
        truth, total = gain - loss, 0.0
        for (gained, lost), chance in zip(counts.tolist(), chances, strict=True):
            if chance < 1e-7:
                continue
            rest = n - gained - lost
            both = np.arange(rest + 1)
            share = distributions.binom.pmf(both, rest, 0.75) if same > 0 else np.ones(1)
            for right, part in zip(both.tolist(), share, strict=True):
                if part * chance > 1e-7:
                    counts_of = PairedCounts(right, gained, lost, rest - right)
                    total += part * chance * covers(newcombe_paired(counts_of), truth)
        found.append(total)
    return {"Newcombe paired (not used)": found}


def paired_level(n: int) -> Chances:
    """Levels of McNemar's exact test, and of non-inferiority where the loss is the margin."""
    mcnemars, losses = [], []
    for gain, loss, counts, chances in changed(n):
        if gain == loss:
            rejected = [mcnemar(int(g), int(k)) <= LEVEL for g, k in counts]
            mcnemars.append(float(chances[np.array(rejected)].sum()))
        else:
            held = np.array([_holds(int(k), int(g), n, gain - loss) for g, k in counts])
            losses.append(float(chances[held].sum()))
    return {"exact McNemar": mcnemars, "non-inferiority, nominal .025": losses}


def _holds(gained: int, lost: int, n: int, margin: float) -> bool:
    """Non-inferiority of `gained` and `lost` items out of n."""
    before, after = np.zeros(n), np.zeros(n)
    after[:gained], before[gained : gained + lost] = 1, 1
    return non_inferior_proportions(before, after, margin).holds


def cases() -> list[Case]:
    """Everything that is measured, in the order of the table."""
    found = [
        *(Case("coverage", "accuracy", f"{n}", exact=partial(binomial, n)) for n in (20, 50, 100)),
        *(Case("coverage", "accuracy", f"{n}", exact=partial(binomial, n)) for n in (300, 1000)),
        Case("coverage", "difference of group rates", "30, 60", exact=partial(independent, 30, 60)),
    ]
    for p, correlation in ((0.5, 0.1), (0.9, 0.1), (0.9, 0.3)):
        name = f"clustered accuracy, p {p}, ICC {correlation}"
        for clusters in (10, 25, 50):
            trial = clustered_rate(p, correlation, clusters)
            found.append(Case("coverage", name, f"{clusters} clusters", trial, times=10))
    found += [Case("coverage", "mean", f"{n}", skewed_mean(n)) for n in (50, 200)]
    found += list(_of_populations())
    for n in (20, 50):
        exact = partial(paired_proportions, n)
        found.append(Case("coverage", "paired difference of accuracy", f"{n}", exact=exact))
    exact = partial(paired_tables, 20)
    found.append(Case("coverage", "paired difference of accuracy", "20", exact=exact))
    found += [
        Case("level", "paired accuracy", f"{n}", exact=partial(paired_level, n)) for n in (20, 50)
    ]
    for skewed, name in ((False, "mean change, t(3)"), (True, "mean change, exponential")):
        found += [Case("level", name, f"{n}", flipped_signs(n, skewed)) for n in (10, 30, 100)]
    return found


def _of_populations() -> Iterator[Case]:
    """Metrics that are functions of sums, with units that are items or clusters."""
    named = (
        ("macro F1", answers, (50, 100, 300), (10, 25, 50)),
        ("BLEU", sentences, (50, 100, 300), ()),
        ("perplexity", documents, (10, 30, 100, 300), ()),
        ("calibration error", choices, (100, 300, 1000), ()),
    )
    for name, population, sizes, clusters in named:
        units = [(n, False, f"{n}") for n in sizes]
        units += [(n, True, f"{n} clusters") for n in clusters]
        for n, clustered, shown in units:
            positive = name == "perplexity"
            alone = one_model(population(), positive, n, clustered)
            yield Case("coverage", name, shown, alone)
            apart = difference(population(), n, clustered)
            yield Case("coverage", f"paired difference of {name}", shown, apart)
            if n <= 100:
                yield Case("level", f"paired {name}", shown, null(population(), n, clustered))
