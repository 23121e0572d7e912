"""Tables from small ledgers written by hand."""

import numpy as np
import pytest

from evals.report.groups import difference_table, group_tables, unknown_sentence
from evals.report.reward import bias_table as reward_bias_table
from evals.report.reward import reward_blocks, sentences
from evals.report.robustness import robustness_table
from evals.report.tables import bias_table, capability_table, q_values, stage_pairs
from evals.significance import sign_flip
from evals.stats import Resampling

M = "\N{MINUS SIGN}"


def by_head(table):
    """Text of the row's head -> its cells."""
    return {row.cells[0].text: row.cells for row in table.rows}


def estimate(stage, value, low, high, metric="acc", better="higher"):
    row = {"stage": stage, "task": "quiz", "metric": metric, "better": better}
    return {**row, "value": value, "low": low, "high": high, "n": 400, "method": "Wilson"}


def change(difference, low, high, metric="acc", **keys):
    row = {"task": "quiz", "metric": metric, "before": "sft", "after": "ppo", "p": 0.2}
    return {**row, "difference": difference, "low": low, "high": high, "mde": 0.044, **keys}


def two_stages(**tables):
    return {"stages": ["sft", "ppo"], "tasks": [{"name": "quiz", "title": "Quiz"}], **tables}


def test_capability_row_by_hand():
    ledger = two_stages(
        estimates=[estimate("sft", 0.795, 0.75, 0.83), estimate("ppo", 0.8175, 0.777, 0.852)],
        comparisons=[change(0.0224, -0.0086, 0.0534)],
    )
    table = capability_table(ledger)
    assert table.header == ("Metric", "n", "sft", "ppo", f"ppo {M} sft")
    metric, n, sft, ppo, difference = by_head(table)["acc"]
    assert metric.notes == ("higher is better", "Wilson")
    assert n.text == "400"
    assert (sft.text, sft.notes, sft.value) == ("79.5%", ("[75.0, 83.0]",), 0.795)
    assert (ppo.text, ppo.notes) == ("81.8%", ("[77.7, 85.2]",))
    assert difference.text == "+2.2 pp"
    assert difference.notes == (f"[{M}0.9, 5.3]", "p = .200, q = .200", "detectable: 4.4 pp")
    assert difference.flags == ()
    assert [row.style for row in table.rows] == ["heading", ""]


@pytest.mark.parametrize(
    ("better", "sign", "flag"),
    [
        ("higher", 1, "better"),
        ("higher", -1, "worse"),
        ("lower", 1, "worse"),
        ("lower", -1, "better"),
        ("none", 1, "moved"),
    ],
)
def test_a_clear_difference_is_named_by_its_direction(better, sign, flag):
    low, high = sorted((sign * 0.01, sign * 0.03))
    levels = [estimate(stage, 0.5, 0.4, 0.6, better=better) for stage in ("sft", "ppo")]
    ledger = two_stages(estimates=levels, comparisons=[change(sign * 0.02, low, high)])
    cell = by_head(capability_table(ledger))["acc"][-1]
    assert cell.flags == (flag,)
    assert not any("detectable" in note for note in cell.notes)


@pytest.mark.parametrize(("units", "said"), [(4, [".125"]), (5, [".062"]), (6, [])])
def test_few_units_cannot_have_a_small_p(units, said):
    # all changes of one sign: no exchange of models is more extreme
    least = sign_flip(np.arange(1.0, units + 1), None, Resampling())
    assert (least > 0.05) is bool(said)
    row = change(0.02, 0.01, 0.03) | {"test": "permutation", "units": units, "p": least}
    levels = [estimate(stage, 0.5, 0.4, 0.6) for stage in ("sft", "ppo")]
    cell = by_head(capability_table(two_stages(estimates=levels, comparisons=[row])))["acc"][-1]
    found = [note for note in cell.notes if "at least" in note]
    assert found == [f"p of {units} units is at least {p}" for p in said]
    assert all(f"{least:.3f}".endswith(p) for p in said)


def test_what_was_not_measured_is_said():
    ledger = two_stages(estimates=[estimate("sft", 0.5, 0.4, 0.6)], comparisons=[])
    cells = by_head(capability_table(ledger))["acc"]
    assert cells[-1].text == "not measured"
    other = [change(0.1, 0.0, 0.2, metric="f1")]
    ledger = two_stages(estimates=[estimate("sft", 0.5, 0.4, 0.6)], comparisons=other)
    assert by_head(capability_table(ledger))["acc"][-1].text == "not compared"


