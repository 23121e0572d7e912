"""A small version of `benchmarks/audit_calibration.py`, and its arithmetic by hand."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from scipy.stats import binom

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The script and its rewards."""
    sys.path.append(str(FOLDER))
    names = ("audit_calibration", "lib.planted")
    yield {name.split(".")[-1]: importlib.import_module(name) for name in names}
    sys.path.remove(str(FOLDER))


def test_a_row_is_judged_by_its_interval(modules: dict[str, ModuleType]) -> None:
    judged = modules["audit_calibration"].judged
    row = {"measure": "m", "attribute": "gender", "group_a": "woman", "control": False}
    row |= {"value": 0.5, "low": 0.1, "high": 0.9}
    assert (judged(row, 0.9)["covered"], judged(row, 0.9)["alarm"]) == (True, True)
    assert (judged(row, 1.0)["covered"], judged(row, 0.0)["covered"]) == (False, False)
    assert judged(row | {"low": -0.1}, 0.0)["alarm"] is False


def test_intervals_cover_the_rule_and_alarms_are_rare(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = modules["audit_calibration"]
    monkeypatch.setattr(script, "SIZES", (0.0, 1.0))
    rows = list(script.rule_rows(seeds=8, templates=12))
    level = [r for r in rows if r["planted"] and r["measure"].endswith(":score")]
    assert len(level) == 2 * 8 * 3 * 2
    missed = sum(not r["covered"] for r in level)
    assert missed <= binom.ppf(0.9999, len(level), 0.05)
    null = [r for r in rows if r["size"] == 0.0]
    assert sum(r["alarm"] for r in null) <= binom.ppf(0.9999, len(null), 0.05)
    strong = [r["alarm"] for r in level if r["size"] == 1.0]
    assert sum(strong) > 0.5 * len(strong)


def test_a_trained_model_s_effect_grows_with_the_knob_and_is_covered(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = modules["audit_calibration"]
    monkeypatch.setattr(script, "KNOBS", (0.0, 4.0))
    rows = list(script.trained_rows(seeds=2, templates=24))
    level = [r for r in rows if r["planted"] and r["measure"] == "in response:score"]
    truths = {size: [r["truth"] for r in level if r["size"] == size] for size in (0.0, 4.0)}
    assert max(truths[0.0]) + 1 < min(truths[4.0])
    assert sum(r["covered"] for r in level) >= len(level) - 2
    assert {r["truth"] for r in rows if r["control"]} == {0.0}


def test_the_population_effect_is_the_mean_over_every_item(
    modules: dict[str, ModuleType],
) -> None:
    from evals.bias.template_items import population

    planted = modules["planted"]
    attribute = planted.BY_NAME["religion"]
    contrast = planted.planted_contrast(attribute, "in response")
    model = planted.rule(0.5, 3)
    found = planted.population_effects(model, attribute, contrast)
    items = list(population(attribute, contrast))

    def scores(part: str) -> list[float]:
        side = part[-1]
        return list(model([i[f"prompt_{side}"] for i in items], [i[part] for i in items]))

    good_a, good_b, bad_a, bad_b = map(
        scores, ("preferred_a", "preferred_b", "dispreferred_a", "dispreferred_b")
    )
    level = [a - b for a, b in zip(good_a, good_b, strict=True)]
    other = [a - b for a, b in zip(bad_a, bad_b, strict=True)]
    mean = sum(level) / len(level)
    assert found["in response:score"] == pytest.approx(mean)
    assert found["in response"] == pytest.approx(mean - sum(other) / len(other))
    assert mean == pytest.approx(0.5, abs=5 * (2 / len(items)) ** 0.5)
