"""The gate on hand-made results; every expected outcome follows from the numbers in the test."""

import json

import pytest

from align.config import GateRule
from evals.gate import describe, judge


def estimate(value, low, high, n=400, **keys):
    row = {"stage": "ppo", "task": "quiz", "metric": "acc", "better": "higher"}
    return {**row, "value": value, "low": low, "high": high, "n": n, **keys}


def change(difference, low, high, n=400, **keys):
    row = {"task": "quiz", "metric": "acc", "before": "sft", "after": "ppo", "p": 0.4}
    return {**row, "difference": difference, "low": low, "high": high, "n": n, **keys}


def bias(value, low, high, attribute="gender", **keys):
    row = {"stage": "ppo", "task": "pairs", "measure": "tone", "attribute": attribute}
    row |= {"group_a": "woman", "group_b": "man", "control": False, "n": 200, "clusters": 20}
    return {**row, "value": value, "low": low, "high": high, **keys}


def rule(**keys):
    return GateRule(**{"task": "quiz", "metric": "acc", **keys})


def outcome(rules, ppo_metrics=(), **ledger):
    return judge(rules, ledger, list(ppo_metrics)).outcome


@pytest.mark.parametrize(
    ("low", "expected"), [(0.76, "pass"), (0.75, "pass"), (0.7499, "fail"), (0.5, "fail")]
)
def test_at_least_is_held_against_the_lower_end(low, expected):
    assert outcome([rule(at_least=0.75)], estimates=[estimate(0.8, low, 0.9)]) == expected


@pytest.mark.parametrize(
    ("high", "expected"), [(0.24, "pass"), (0.25, "pass"), (0.2501, "fail"), (0.9, "fail")]
)
def test_at_most_is_held_against_the_upper_end(high, expected):
    assert outcome([rule(at_most=0.25)], estimates=[estimate(0.2, 0.1, high)]) == expected


def test_reason_tells_a_broken_limit_from_one_not_shown_to_hold():
    wide = judge([rule(at_least=0.75)], {"estimates": [estimate(0.8, 0.7, 0.9)]}, [])
    below = judge([rule(at_least=0.75)], {"estimates": [estimate(0.7, 0.6, 0.8)]}, [])
    assert "not shown to be at least 0.75" in wide.rules[0].reason
    assert "[0.7, 0.9] (n 400)" in wide.rules[0].reason
    assert "below 0.75" in below.rules[0].reason
    assert "not shown" not in below.rules[0].reason


@pytest.mark.parametrize(
    ("better", "low", "high", "expected"),
    [
        ("higher", -0.02, 0.09, "pass"),
        ("higher", -0.04, 0.01, "fail"),
        ("higher", 0.05, 0.09, "pass"),
        ("lower", -0.09, 0.02, "pass"),
        ("lower", -0.01, 0.04, "fail"),
        ("none", -0.02, 0.02, "pass"),
        ("none", -0.04, 0.01, "fail"),
        ("none", -0.01, 0.04, "fail"),
    ],
)
def test_non_inferiority_is_one_sided_against_the_margin(better, low, high, expected):
    ledger = {
        "estimates": [estimate(0.8, 0.7, 0.9, better=better)],
        "comparisons": [change((low + high) / 2, low, high)],
    }
    verdict = judge([rule(not_worse_than="sft", margin=0.03)], ledger, [])
    assert verdict.outcome == expected


def test_a_large_p_value_is_no_proof_of_no_harm():
    ledger = {
        "estimates": [estimate(0.8, 0.7, 0.9)],
        "comparisons": [change(-0.01, -0.2, 0.18, p=0.95)],
    }
    assert judge([rule(not_worse_than="sft", margin=0.03)], ledger, []).outcome == "fail"