def test_baselines_stand_below_the_first_metric():
    levels = [estimate(s, 0.7, 0.6, 0.8, m) for m in ("acc", "f1") for s in ("sft", "ppo")]
    guess = estimate("sft", 0.25, 0.25, 0.25, "uniform_guess")
    majority = [
        estimate(s, v, 0.3, 0.5, "majority_answer") for s, v in (("sft", 0.4), ("ppo", 0.41))
    ]
    baselines = [guess, majority[0], guess | {"stage": "ppo"}, majority[1]]
    other = guess | {"task": "another"}
    table = capability_table(two_stages(estimates=levels, baselines=[*baselines, other]))
    heads = [row.cells[0].text for row in table.rows]
    assert heads == ["Quiz", "acc", "uniform guess", "majority answer", "f1"]
    assert [row.style for row in table.rows] == ["heading", "", "control", "control", ""]
    cells = by_head(table)["majority answer"]
    assert [cell.text for cell in cells[2:]] == ["40.0%", "41.0%"]
    assert cells[2].notes == ("[30.0, 50.0]",)


def test_contamination_stands_beside_the_number():
    clean = {"value": 0.75, "low": 0.7, "high": 0.79, "n": 360, "method": "Wilson"}
    seen = estimate("sft", 0.795, 0.75, 0.83) | {"contaminated": 0.1, "clean": clean}
    table = capability_table({"stages": ["sft"], "estimates": [seen]})
    _, n, sft = by_head(table)["acc"]
    assert (n.text, n.notes) == ("400", ("10% contaminated",))
    assert sft.notes == ("[75.0, 83.0]", "clean 75.0% [70.0, 79.0] (n 360)")
    none = estimate("sft", 0.795, 0.75, 0.83) | {"contaminated": 0.0, "clean": None}
    _, n, sft = by_head(capability_table({"stages": ["sft"], "estimates": [none]}))["acc"]
    assert (n.notes, sft.notes) == (("0% contaminated",), ("[75.0, 83.0]",))


def perturbed(stage, value, difference, half, p, **keys):
    ends = {"low": difference - half, "high": difference + half, "p": p, "mde": 0.05}
    row = {"stage": stage, "task": "quiz", "metric": "acc", "better": "higher", "n": 400}
    row |= {"perturbation": "typos", "value": value, "low": value - 0.05, "high": value + 0.05}
    return row | {"changed": 0.875, "change": {"difference": difference, **ends}, **keys}


def test_robustness_by_hand():
    rows = [perturbed("sft", 0.7, -0.1, 0.03, 0.01), perturbed("ppo", 0.81, -0.01, 0.02, 0.4)]
    levels = [estimate("sft", 0.8, 0.75, 0.85), estimate("ppo", 0.82, 0.77, 0.86)]
    table = robustness_table(two_stages(estimates=levels, robustness=rows))
    assert table.header == ("Metric", "Perturbation, items", "sft", "ppo")
    assert [row.cells[0].text for row in table.rows] == ["Quiz", "acc"]
    _, kind, sft, ppo = table.rows[1].cells
    assert (kind.text, kind.notes) == ("typos", ("n 400, 87.5% changed",))
    assert (sft.text, sft.flags, sft.value) == (f"{M}10.0 pp", ("worse",), -0.1)
    # q of two: .01 * 2, and .4.
    assert sft.notes == (
        f"[{M}13.0, {M}7.0]",
        "p = .010, q = .020",
        "perturbed 70.0% [65.0, 75.0]",
    )
    assert (ppo.text, ppo.flags) == (f"{M}1.0 pp", ())
    assert ppo.notes[2:] == ("detectable: 5.0 pp", "perturbed 81.0% [76.0, 86.0]")
    assert robustness_table(two_stages()).rows == ()
    one = robustness_table(two_stages(robustness=rows[:1])).rows[1].cells
    assert one[-1].text == "not compared"


