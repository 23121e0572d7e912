"""The audit on templates with rules whose every effect is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from align.errors import UserError
from evals.bias.template_terms import ATTRIBUTES
from evals.stats import Resampling
from reward.audit import Sampling, audit_templates

FEW = Resampling(resamples=200)
BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}
SOME = Sampling(6, 1, tuple(BY_NAME[name] for name in ("religion", "disability", "colour")))


def reward(score: Callable[[str, str], Any]) -> Callable[..., list[Any]]:
    """A rule on prompt and response as a reward function."""

    def function(prompts: Sequence[Any], completions: Sequence[str], **_: Any) -> list[Any]:
        pairs = zip(prompts, completions, strict=True)
        return [score(prompt[0]["content"], response) for prompt, response in pairs]

    return function


def value(rows: Sequence[Any], measure: str, group: str) -> float:
    (row,) = [r for r in rows if (r["measure"], r["group_a"]) == (measure, group)]
    return float(row["value"])


def test_a_planted_offset_is_found_at_its_size_and_only_where_it_is() -> None:
    def score(prompt: str, response: str) -> float:
        decent = "patient" in response
        return 2.0 * decent + 0.8 * ("Muslim" in prompt) - 0.3 * ("Muslim" in response)

    found = audit_templates(reward(score), 4.0, SOME, FEW)
    for row in found["bias"]:
        size = {"in prompt:score": 0.8, "in response:score": -0.3}.get(row["measure"], 0.0)
        expected = size / 4 if row["group_a"] == "muslim" else 0.0
        assert row["value"] == pytest.approx(expected, abs=1e-12)
        assert row["unit"] == "sd of scores"
    assert found["spread"] == 4.0
    assert (found["items"], found["missing"]) == (2 * 6 * (5 + 4 + 1), 0)
    top = found["cases"][0]
    assert (top["group_a"], top["difference"]) == ("muslim", pytest.approx(0.2))


def test_a_preference_that_turns_with_the_group() -> None:
    def score(prompt: str, response: str) -> float:
        good = response.startswith(("Sit", "Send a", "Thank you", "Talk", "Quite", "Ask about s"))
        sign = -1.0 if "Jew" in prompt else 0.0 if "Hindu" in prompt else 1.0
        return sign * good

    found = audit_templates(reward(score), 1.0, SOME, FEW)
    shares = {r["group_a"]: r["value"] for r in found["flips"] if r["measure"] == "in prompt"}
    contrast = value(found["bias"], "in prompt", "jewish")
    # where an answer is told apart (contrast -1 - 1), all turn; a tie on one side counts half
    assert contrast == pytest.approx(-2 * shares["jewish"])
    assert shares["jewish"] > 0
    assert shares["hindu"] == pytest.approx(shares["jewish"] / 2)
    assert shares["muslim"] == shares["blind"] == shares["colour"] == 0


def test_prefixes_by_hand() -> None:
    def score(prompt: str, response: str) -> float:
        told, about = "I am" in prompt and "Muslim" in prompt, "Muslim" in response
        return 1.0 * about + 2.0 * told + 4.0 * (told and about) + 9.0 * ("I am" in prompt)

    found = audit_templates(reward(score), 1.0, SOME, FEW)["prefixes"]
    # auto: 9 + 2 + 4 for a Muslim's own prefix, 9 for a Christian's; cross: 9 + 2 and 9
    assert value(found, "prefix:auto", "muslim") == pytest.approx(6.0)
    assert value(found, "prefix:cross", "muslim") == pytest.approx(2.0)
    assert value(found, "prefix:auto", "jewish") == value(found, "prefix:cross", "blind") == 0.0
    pronouns = Sampling(4, 0, (BY_NAME["pronoun"],))
    assert audit_templates(reward(score), 1.0, pronouns, FEW)["prefixes"] == []


def test_a_score_of_length_alone_has_no_group_effect_at_equal_length() -> None:
    found = audit_templates(
        reward(lambda prompt, response: 0.3 * len(f"{prompt} {response}".split())), 1.0, SOME, FEW
    )
    assert [row["value"] for row in found["length"]] == pytest.approx([3.0, 3.0])
    assert {row["unit"] for row in found["length"]} == {"sd per 10 words"}
    assert max(abs(row["value"]) for row in found["bias"]) > 0.1
    assert [row["value"] for row in found["fixed_length"]] == pytest.approx([0] * 20, abs=1e-9)
    assert {row["measure"] for row in found["fixed_length"]} == {
        "in prompt:length fixed",
        "in response:length fixed",
    }


def noise(prompt: str, response: str) -> float:
    """Something without a pattern."""
    return float(np.sin(sum(ord(c) * (i + 1) for i, c in enumerate(prompt + response))))


def test_q_is_adjusted_over_all_rows_but_the_controls() -> None:
    found = audit_templates(reward(noise), 1.0, SOME, FEW)
    for table in ("bias", "prefixes", "fixed_length"):
        rows = [row for row in found[table] if not row["control"]]
        expected = false_discovery_control([row["p"] for row in rows])
        assert [row["q"] for row in rows] == pytest.approx(expected)
        assert all("q" not in row for row in found[table] if row["control"])
    assert {row["attribute"] for row in found["bias"] if row["control"]} == {"colour"}


def test_the_unit_is_the_templates_own_spread_where_no_other_is_known() -> None:
    wide = audit_templates(reward(noise), None, SOME, FEW)
    tenfold = audit_templates(reward(lambda p, r: 10 * noise(p, r)), None, SOME, FEW)
    assert wide["template_spread"] == pytest.approx(1.0)
    assert tenfold["spread"] == pytest.approx(10 * wide["spread"])
    for one, other in zip(wide["bias"], tenfold["bias"], strict=True):
        assert one["value"] == pytest.approx(other["value"])


def test_items_without_a_score_are_missing_and_nothing_to_score_is_an_error() -> None:
    def partly(prompt: str, response: str) -> float | None:
        return None if "Sikh" in prompt + response or "blind" in prompt else noise(prompt, response)

    found = audit_templates(reward(partly), 1.0, SOME, FEW)
    assert found["missing"] > 0
    assert found["missing"] + found["items"] == 120
    lost = [r for r in found["bias"] if (r["measure"], r["group_a"]) == ("in prompt", "blind")]
    assert not lost or lost[0]["n"] < 6
    with pytest.raises(UserError, match="every score is missing"):
        audit_templates(reward(lambda p, r: None), None, SOME, FEW)
    with pytest.raises(UserError, match="all scores are equal"):
        audit_templates(reward(lambda p, r: 1.0), None, SOME, FEW)
    ties = audit_templates(reward(lambda p, r: 1.0), 2.0, SOME, FEW)
    assert {(row["value"], row["low"], row["high"]) for row in ties["bias"]} == {(0.0, 0.0, 0.0)}
    assert {row["p"] for row in ties["bias"]} == {1.0}
    assert {row["value"] for row in ties["flips"]} == {0.0}
