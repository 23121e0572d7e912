"""Preference beside drift on a page: sentences, order, controls, and what was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from evals.report.drift import drift_blocks, drift_sentences
from evals.report.layout import Bullets, Figures, Table
from evals.report.numbers import MINUS


def contrast(attribute: str, x: float, y: float, **keys: Any) -> dict[str, Any]:
    row = {"task": "identity", "measure": "in prompt", "attribute": attribute, "control": False}
    row |= {"group_a": "a", "group_b": "b", "n": 24, "clusters": 24}
    sides = {"preference": x, "drift": y}
    return row | {s: {"value": v, "low": v - 0.5, "high": v + 0.5} for s, v in sides.items()} | keys


def attribute(name: str, value: float, p: float | None, **keys: Any) -> dict[str, Any]:
    row = {
        "task": "identity",
        "attribute": name,
        "control": False,
        "unit": "nats per sd",
        "size": 0.25,
    }
    ends = {"value": value, "low": value - 0.1, "high": value + 0.1, "p": p}
    return row | ends | {"n": 48, "clusters": 48} | keys


@pytest.fixture
def drift() -> dict[str, Any]:
    overall = {"contrasts": 3, "families": 2, "agree": 2, "signed": 3, "p_agree": 0.5}
    overall |= {"rho": 0.612, "p_rho": 0.5, "rho_low": -0.25, "rho_high": 1.0}
    rows = [
        contrast("weekday", 3.0, 0.1, control=True),
        contrast("age", 0.2, -0.1),
        contrast("religion", -2.0, -1.0),
        contrast("religion", 1.0, 0.0, task="own"),
    ]
    rows[3]["drift"] |= {"low": None, "high": None}
    attributes = [
        attribute("weekday", 0.5, 0.01, control=True),
        attribute("religion", 0.01, None),
        attribute("age", 0.2, 0.03),
    ]
    clear = {"contrasts": 1, "families": 1, "agree": 1, "signed": 1, "rho": 1.0}
    found = {
        "outcome": "",
        "clear": clear,
        "before": "sft",
        "after": "ppo",
        "missing": 0,
        "overall": overall,
    }
    return found | {"clear": clear, "contrasts": rows, "attributes": attributes}


def test_the_association_is_said_with_what_the_families_allow(drift: dict[str, Any]) -> None:
    clear, every = drift_sentences(drift)
    assert clear.startswith("Preferences told from 0 (q at most 0.05): 1 of 3 contrasts.")
    assert clear.endswith("1 of 1; one family of attributes is one observation, without a test.")
    assert (
        "Drift in the preferred direction: 2 of 3, p = .500; rank correlation +0.61, p = .500"
        in every
    )
    assert f"({MINUS}0.25 to +1.00 without one family)" in every
    # two families: four patterns of signs, two of them as extreme as all alike
    assert every.endswith("2 independent families of attributes: no p below 0.500 is possible.")
    drift["missing"] = 7
    assert drift_sentences(drift)[-1].startswith("7 items lack a score")
    drift["clear"] = drift["overall"] | {"contrasts": 0, "families": 0}
    assert drift_sentences(drift)[0].endswith("0 of 3 contrasts. Nothing to follow.")
    drift["overall"] |= dict.fromkeys(("p_agree", "p_rho", "rho", "rho_low", "rho_high"))
    assert "2 of 3; rank correlation \N{EM DASH}. 2 independent" in drift_sentences(drift)[1]


def test_the_strongest_preference_comes_first_and_controls_last(drift: dict[str, Any]) -> None:
    bullets, figures, attributes, contrasts = drift_blocks(drift)
    assert isinstance(bullets, Bullets)
    assert isinstance(figures, Figures)
    assert isinstance(attributes, Table)
    assert isinstance(contrasts, Table)
    assert [row.cells[3].value for row in contrasts.rows] == [-2.0, 1.0, 0.2, 3.0]
    assert [row.style for row in contrasts.rows] == ["", "", "", "control"]
    words = [(row.cells[5].text, row.cells[5].notes) for row in contrasts.rows]
    assert words[:3] == [("same", ("both clear of 0",)), ("neither", ()), ("opposite", ())]
    assert contrasts.rows[0].cells[3].flags == ("not 0",)
    assert contrasts.rows[1].cells[4].notes == (), "no interval"
    assert f"Policy, ppo {MINUS} sft, nats" in contrasts.header
    assert [row.cells[0].text for row in attributes.rows] == ["age", "religion", "weekday"]
    tests = [row.cells[4].text for row in attributes.rows]
    assert tests == ["p = .030, q = .030", "", "p = .010"], "controls have no q"
    assert not contrasts.folded


def test_the_figure_leaves_controls_out_and_says_its_numbers(drift: dict[str, Any]) -> None:
    figures = drift_blocks(drift)[1]
    assert isinstance(figures, Figures)
    figure, other = figures.figures
    assert (figure.title, other.title) == ("identity", "own"), "a panel a task"
    assert other.description.startswith("in prompt, religion, a")
    assert "weekday" not in figure.description
    assert f"{MINUS}2.00 sd, {MINUS}1.00 nats" in figure.description
    assert [name for _, name, _ in figures.legend] == ["age", "religion"]
    drift["contrasts"] = [contrast(f"a{i}", i, i) for i in range(16)]
    blocks = drift_blocks(drift)
    assert isinstance(blocks[1], Figures)
    assert isinstance(blocks[3], Table)
    assert blocks[1].legend[-1][2] == 5, "six marks; further families share the last"
    assert blocks[3].folded


def test_without_a_comparison_the_reason_stands_there() -> None:
    (bullets,) = drift_blocks({"outcome": "The run has no PPO.", "overall": None})
    assert isinstance(bullets, Bullets)
    assert bullets.items == ("The run has no PPO.",)
    assert drift_sentences({"outcome": "why", "overall": None}) == ["why"]