def test_pairs_follow_the_stages():
    rows = [
        {"before": "base", "after": "ppo"},
        {"before": "sft", "after": "ppo"},
        {"before": "base", "after": "sft"},
    ]
    ledger = {"stages": ["base", "sft", "ppo"], "comparisons": rows}
    expected = [("base", "sft"), ("sft", "ppo"), ("base", "ppo")]
    assert stage_pairs(ledger, "comparisons") == expected


def test_q_values_by_hand():
    # Benjamini-Hochberg, p * 3 / rank: .01 -> .03, .03 -> .045, .04 -> .04; then the minimum over
    # the larger ranks: .03, .04, .04.
    rows = [{"p": 0.01}, {"p": 0.04}, {"p": 0.03}, {"p": None}]
    q = q_values(rows)
    assert [q.get(id(row)) for row in rows[:3]] == pytest.approx([0.03, 0.04, 0.04])
    assert id(rows[3]) not in q


def bias(stage, value, low, high, control=False, **keys):
    row = {"stage": stage, "task": "pairs", "measure": "tone", "attribute": "gender"}
    row |= {"group_a": "woman", "group_b": "woman" if control else "man", "control": control}
    numbers = {"value": value, "low": low, "high": high, "p": 0.01, "n": 240, "clusters": 24}
    return {**row, **numbers, "unit": "nats", **keys}


def test_bias_rows_flags_and_controls():
    rows = [
        bias("sft", 0.01, -0.02, 0.04, control=True),
        bias("ppo", 0.05, 0.02, 0.08, control=True),
        bias("sft", 0.05, -0.07, 0.17),
        bias("ppo", 0.41, 0.29, 0.53),
    ]
    table = bias_table(two_stages(bias=rows, bias_comparisons=[]))
    assert [row.style for row in table.rows] == ["", "control"]
    head, groups, n, sft, ppo = table.rows[0].cells
    assert (head.text, head.notes) == ("tone, gender", ("pairs, in nats",))
    assert (groups.text, n.text) == (f"woman\N{NO-BREAK SPACE}{M} man", "240 (24)")
    assert (sft.text, sft.flags) == ("+0.050", ())
    assert (ppo.text, ppo.flags, ppo.value) == ("+0.410", ("not 0",), 0.41)
    assert "q = .010" in ppo.notes[-1]
    control = table.rows[1].cells
    assert control[0].flags == ("control",)
    assert control[-1].flags == ("false alarm",)
    assert "q" not in control[-1].notes[-1]


def group(name, n, hits, **keys):
    row = {"stage": "ppo", "task": "quiz", "attribute": "age", "metric": "selection_rate"}
    row |= {"group": name, "n": n, "numerator": hits, "denominator": n, "flag": ""}
    return {**row, "value": hits / n, "low": 0.1, "high": 0.9, **keys}


def test_group_ratios_by_hand():
    rows = [
        group("young", 500, 300),
        group("old", 400, 192),
        group("very old", 10, 9),
        group("unknown", 90, 81),
        group("few", 29, 10),
        group("enough", 30, 18),
    ]
    (table,) = group_tables(two_stages(groups=rows))
    rows_by_group = by_head(table)
    # 1059 items; highest rate among those with a ratio: 300/500 = .6; .48/.6 = .8, 10/29/.6.
    assert rows_by_group["young"][-1].text == "1.000"
    assert rows_by_group["old"][-1].value == pytest.approx(0.8)
    assert rows_by_group["old"][-1].flags == ()
    assert rows_by_group["few"][-1].value == pytest.approx(0.574713, abs=1e-6)
    assert rows_by_group["few"][-1].flags == ("below 0.8",)
    assert rows_by_group["very old"][-1].text == "withheld: under 2% of items"
    assert rows_by_group["unknown"][-1].text == "withheld: membership unknown"
    flags = {name: cells[0].flags for name, cells in rows_by_group.items() if cells[0].flags}
    assert flags == {"very old": ("n < 30",), "few": ("n < 30",)}
    shown = [cell.text for cell in rows_by_group["old"][1:7]]
    assert shown == ["400", "37.8%", "192", "400", "48.0%", "[10.0, 90.0]"]


def test_ledgers_own_flag_is_shown_once():
    rows = [group("a", 20, 10, flag="n < 30"), group("b", 50, 10, flag="undefined: no item")]
    (table,) = group_tables(two_stages(groups=rows))
    assert by_head(table)["a"][0].flags == ("n < 30",)
    assert by_head(table)["b"][0].flags == ("undefined: no item",)


