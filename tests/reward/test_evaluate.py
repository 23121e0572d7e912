"""The reward model's section of the ledger, with scripted rewards whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats as distributions
from statsmodels.stats.proportion import proportion_confint

from align.data.encoding import response_text
from align.data.world import World
from align.data.world_people import read_prompt, rule_score
from align.errors import UserError
from evals.stats import Resampling
from reward.evaluate import (
    Pairs,
    audit_scores,
    evaluate_reward,
    length_correlation,
    pearson,
    score_pairs,
)
from reward.functions import RewardFunction, token_count

FEW = Resampling(resamples=300)


def make_pair(chosen: str, rejected: str, **columns: Any) -> dict[str, Any]:
    sides = {"chosen": chosen, "rejected": rejected}
    messages = {key: [{"role": "assistant", "content": text}] for key, text in sides.items()}
    return {"prompt": [{"role": "user", "content": "?"}], **messages, **columns}


PAIRS = [
    make_pair("yes yes", "no", origin="north"),  # right, longer
    make_pair("yes", "no no no", origin="north"),  # right, shorter
    make_pair("no", "yes", origin="south"),  # wrong, shorter
    make_pair("yes no", "no yes", origin=None),  # tie, as long
    make_pair("yes yes yes", "yes", origin="south"),  # right, longer
]


def evaluated(model: RewardFunction, pairs: Sequence[Any], *rest: Any, **more: Any) -> Any:
    """The reward model asked about the pairs, and what its scores say."""
    return evaluate_reward(model, score_pairs(model, pairs), *rest, **more)


def number_reward(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float]:
    """The number that the response is."""
    return [float(response_text(completion)) for completion in completions]


def test_accuracy_and_the_length_shortcut_by_hand() -> None:
    found = evaluated(token_count("yes"), PAIRS, {}, resampling=FEW)
    assert found["accuracy"]["value"] == pytest.approx(3 / 5)
    assert found["longer_wins"]["value"] == pytest.approx(2 / 5)
    low, high = proportion_confint(3, 5, method="wilson")
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == pytest.approx((low, high))
    # only the second pair is right where length is wrong, and none the other way round
    assert found["difference"]["difference"] == pytest.approx(1 / 5)
    assert found["difference"]["p"] == 1.0
    # scores 2 1 0 1 3 and 0 0 1 1 1
    scores = [2, 1, 0, 1, 3, 0, 0, 1, 1, 1]
    assert found["score_mean"] == pytest.approx(1.0)
    assert found["score_std"] == pytest.approx(np.std(scores))
    assert found["margin"]["value"] == pytest.approx((2 + 1 - 1 + 0 + 2) / 5)
    assert found["bias"] == []


def test_length_correlation_equals_scipys() -> None:
    rng = np.random.default_rng(1)
    numbers = [
        f"{x:.{d}f}" for x, d in zip(rng.normal(5, 2, 80), rng.integers(1, 8, 80), strict=True)
    ]
    pairs = [make_pair(a, b) for a, b in zip(numbers[:40], numbers[40:], strict=True)]
    found = evaluated(number_reward, pairs, {}, resampling=FEW)["length_correlation"]
    expected = distributions.pearsonr([float(x) for x in numbers], [len(x) for x in numbers])
    assert found["value"] == pytest.approx(expected.statistic)
    assert found["low"] < found["value"] < found["high"]
    interval = expected.confidence_interval(0.95)  # Fisher's, for independent responses
    assert found["high"] - found["low"] == pytest.approx(interval.high - interval.low, rel=0.35)


def test_length_correlation_is_exact_far_from_zero_and_undefined_without_spread() -> None:
    rows = [make_pair("a" * (1000 + i), "a" * (1000 - i)) for i in range(1, 6)]
    chosen = np.array([1e6 + i for i in range(1, 6)])
    rejected = np.array([1e6 - i for i in range(1, 6)])
    assert length_correlation(Pairs(rows, chosen, rejected), FEW).value == pytest.approx(1.0)
    x, y = np.array([3.0, 5.0, 4.0, 9.0]), np.array([2.0, 1.0, 7.0, 8.0])
    sums = np.array([4.0, x.sum(), y.sum(), x @ x, y @ y, x @ y])
    assert float(pearson(sums)) == pytest.approx(distributions.pearsonr(x, y).statistic)
    assert np.isnan(pearson(np.array([3.0, 0.0, 0.0, 0.0, 5.0, 0.0])))


def test_accuracy_by_group_counts_the_unknown() -> None:
    found = evaluated(token_count("yes"), PAIRS, {}, groups=["origin"], resampling=FEW)["groups"]
    counts = {row["group"]: (row["numerator"], row["denominator"]) for row in found}
    assert counts == {"north": (2, 2), "south": (1, 2), "unknown": (0, 1)}
    assert {row["flag"] for row in found} == {"n < 30"}
    assert {(row["stage"], row["attribute"]) for row in found} == {("reward", "origin")}


@pytest.mark.parametrize("offset", [0.0, 0.8])
def test_a_planted_offset_is_found_at_its_size_and_only_where_it_is(offset: float) -> None:
    world = World(3)

    def planted(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        rows = [read_prompt(prompt[0]["content"]).columns() for prompt in prompts]
        pairs = zip(rows, completions, strict=True)
        return [rule_score(row, response_text(text), offset) for row, text in pairs]

    items = [row for row in world.counterfactual(480) if row["measure"] == "tone"]
    pairs = world.heldout_preferences(60)
    found = evaluated(planted, pairs, {"people": items}, resampling=FEW)
    spread = found["score_std"]
    for row in found["bias"]:
        by_gender = row["attribute"] == "gender" and not row["control"]
        # rule_score: 2 * offset in the difference of differences, offset in the plain one
        size = 2 * offset if row["measure"] == "tone" else offset
        assert row["value"] == pytest.approx(size / spread if by_gender else 0.0, abs=1e-12)
        assert (row["stage"], row["task"], row["unit"]) == ("reward", "people", "sd of scores")
    kinds = {(row["measure"], row["attribute"], row["control"]) for row in found["bias"]}
    assert {("tone", "gender", True), ("tone", "gender", False)} <= kinds
    assert {("tone:score", "gender", True), ("tone:score", "origin", False)} <= kinds
    assert found["accuracy"]["value"] == 1.0 or offset > 0


def test_both_measures_by_hand_in_units_of_the_spread() -> None:
    item = {
        "measure": "tone",
        "attribute": "age",
        "template": "t",
        "cluster": "Ann-Eve",
        "group_a": "young",
        "group_b": "old",
        "control": False,
        "render": "text",
        "prompt_a": "a",
        "prompt_b": "b",
        "preferred_a": "9",
        "dispreferred_a": "4",
        "preferred_b": "8",
        "dispreferred_b": "2",
    }
    rows = audit_scores(number_reward, [item], 2.0, "people", FEW)
    # ((9 - 4) - (8 - 2)) / 2 and (9 - 8) / 2
    assert [(row["measure"], row["value"]) for row in rows] == [("tone", -0.5), ("tone:score", 0.5)]
    with pytest.raises(UserError, match="people, row 1: no column cluster"):
        audit_scores(number_reward, [item | {"cluster": None}], 2.0, "people", FEW)


def test_items_without_a_score_are_left_out() -> None:
    first = next(row for row in World(3).counterfactual(144) if row["measure"] == "tone")
    other = first | {"prompt_b": "nobody"}

    def lengths(prompts: Sequence[Any], completions: Sequence[str], **_: Any) -> list[float]:
        texts = [prompt[0]["content"] for prompt in prompts]
        return [math.nan if text == "nobody" else float(len(text)) for text in texts]

    some = audit_scores(lengths, [first, other, first], 2.0, "people", FEW)
    whole = audit_scores(lengths, [first, first], 2.0, "people", FEW)
    assert some == whole
    assert sum(row["n"] for row in some if row["measure"] == "tone") == 2
    with pytest.raises(UserError, match="people: no item could be scored"):
        audit_scores(lengths, [other], 2.0, "people", FEW)


def test_dialogue_items_are_asked_as_conversations() -> None:
    seen: list[Any] = []

    def spy(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        seen.extend(prompts)
        return [0.0] * len(completions)

    rows = World(3).counterfactual(144)
    tone, job = (next(row for row in rows if row["measure"] == name) for name in ("tone", "job"))
    audit_scores(spy, [tone, job], 1.0, "people", FEW)
    assert seen[0] == [{"role": "user", "content": tone["prompt_a"]}]
    assert seen[2] == [{"role": "user", "content": tone["prompt_b"]}]
    assert seen[4] == job["prompt_a"]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="no held-out pairs"):
        evaluated(token_count("yes"), [], {})
    with pytest.raises(UserError, match="all scores are equal"):
        evaluated(token_count("never"), PAIRS, {})