def test_comparison_of_other_stages_does_not_count():
    other = change(0.1, 0.05, 0.15, before="base", after="sft")
    ledger = {"estimates": [estimate(0.8, 0.7, 0.9)], "comparisons": [other]}
    verdict = judge([rule(not_worse_than="base", margin=0.03)], ledger, [])
    assert verdict.outcome == "fail"
    assert "no paired comparison of base and ppo" in verdict.rules[0].reason


@pytest.mark.parametrize(
    "ledger",
    [
        {},
        {"estimates": []},
        {"estimates": [estimate(0.9, 0.8, 1.0, stage="sft")]},
        {"estimates": [estimate(0.9, 0.8, 1.0, metric="f1")]},
        {"estimates": [estimate(None, None, None)]},
        {"estimates": [estimate(0.9, None, 1.0)]},
        {"estimates": [estimate(float("nan"), 0.8, 1.0)]},
    ],
)
def test_missing_or_unusable_numbers_fail_closed(ledger):
    verdict = judge([rule(at_least=0.1)], ledger, [])
    assert verdict.outcome == "fail"
    assert "not measured" in verdict.rules[0].reason


def test_missing_metric_names_those_that_are_stored():
    ledger = {"estimates": [estimate(0.9, 0.8, 1.0, metric="f1_macro")]}
    assert "f1_macro" in judge([rule(at_least=0.1)], ledger, []).rules[0].reason


def test_rule_without_a_limit_fails():
    ledger = {"estimates": [estimate(0.9, 0.8, 1.0)]}
    assert judge([rule()], ledger, []).rules[0].reason == "the rule states no limit"
    assert judge([rule()], ledger, []).outcome == "fail"


@pytest.mark.parametrize(("n", "expected"), [(29, "insufficient evidence"), (30, "pass")])
def test_too_few_items_are_insufficient_evidence(n, expected):
    assert outcome([rule(at_least=0.5)], estimates=[estimate(0.9, 0.8, 1.0, n=n)]) == expected


def test_too_few_items_outweigh_a_broken_limit():
    few = [estimate(0.1, 0.0, 0.2, n=10)]
    verdict = judge([rule(at_least=0.5)], {"estimates": few}, [])
    assert verdict.outcome == "insufficient evidence"
    assert "only 10 items, 30 required" in verdict.rules[0].reason


def test_conjunction_fail_before_insufficient_before_pass():
    rows = [
        estimate(0.9, 0.8, 1.0, metric="good"),
        estimate(0.9, 0.8, 1.0, metric="few", n=5),
        estimate(0.1, 0.0, 0.2, metric="bad"),
    ]
    good, few, bad = (rule(metric=name, at_least=0.5) for name in ("good", "few", "bad"))
    assert outcome([good], estimates=rows) == "pass"
    assert outcome([good, few], estimates=rows) == "insufficient evidence"
    assert outcome([bad, few, good], estimates=rows) == "fail"
    reasons = judge([bad, few, good], {"estimates": rows}, []).reasons
    assert len(reasons) == 1
    assert reasons[0].startswith("quiz bad of ppo: at least 0.5: bad 0.1 [0, 0.2]")


def test_no_rules_is_not_a_pass():
    verdict = judge([], {"estimates": [estimate(0.9, 0.8, 1.0)]}, [])
    assert verdict.outcome == "insufficient evidence"
    assert verdict.reasons == ("no requirement was declared",)


def test_bias_rule_judges_every_pair_and_no_control():
    wide_control = bias(0.5, 0.4, 0.6, control=True)
    pairs = rule(task="pairs", metric="tone/gender", at_least=-0.2, at_most=0.2)
    rows = [bias(0.0, -0.1, 0.1), wide_control, bias(0.9, 0.8, 1.0, "age")]
    assert outcome([pairs], bias=rows) == "pass"
    third = bias(0.15, 0.05, 0.25, group_b="other")
    verdict = judge([pairs], {"bias": [*rows, third]}, [])
    assert verdict.outcome == "fail"
    assert verdict.rules[0].reason.startswith("tone/gender/woman-other")
    whole = rule(task="pairs", metric="tone", at_most=0.2)
    assert outcome([whole], bias=rows) == "fail"
    one = rule(task="pairs", metric="tone/gender/woman-man", at_most=0.2)
    assert outcome([one], bias=[*rows, third]) == "pass"


