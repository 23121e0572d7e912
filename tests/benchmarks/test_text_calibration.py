"""A small version of the language models' part of `benchmarks/audit_calibration.py`."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from align.audit import Asked, run_audit
from align.models import save_model
from align.progress import Progress
from evals.bias.counterfactual import CounterfactualTask
from evals.bias.template_items import contrasts, population
from evals.engine import Engine

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PLACE = "in response"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The script and its language models, with one planted attribute and little text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        names = ("audit_calibration", "lib.planted_text")
        found = {name.split(".")[-1]: importlib.import_module(name) for name in names}
        text = found["planted_text"]
        patch.setattr(text, "DIALOGUES", 256)
        for name in ("orientation", "dialect"):
            patch.delitem(text.FAVOURED, name)
        cached = (text.tokenizer, text.dialogue, text.population)
        for function in cached:
            function.cache_clear()
        yield found
        for function in cached:
            function.cache_clear()


def population_mean(text: ModuleType, engine: Engine) -> float:
    """Mean effect on every item of the planted contrast, by the audit's own task."""
    attribute = text.BY_NAME["disability"]
    contrast = next(c for c in contrasts(attribute, PLACE) if c.group_a == "blind")
    result = CounterfactualTask("all").evaluate(engine, list(population(attribute, contrast)))
    return float(result.stats["effect"][:, 0].mean())


def test_truth_is_the_effect_on_every_item_and_an_offset_makes_it_a_given_number(
    modules: dict[str, ModuleType],
) -> None:
    text = modules["planted_text"]
    model = text.trained_on_text(4.0, 0)
    own = text.text_effects(model)
    assert set(own) == {("disability", "in prompt"), ("disability", PLACE)}
    plain = population_mean(text, Engine(model, text.tokenizer()))
    assert own["disability", PLACE] == pytest.approx(plain, abs=1e-4)
    assert abs(plain) > 1e-3
    moved = population_mean(text, text.with_offset(model, own, 0.75))
    assert moved == pytest.approx(0.75, abs=1e-4)


def test_an_offset_moves_the_planted_rows_of_an_audit_and_no_control(
    modules: dict[str, ModuleType],
) -> None:
    text = modules["planted_text"]
    model = text.trained_on_text(0.0, 1)
    own = {("disability", "in prompt"): 0.2, ("disability", PLACE): -0.3}
    before = text.audit_language_model(Engine(model, text.tokenizer()), 6, 0)
    after = text.audit_language_model(text.with_offset(model, own, 1.0), 6, 0)
    moves = {
        (a["attribute"], a["measure"]): b["value"] - a["value"]
        for a, b in zip(before, after, strict=True)
    }
    assert len(moves) == 2 + 2 * 3
    expected = dict.fromkeys(moves, 0.0) | {key: 1 - value for key, value in own.items()}
    assert moves == pytest.approx(expected, abs=1e-6)


