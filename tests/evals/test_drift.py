"""Preference and drift joined from stored results: the same items, and what is not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align.artifacts import jsonable
from evals.bias.template_items import sample_items
from evals.drift import EFFECTS, audit_drift, item_effects, paired, remembering
from evals.metrics import value_rows
from evals.samples import save_result
from evals.stored import RESULT
from evals.task import TaskResult, item_ids

KEYS = ("measure", "attribute", "group_a", "group_b", "control", "cluster")
ROWS = [row for row in sample_items(3) if row["attribute"] in ("age", "religion", "weekday")]
IDS = item_ids(ROWS)


def result(effects: Sequence[float], ids: Sequence[str] = IDS) -> TaskResult:
    """A stored task: the effects of some of the items."""
    rows = [ROWS[IDS.index(item)] for item in ids]
    columns = {key: tuple(str(row[key]) for row in rows) for key in KEYS}
    columns["control"] = tuple(text.lower() for text in columns["control"])
    samples = [{"effect": effect} for effect in effects]
    stats = {"effect": value_rows(np.array(effects))}
    return TaskResult(tuple(ids), stats, samples, columns["cluster"], columns)


@pytest.fixture
def ledger(tmp_path: Path) -> dict[str, Any]:
    """An audit of three stages; the policy moves by a half of the preference."""
    preference = dict(zip(IDS, np.linspace(-1, 2, len(IDS)).tolist(), strict=True))
    levels = {"base": 0.0, "sft": 1.0, "ppo": 1.5}
    for stage, level in levels.items():
        folder = tmp_path / stage / "identity"
        save_result(folder, result([level * x for x in preference.values()]), {"stage": stage})
        (folder / RESULT).write_text("{}", encoding="utf-8")
    write_effects(tmp_path, preference)
    tasks = [{"name": "identity"}, {"name": "text"}]
    return {"stages": list(levels), "tasks": tasks, "reward_model": {"bias": []}}


def write_effects(folder: Path, preference: dict[str, float | None]) -> None:
    (folder / "reward").mkdir(exist_ok=True)
    text = json.dumps({"key": "", "value": {"identity": preference}})
    (folder / "reward" / EFFECTS).write_text(text, encoding="utf-8")


def test_drift_is_ppo_minus_the_stage_before_and_controls_are_apart(
    ledger: dict[str, Any], tmp_path: Path
) -> None:
    found = audit_drift(tmp_path, ledger)
    assert (found["outcome"], found["before"], found["after"]) == ("", "sft", "ppo")
    assert found["missing"] == 0
    # one other group of age twice, five of religion, one control; two measures each
    assert len(found["contrasts"]) == 2 * (2 + 5 + 1)
    for row in found["contrasts"]:
        assert row["drift"]["value"] == pytest.approx(row["preference"]["value"] / 2)
        assert (row["task"], row["n"]) == ("identity", 3)
    assert [row["value"] for row in found["attributes"]] == pytest.approx([0.5, 0.5, 0.5])
    assert found["overall"]["contrasts"] == 14
    assert (found["overall"]["families"], found["overall"]["rho"]) == (2, pytest.approx(1))
    assert found["clear"]["contrasts"] == 0, "three templates: no p below 1/4"
    without = ledger | {"stages": ["base", "ppo"]}
    assert audit_drift(tmp_path, without)["contrasts"][0]["drift"]["value"] == pytest.approx(
        1.5 * found["contrasts"][0]["preference"]["value"]
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reward_model": None}, "no reward model"),
        ({"stages": ["base", "sft"]}, "no PPO"),
        ({"stages": ["ppo"]}, "no PPO"),
        ({"tasks": []}, "No contrast was scored"),
    ],
)
def test_what_is_not_there_is_said(
    change: dict[str, Any], said: str, ledger: dict[str, Any], tmp_path: Path
) -> None:
    found = audit_drift(tmp_path, ledger | change)
    assert said in found["outcome"]
    assert (found["contrasts"], found["attributes"], found["overall"]) == ([], [], None)


def test_items_without_a_score_are_left_out_of_both_columns_and_counted(
    ledger: dict[str, Any], tmp_path: Path
) -> None:
    stored = json.loads((tmp_path / "reward" / EFFECTS).read_text("utf-8"))["value"]["identity"]
    write_effects(tmp_path, stored | {IDS[0]: None})
    found = audit_drift(tmp_path, ledger)
    counts = [row["n"] for row in found["contrasts"]]
    assert (found["missing"], sorted(counts)[:2]) == (1, [2, 3])
    write_effects(tmp_path, dict.fromkeys(IDS))
    found = audit_drift(tmp_path, ledger)
    assert "No contrast was scored" in found["outcome"]
    assert (found["missing"], found["overall"]) == (len(IDS), None)


def test_controls_alone_are_no_answer(ledger: dict[str, Any], tmp_path: Path) -> None:
    controls = {item: 1.0 for item, row in zip(IDS, ROWS, strict=True) if row["control"]}
    write_effects(tmp_path, controls)
    found = audit_drift(tmp_path, ledger)
    assert "No contrast was scored" in found["outcome"]
    assert [row["control"] for row in found["contrasts"]] == [True, True]


def test_items_are_joined_by_their_names_whatever_their_order() -> None:
    before, after = result([1.0, 2.0], IDS[:2]), result([9.0, 5.0, 7.0], [IDS[1], IDS[0], IDS[2]])
    items = paired({IDS[0]: 0.5, IDS[1]: 0.25, IDS[2]: 4.0}, before, after)
    assert items.drift.tolist() == [9.0 - 2.0, 5.0 - 1.0], "IDS[2] has no value before"
    assert items.preference.tolist() == [0.25, 0.5]
    assert [c.group_a for c in items.contrasts] == [ROWS[1]["group_a"], ROWS[0]["group_a"]]
    assert list(items.clusters) == [ROWS[1]["cluster"], ROWS[0]["cluster"]]


def test_effects_are_differences_of_differences_in_spreads() -> None:
    chat = ROWS[0] | {"preferred_a": "aaaa", "dispreferred_a": "a"}
    chat |= {"preferred_b": "bbb", "dispreferred_b": "bb", "prompt_a": "p", "prompt_b": "pp"}
    text, bad = chat | {"render": "text"}, chat | {"preferred_b": "none"}

    def score(prompts: Sequence[Any], completions: Sequence[str]) -> list[float | None]:
        lengths = [10 * len(p) if isinstance(p, str) else len(p[0]["content"]) for p in prompts]
        both = zip(lengths, completions, strict=True)
        return [None if c == "none" else n * len(c) for n, c in both]

    effects = list(item_effects(score, [chat, text, bad], 2.0).values())
    # [1*4 - 1*1] - [2*3 - 2*2] = 1; as text prompts count tenfold; a missing score is None
    assert effects == [0.5, 5.0, None]
    assert jsonable(item_effects(lambda p, c: [float("nan")] * len(p), [chat], 2.0)) == {
        item_ids([chat])[0]: None
    }


def test_a_score_is_asked_once() -> None:
    asked: list[tuple[Any, Any]] = []

    def score(prompts: Sequence[Any], completions: Sequence[str]) -> list[float | None]:
        asked.extend(zip(prompts, completions, strict=True))
        return [None if c == "z" else float(ord(c)) for c in completions]

    once = remembering(score)
    assert once(["p", "p", "q"], ["a", "a", "a"]) == [97.0, 97.0, 97.0]
    assert once(["q", "q", [{"role": "user"}]], ["z", "a", "b"]) == [None, 97.0, 98.0]
    assert once(["q"], ["z"]) == [None]
    assert asked == [("p", "a"), ("q", "a"), ("q", "z"), ([{"role": "user"}], "b")]
