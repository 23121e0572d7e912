"""The audit's page and lines, from rows whose order and counts are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evals.report.audit import (
    audit_lines,
    audit_section,
    case_table,
    effect_table,
    largest_table,
    sentences,
    signed_tables,
    write_page,
)
from evals.report.numbers import MINUS
from evals.report.tables import bias_table


def make_row(value: float, half: float, p: float, group: str, **keys: Any) -> dict[str, Any]:
    row = {"measure": "in prompt", "attribute": "religion", "group_a": group, "group_b": "x"}
    ends = {"value": value, "low": value - half, "high": value + half, "p": p}
    tail = {"n": 24, "clusters": 24, "unit": "sd of scores", "stage": "reward", "task": "identity"}
    return row | {"control": False} | ends | tail | keys


BIAS = [
    make_row(0.1, 0.2, 0.3, "small"),
    make_row(-0.9, 0.2, 0.001, "large"),
    make_row(0.3, 0.2, 0.02, "middle"),
    make_row(0.2, 0.1, 0.0001, "first", control=True),
    make_row(0.0, 0.1, 0.9, "second", control=True),
]
SIDE = {
    "prompt": "Is <Ann> here?",
    "response": "Yes.",
    "score": 1.5,
    "spans": [{"place": "prompt", "span": "<Ann>", "drop": -0.25}],
}
CASE = {"measure": "in prompt", "attribute": "religion", "group_a": "large", "group_b": "x"}


@pytest.fixture
def audit() -> dict[str, Any]:
    reward = {"bias": BIAS, "spread": 2.0, "spread_of": "held-out responses"}
    reward |= {"template_spread": 0.4, "items": 110, "missing": 10, "groups": []}
    reward |= {"fixed_length": BIAS[:1], "prefixes": [], "flips": BIAS[1:2], "length": BIAS[2:3]}
    reward["cases"] = [CASE | {"difference": -0.9, "side_a": SIDE, "side_b": SIDE}]
    subject = {"name": "mine", "templates": 24, "seed": 0, "alignkit": "1"}
    subject["population"] = {"gender": {"templates": 160}}
    return {"stages": [], "reward_model": reward, "subject": subject}


def test_findings_count_effects_by_q_and_controls_by_interval(audit: dict[str, Any]) -> None:
    said = sentences(audit)
    # q of .001, .02, .3 over three rows: .003, .03, .3
    assert "reward model: 2 of 3 effects differ from 0 (q at most 0.05)" in said[1]
    assert "1 of 2 intervals of neutral controls exclude 0" in said[1]
    assert said[0].startswith("24 templates of each measure out of 160, seed 0")
    assert "spread by 0.400 sd" in said[2]
    assert said[3] == "reward model: 10 of 120 items have no score."


def test_the_surest_effects_come_first_and_controls_are_apart(audit: dict[str, Any]) -> None:
    table = largest_table(BIAS, "c")
    groups = [row.cells[1].text.split("\N{NO-BREAK SPACE}")[0] for row in table.rows]
    assert groups == ["large", "middle", "small"]
    value = table.rows[0].cells[3]
    assert (value.value, value.flags) == (-0.9, ("not 0",))
    assert table.rows[0].cells[4].text == "p = .001, q = .003"
    every = effect_table(BIAS, "c", {})
    assert [row.style for row in every.rows] == ["", "", "", "control", "control"]
    assert every.rows[3].cells[3].flags == ("false alarm",)
    assert every.rows[4].cells[3].flags == ()
    assert every.header[2:4] == ("n (clusters)", "Value"), "units differ from row to row"
    one = effect_table([BIAS[1] | {"task": "crows", "unit": "nats", "flag": "n < 30"}], "c", {})
    assert one.rows[0].cells[0].text.startswith("crows: ")
    assert one.rows[0].cells[0].notes == ("in nats",)
    assert one.rows[0].cells[3].notes[1] == "n < 30"
    shares = effect_table([BIAS[1]], "c", {}, signed=False)
    assert shares.rows[0].cells[3].flags == (), "a share above 0 is no finding"


def test_the_page_is_escaped_and_the_section_is_the_same(
    audit: dict[str, Any], tmp_path: Path
) -> None:
    page = write_page(tmp_path, audit)
    text = page.read_text(encoding="utf-8")
    assert "&lt;Ann&gt;" in text
    assert "<Ann>" not in text
    assert 'class="verdict' not in text, "nothing was judged"
    assert "large" in (tmp_path / "report.md").read_text(encoding="utf-8")
    section = audit_section(audit)
    assert len(section.blocks) > 5
    empty = audit_section({})
    assert (list(empty.blocks), "align audit" in empty.empty) == ([], True)


def test_lines_for_a_terminal_and_the_words_of_a_case(audit: dict[str, Any]) -> None:
    lines = audit_lines(audit)
    assert lines[0] == "Largest effects, reward model"
    assert "large" in lines[2], "the surest effect comes first"
    assert lines[-2].startswith("reward model: 10 of 120")
    (row,) = case_table(audit["reward_model"]["cases"], "words", "scores, sd").rows
    assert row.cells[1].value == -0.9
    assert f"{MINUS}0.25" in row.cells[2].notes[1]


def test_a_scorer_s_own_bias_is_no_finding_about_a_model(audit: dict[str, Any]) -> None:
    audit["stages"] = ["base", "ppo"]
    audit["bias"] = [{**row, "stage": stage} for stage in audit["stages"] for row in BIAS]
    before = sentences(audit)
    own = make_row(1.0, 0.1, 1e-9, "large", task="scorers", measure="t, the scorer itself")
    audit["bias"] += [{**own, "stage": stage} for stage in audit["stages"]]
    added = [line for line in sentences(audit) if line not in before]
    assert len(sentences(audit)) == len(before) + 1
    assert added[0].startswith("scorers on neutral sentences: 1 of 1 effects differ from 0")
    assert signed_tables(audit)[-2][0] == "Largest effects, scorers on neutral sentences"
    # 2 stages of 3 effects with p .001, .02, .3; the smallest q is .001 6 / 2, without the scorer
    text = str(bias_table(audit))
    assert "q = .003" in text
    assert text.count("q = ") == 6