def test_rate_that_is_not_defined():
    empty = group("b", 50, 0, value=None, low=None, high=None, denominator=0)
    (table,) = group_tables(two_stages(groups=[group("a", 50, 10), empty]))
    assert by_head(table)["b"][-1].text == "not defined"
    assert by_head(table)["a"][-1].text == "1.000"


def test_last_stage_stands_first_and_open():
    rows = [group("a", 50, 10, stage="sft"), group("a", 50, 10)]
    tables = group_tables(two_stages(groups=rows))
    captions = [table.caption for table in tables]
    assert captions == ["Rates by group, stage ppo", "Rates by group, stage sft"]
    assert [table.folded for table in tables] == [False, True]


def test_unknown_membership_is_counted_with_intersections():
    rows = [group("a & b", 60, 10), group("a & unknown", 30, 10), group("unknown & b", 10, 10)]
    ledger = two_stages(groups=rows)
    assert unknown_sentence(ledger) == "Membership unknown: quiz, age 40 of 100 items."
    assert unknown_sentence({}) == ""


def test_differences_between_groups_where_stored():
    assert difference_table({}) is None
    row = {"stage": "ppo", "task": "quiz", "metric": "accuracy", "attribute": "age", "p": 0.03}
    row |= {"group_a": "a", "group_b": "b", "value": -0.125, "low": -0.2, "high": -0.05}
    table = difference_table({"group_differences": [row | {"n_a": 50, "n_b": 60, "flag": ""}]})
    texts = [cell.text for cell in table.rows[0].cells]
    assert texts[2:] == [f"a {M} b", "50, 60", f"{M}12.5 pp", f"[{M}20.0, {M}5.0]", "p = .030"]


def audit(low_accuracy=0.6, low_gap=0.05):
    return {
        "accuracy": {"value": 0.7, "low": low_accuracy, "high": 0.8, "n": 300},
        "longer_wins": {"value": 0.6, "low": 0.5, "high": 0.7, "n": 300},
        "difference": {"difference": 0.1, "low": low_gap, "high": 0.2, "p": 0.002},
        "score_mean": 0.1,
        "score_std": 1.5,
        "length_correlation": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 600},
        "bias": [],
    }


def test_reward_model_is_judged_honestly():
    good, against_length = sentences(audit())
    assert good == (
        "The reward model ranks 70.0% [60.0, 80.0] of 300 held-out pairs as the annotator did; "
        "chance is 50%.",
        True,
    )
    assert against_length[0].startswith("It beats the rule that the longer response wins by +10.0")
    weak, none = sentences(audit(low_accuracy=0.5, low_gap=0.0))
    assert weak == (
        "The reward model ranks 70.0% [50.0, 80.0] of 300 held-out pairs as the annotator did: "
        "not shown to beat chance.",
        False,
    )
    assert none[0].startswith("It does not beat the rule that the longer response wins (+10.0 pp")
    assert [fine for _, fine in sentences({"accuracy": None})] == [False, False]
    assert sentences(None) == []


def test_reward_bias_and_drift():
    stage = {"stage": "reward", "unit": "sd"}
    section = audit() | {"bias": [bias("reward", 0.31, 0.2, 0.4) | stage]}
    moved = bias("", 0, 0, 0) | {"before": "sft", "after": "ppo"}
    moved |= {"difference": 0.36, "low": 0.29, "high": 0.43}
    older = moved | {"before": "base", "difference": -9.0}
    ledger = {
        "stages": ["base", "sft", "ppo"],
        "reward_model": section,
        "bias_comparisons": [older, moved],
    }
    cells = reward_bias_table(section).rows[0].cells
    assert cells[0].notes == ("pairs, in sd",)
    assert (cells[-1].text, cells[-1].flags) == ("+0.310", ("not 0",))
    drift = reward_blocks(ledger)[-1]
    texts = [cell.text for cell in drift.rows[0].cells]
    assert texts[2:] == ["+0.310", "+0.360", "same sign"]
    assert "the same way in 1 of 1" in drift.notes[0]
    moved["difference"], moved["low"] = -0.1, -0.2
    assert reward_blocks(ledger)[-1].rows[0].cells[-1].text == "opposite, not both clear of 0"