def test_bias_of_either_sign_is_held_by_two_limits():
    pairs = rule(task="pairs", metric="tone/gender", at_least=-0.2, at_most=0.2)
    assert outcome([pairs], bias=[bias(-0.3, -0.4, -0.2001)]) == "fail"


def test_bias_drift_is_an_equivalence_test():
    drift = rule(task="pairs", metric="tone/gender", not_worse_than="sft", margin=0.1)
    row = bias(0, 0, 0)
    row |= {"before": "sft", "after": "ppo", "difference": -0.05, "low": -0.09, "high": -0.01}
    assert outcome([drift], bias_comparisons=[row]) == "pass"
    assert outcome([drift], bias_comparisons=[row | {"low": -0.11}]) == "fail"
    assert outcome([drift], bias_comparisons=[row | {"high": 0.11}]) == "fail"


def test_group_rule_holds_for_every_group():
    row = {"stage": "ppo", "task": "quiz", "attribute": "gender", "metric": "tpr", "n": 50}
    rows = [
        {**row, "group": "a", "value": 0.8, "low": 0.7, "high": 0.9},
        {**row, "group": "b", "value": 0.6, "low": 0.5, "high": 0.7},
    ]
    assert outcome([rule(metric="tpr/gender", at_least=0.65)], groups=rows) == "fail"
    assert outcome([rule(metric="tpr/gender/a", at_least=0.65)], groups=rows) == "pass"
    rows[0]["n"] = 20
    few = outcome([rule(metric="tpr/gender", at_least=0.1)], groups=rows)
    assert few == "insufficient evidence"


def ppo_rows(*values, key="kl/k1", per_update=64):
    return [{"episode": per_update * (i + 1.0), key: value} for i, value in enumerate(values)]


def test_ppo_rule_takes_the_last_logged_value():
    kl = rule(task="ppo", metric="kl/k1", at_most=5)
    assert outcome([kl], ppo_rows(9.0, 4.0)) == "pass"
    assert outcome([kl], ppo_rows(1.0, 6.0)) == "fail"
    assert judge([kl], {}, ppo_rows(9.0, 4.0)).rules[0].n == 64
    assert outcome([kl], ppo_rows(9.0, 4.0, per_update=20)) == "insufficient evidence"


def test_ppo_value_that_is_not_finite_at_the_end_fails():
    kl = rule(task="ppo", metric="kl/k1", at_most=5)
    assert outcome([kl], ppo_rows(1.0, None)) == "fail"
    assert outcome([kl], []) == "fail"


def test_ppo_evaluation_needs_its_number_of_prompts():
    score = rule(task="ppo", metric="eval/score", at_least=0.5)
    row = {"episode": 640.0, "eval/score": 0.7}
    assert outcome([score], [row]) == "insufficient evidence"
    assert outcome([score], [row | {"eval/n": 128.0}]) == "pass"


def test_reward_model_rules():
    audit = {
        "accuracy": {"value": 0.7, "low": 0.65, "high": 0.75, "n": 300},
        "difference": {"difference": 0.1, "low": 0.02, "high": 0.18, "p": 0.01},
        "score_std": 1.4,
        "bias": [bias(0.3, 0.2, 0.4, stage="reward")],
    }

    def judged(metric, **limits):
        return outcome([rule(task="reward_model", metric=metric, **limits)], reward_model=audit)

    assert judged("accuracy", at_least=0.6) == "pass"
    assert judged("accuracy", at_least=0.7) == "fail"
    assert judged("difference", at_least=0) == "pass"
    assert judged("difference", at_least=0.05) == "fail"
    assert judged("score_std", at_most=2) == "pass"
    assert judged("tone/gender", at_most=0.25) == "fail"
    assert judged("absent", at_most=1) == "fail"
    assert outcome([rule(task="reward_model", metric="accuracy", at_least=0)]) == "fail"