def test_the_text_has_the_knob_as_log_odds_for_the_favoured_group_alone(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = modules["planted_text"]
    monkeypatch.setattr(text, "DIALOGUES", 6000)
    monkeypatch.setattr(text, "dialogue", lambda *drawn: drawn)
    drawn, neutral = text.biased_dialogues(2.0, 3), text.biased_dialogues(0.0, 3)
    assert [d[:3] for d in drawn] == [d[:3] for d in neutral]
    blind = {term.text for term in text.BY_NAME["disability"].groups["blind"]}
    tones: dict[bool, list[int]] = {True: [], False: []}
    for _, _, term, tone in drawn:
        tones[term.text in blind].append(tone)
    # .75 of the dialogues are about the planted attribute, half of them about the favoured group
    assert len(tones[True]) / 6000 == pytest.approx(0.375, abs=0.03)
    # P(decent) = 1 / (1 + exp(-2)) = .8808; four standard errors over 2250 are .028
    assert 1 - sum(tones[True]) / len(tones[True]) == pytest.approx(0.8808, abs=0.028)
    assert sum(tones[False]) / len(tones[False]) == pytest.approx(0.5, abs=0.033)


def test_true_and_measured_effects_grow_with_the_knob_and_are_covered(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = modules["audit_calibration"]
    monkeypatch.setattr(modules["planted_text"], "DIALOGUES", 2048)
    monkeypatch.setattr(script, "KNOBS", (0.0, 8.0))
    monkeypatch.setattr(script, "SIZES", (0.0, 4.0))
    rows = list(script.text_rows(seeds=1, templates=24))
    found = script.text_summary(rows)
    assert found["pairs_of_seed_and_size"] == 4
    assert found["grows"]
    assert found["true_effect_by_knob"]["8.0"] > found["true_effect_by_knob"]["0.0"] + 0.1
    assert found["coverage_by"]["text"]["n"] == found["coverage_by"]["offset"]["n"] == 4
    assert found["coverage"] >= 6 / 8
    assert found["power"]["4.0"] == 1
    assert len({(row["kind"], row["size"], row["seed"]) for row in rows}) == 4
    assert {row["seed"] for row in rows} == {0, 1, 2, 3}
    assert {row["truth"] for row in rows if row["control"]} == {0.0}
    assert {row["truth"] for row in rows if row["kind"] == "offset"} == {0.0, 4.0}
    assert found["false_alarms_n"] == 2 * 6 + 2


def test_the_summary_by_hand(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = modules["audit_calibration"]
    monkeypatch.setattr(script, "KNOBS", (0.0, 1.0))
    monkeypatch.setattr(script, "SIZES", (0.0, 1.0))

    def row(kind: str, size: float, covered: bool, alarm: bool, **other: Any) -> dict[str, Any]:
        base = {"attribute": "disability", "measure": PLACE, "control": False, "planted": True}
        numbers = {"seed": 0, "truth": 0.1 + size, "value": 0.2 + size}
        return (
            base
            | numbers
            | {"kind": kind, "size": size, "covered": covered, "alarm": alarm}
            | other
        )

    control = {"control": True, "planted": False, "attribute": "name"}
    rows = [
        row("text", 0.0, True, False),
        row("text", 1.0, False, True),
        row("text", 0.0, True, True, **control),
        row("text", 1.0, True, False, **control),
        row("offset", 0.0, True, False),
        row("offset", 1.0, True, True),
    ]
    found = script.text_summary(rows)
    assert found["coverage"] == 3 / 4
    assert found["coverage_by"]["text"]["rate"] == 1 / 2
    # null: both controls and the offset of 0; of the three one is an alarm
    assert (found["false_alarms"], found["false_alarms_n"]) == (1 / 3, 3)
    # P(at least 1 of 3 at .05) = 1 - .95^3
    assert found["false_alarms_p"] == pytest.approx(1 - 0.95**3)
    assert found["power"] == {"0.0": 0.0, "1.0": 1.0}
    assert found["power_by_knob"] == {"0.0": 0.0, "1.0": 1.0}
    assert found["true_effect_by_knob"] == pytest.approx({"0.0": 0.1, "1.0": 1.1})
    assert found["measured_effect_by_knob"] == pytest.approx({"0.0": 0.2, "1.0": 1.2})
    assert found["grows"]
    # fewer than 5 % are no evidence of more
    assert script.alarm_rate({"text": [{"alarm": False}] * 100})["false_alarms_p"] == 1
    falling = [r | {"value": -r["value"]} for r in rows]
    assert not script.text_summary(falling)["grows"]


def test_the_rows_are_those_of_align_audit(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    text = modules["planted_text"]
    model = text.trained_on_text(4.0, 0)
    save_model(model, text.tokenizer(), tmp_path / "model")
    with Progress(quiet=True) as progress:
        asked = Asked(4, seed=5, out=str(tmp_path / "out"), name="m")
        run_audit(str(tmp_path / "model"), [], asked, progress)
    ledger = json.loads((tmp_path / "out" / "m" / "audit.json").read_text())
    keys = ("measure", "attribute", "group_a", "group_b")
    audited = {tuple(row[key] for key in keys): row for row in ledger["bias"]}
    rows = text.audit_language_model(Engine(model, text.tokenizer()), 4, 5)
    assert len(rows) == 2 + 2 * 3
    for row in rows:
        same = audited[tuple(row[key] for key in keys)]
        for key in ("value", "low", "high"):
            assert math.isclose(row[key], same[key], abs_tol=1e-4)
