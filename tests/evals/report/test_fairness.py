"""Tables of gaps, changes and mitigations as a reader sees them."""

from __future__ import annotations

from typing import Any

from evals.report.fairness import change_table, gap_table, mitigation_tables
from evals.report.predictions import prediction_lines, sentences

M = "\N{MINUS SIGN}"


def texts(row: Any) -> list[str]:
    return [cell.text for cell in row.cells]


def gap(**more: Any) -> dict[str, Any]:
    row = {"stage": "ppo", "task": "quiz", "metric": "selection_rate", "attribute": "age"}
    row |= {"value": 0.125, "low": 0.05, "high": 0.2, "ratio": 0.5, "ratio_low": 0.25}
    row |= {"ratio_high": 0.75, "p": 0.03, "q": 0.06, "groups": 3, "n": 90, "flag": "n < 30"}
    return row | more


def change(kind: str, **more: Any) -> dict[str, Any]:
    row = {"metric": "accuracy", "attribute": "age", "kind": kind, "group_a": "a", "group_b": "b"}
    row |= {"before": 0.5, "after": 0.25, "value": -0.25, "low": -0.3, "high": -0.2}
    return row | {"p": 0.001, "q": 0.002, "n": 50, "flag": ""} | more


def test_gaps_where_stored() -> None:
    assert gap_table({}) is None
    table = gap_table({"group_gaps": [gap(), gap(task=None, stage=None, low=None, ratio=None)]})
    assert table is not None
    name = "selection rate (demographic parity) by age"
    assert texts(table.rows[0]) == [
        f"quiz: {name}",
        "ppo",
        "3",
        "90",
        "+12.5 pp",
        "[5.0, 20.0]",
        "0.500",
        "p = .030, q = .060",
    ]
    assert table.rows[0].cells[2].flags == ("n < 30",)
    assert table.rows[0].cells[6].notes == ("[0.25, 0.75]",)
    second = texts(table.rows[1])
    assert (second[0], second[5]) == (name, "")


def test_changes_put_gaps_and_everyone_first() -> None:
    assert change_table({}) is None
    rows = [
        change("rate", group_b=None),
        change("difference"),
        change("gap", group_a=None, group_b=None, low=None, high=None, p=None, q=None),
        change("rate", attribute="everyone", group_a="everyone", group_b=None),
    ]
    stages = {"task": "quiz", "before_stage": "sft", "after_stage": "ppo"}
    table = change_table({"group_changes": [row | stages for row in rows]})
    assert table is not None
    shown = [texts(row) for row in table.rows]
    assert [row[1] for row in shown] == ["largest gap", "everyone", "a", f"a {M} b"]
    assert shown[0][0] == "quiz: accuracy by age, sft to ppo"
    assert shown[1][0] == "quiz: accuracy, sft to ppo"
    assert shown[2][3:] == [
        "50.0%",
        "25.0%",
        f"{M}25.0 pp",
        f"[{M}30.0, {M}20.0]",
        "p = .001, q = .002",
    ]
    assert shown[3][3:5] == ["+50.0 pp", "+25.0 pp"]
    assert shown[0][6:] == ["", ""]


def test_each_mitigation_has_a_table_and_the_chosen_pair_stands_high() -> None:
    head = {"method": "ThresholdOptimizer", "constraint": "equalized_odds", "by": "age"}
    rows = [
        head | change("difference", group_b="c") | {"largest": False},
        head | change("difference") | {"largest": True},
        head | {"by": "sex"} | change("difference") | {"largest": False},
    ]
    one, two = mitigation_tables(rows)
    assert one.caption == "ThresholdOptimizer, equalized odds by age"
    assert two.caption.endswith("by sex")
    assert [texts(row)[1] for row in one.rows] == [f"a {M} b", f"a {M} c"]
    assert one.rows[0].cells[1].flags == ("was largest",)


def test_the_audit_says_what_was_judged_and_left_out() -> None:
    audit = {
        "n": 1200,
        "clusters": 40,
        "positive": "yes",
        "columns": {"label": "y"},
        "missing": {"no label": 3},
        "notes": ["A note."],
        "subject": {"seed": 7},
        "groups": [],
        "group_gaps": [],
        "mitigations": [
            {"method": "M", "constraint": "c_d", "by": "age", "largest": largest}
            | change("difference", group_a=name)
            for name, largest in (("x", True), ("z", False))
        ],
    }
    assert sentences(audit) == (
        "1,200 rows judged in 40 clusters; positive class: yes; label: y; seed 7.",
        "3 rows left out: no label.",
        "A note.",
    )
    lines = "\n".join(prediction_lines(audit))
    assert "M, c d by age, judged on the other half" in lines
    assert f"x {M} b" in lines
    assert f"z {M} b" not in lines