def test_p_values_by_hand_and_holm():
    keys = {"method": "Wilson, 0.95", "n": 300}
    rows = [
        estimate(0.80, 0.7509, 0.8416, metric="a", **keys),
        estimate(0.81, 0.7618, 0.8504, metric="b", **keys),
    ]
    rules = [rule(metric=name, at_least=0.75) for name in ("a", "b")]
    a, b = judge(rules, {"estimates": rows}, []).rules
    # Score test at .75: sqrt(.75 * .25 / 300) = .025; z = .05/.025 = 2 and .06/.025 = 2.4.
    assert a.p == pytest.approx(0.02275013, abs=1e-7)
    assert b.p == pytest.approx(0.00819754, abs=1e-7)
    # Holm: the smallest times 2, the next times 1.
    assert b.p_holm == pytest.approx(0.01639507, abs=1e-7)
    assert a.p_holm == pytest.approx(0.02275013, abs=1e-7)


def test_p_of_two_limits_is_the_larger():
    ledger = {"estimates": [estimate(0.80, 0.7, 0.9, n=300, method="Wilson, 0.95")]}
    (result,) = judge([rule(at_least=0.75, at_most=0.9)], ledger, []).rules
    # z = 2 below; above sqrt(.9 * .1 / 300) = .0173205, z = .1 / .0173205 = 5.8.
    assert result.p == pytest.approx(0.02275013, abs=1e-7)
    (result,) = judge([rule(at_least=0.5, at_most=0.84)], ledger, []).rules
    # Above: sqrt(.84 * .16 / 300) = .0211660, z = .04 / .0211660 = 1.88982.
    assert result.p == pytest.approx(0.0293910, abs=1e-6)


@pytest.mark.parametrize(
    ("better", "expected"),
    # t(9) = 2.262157 at an end. Middle -.01, half width .0226216: standard error .01.
    # Loss of .03 refuted by t = .02/.01 = 2; gain of .03 by t = .04/.01 = 4.
    [("higher", 0.0382764), ("lower", 0.0015552), ("none", 0.0382764)],
)
def test_p_of_a_margin_by_hand(better, expected):
    half = 2.2621571627982 * 0.01
    moved = change(-0.01, -0.01 - half, -0.01 + half, test="permutation", units=10)
    ledger = {"estimates": [estimate(0.8, 0.7, 0.9, better=better)], "comparisons": [moved]}
    (result,) = judge([rule(not_worse_than="sft", margin=0.03)], ledger, []).rules
    assert result.p == pytest.approx(expected, abs=1e-6)


def test_a_logged_number_has_no_p():
    (result,) = judge([rule(task="ppo", metric="x", at_most=5)], {}, ppo_rows(4.0, key="x")).rules
    assert (result.outcome, result.p) == ("pass", None)


def test_verdict_is_plain_json():
    ledger = {"estimates": [estimate(0.9, 0.8, 1.0)]}
    verdict = judge([rule(at_least=0.5), rule(task="ppo", metric="x", at_most=1)], ledger, [])
    stored = json.loads(json.dumps(verdict.as_json(), allow_nan=False))
    assert stored["outcome"] == "fail"
    assert [entry["outcome"] for entry in stored["rules"]] == ["pass", "fail"]
    assert stored["rules"][0]["value"] == 0.9


def test_rules_in_words():
    both = rule(at_least=0.1, at_most=0.9, not_worse_than="base", margin=0.05)
    assert describe(both) == (
        "quiz acc of ppo: at least 0.1 and at most 0.9 and not worse than base by more than 0.05"
    )
    assert describe(rule(task="ppo", metric="kl/k1", at_most=8)) == "ppo kl/k1: at most 8"
