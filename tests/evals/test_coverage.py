"""A short run of `benchmarks/coverage.py`: intervals in use cover, tests hold their level."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def benchmark(project: Path) -> Iterator[ModuleType]:
    """The script as a module; its own name is that of a package."""
    folder = project / "benchmarks"
    sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location("coverage_benchmark", folder / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(folder))


def rates(benchmark: ModuleType, kind: str, metric: str, units: str) -> dict[str, float]:
    """Method -> rate in 300 data sets of the named case."""
    wanted = (kind, metric, units)
    case = next(c for c in benchmark.cases() if (c.kind, c.metric, c.units) == wanted)
    return {row["method"]: row["rate"] for row in benchmark.measure(case, 300, seed=1)}


def test_clustered_rates_cover_near_one(benchmark: ModuleType) -> None:
    found = rates(benchmark, "coverage", "clustered accuracy, p 0.9, ICC 0.1", "10 clusters")
    # Binomial(300, .95): sd .013. The plain t interval is too narrow on the side of 1.
    assert 0.90 <= found["Korn-Graubard"] <= 0.985
    assert found["t over clusters (not used)"] < found["Korn-Graubard"]


def test_paired_differences_of_f1_cover(benchmark: ModuleType) -> None:
    found = rates(benchmark, "coverage", "paired difference of macro F1", "50")
    assert 0.91 <= found["t, jackknife"] <= 0.985
    assert found["paired bootstrap (not used)"] < found["t, jackknife"]


def test_paired_tests_hold_their_level(benchmark: ModuleType) -> None:
    found = rates(benchmark, "level", "paired perplexity", "30")
    # Binomial(300, .05): mean 15, sd 3.8.
    assert found["permutation"] <= 27 / 300
    exact = rates(benchmark, "level", "paired accuracy", "20")
    assert 0 < exact["exact McNemar"] <= 0.05


def test_populations_have_the_metrics_they_state(benchmark: ModuleType) -> None:
    import numpy as np
    from lib.populations import answers, documents

    for population in (answers(), documents()):
        pair = population.draw(np.random.default_rng(0), 200_000)
        drawn = [float(population.combine(rows.sum(axis=0))) for rows in pair[:2]]
        assert drawn == pytest.approx(population.truth(), rel=0.01)
        before, after = population.truth()
        assert before != pytest.approx(after, rel=0.02)


@pytest.mark.parametrize(
    ("row", "ok"),
    [
        ({"kind": "coverage", "rate": 0.93, "method": "t"}, True),
        ({"kind": "coverage", "rate": 0.929, "method": "t"}, False),
        ({"kind": "coverage", "rate": 0.971, "method": "t"}, False),
        # .05 + 1.645 sqrt(.05 .95 / 1000) = .0613
        ({"kind": "level", "rate": 0.061, "method": "x", "simulations": 1000}, True),
        ({"kind": "level", "rate": 0.062, "method": "x", "simulations": 1000}, False),
        # Counted exactly, the largest over the grid decides.
        ({"kind": "level", "rate": 0.01, "method": "nominal .025", "simulations": None}, True),
        (
            {"kind": "level", "rate": 0.01, "largest": 0.026, "method": "x, nominal .025"}
            | {"simulations": None},
            False,
        ),
    ],
)
def test_the_target(benchmark: ModuleType, row: dict[str, Any], ok: bool) -> None:
    assert benchmark.holds(row) is ok
