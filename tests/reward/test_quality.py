"""What a set of scored pairs says, by hand; and checks that must find what they look for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats as distributions

from align.data.encoding import response_text
from evals.multiplicity import benjamini_hochberg
from evals.stats import Resampling
from reward.evaluate import Pairs
from reward.quality import checks, histogram, p_of_chance, quality

FEW = Resampling(resamples=200)


def make_pair(chosen: str, rejected: str, **columns: Any) -> dict[str, Any]:
    sides = {"chosen": chosen, "rejected": rejected}
    messages = {key: [{"role": "assistant", "content": text}] for key, text in sides.items()}
    return {"prompt": [{"role": "user", "content": "?"}], **messages, **columns}


ROWS = [
    make_pair("aa", "a", subset="one"),  # right, longer
    make_pair("a", "aa", subset="one"),  # right, shorter
    make_pair("aa", "a", subset="two"),  # wrong, longer
    make_pair("aaa", "b", subset="two"),  # tie, longer
    make_pair("aaa", "b", subset=None),  # right, longer
]
PAIRS = Pairs(ROWS, np.array([2.0, 1.0, 0.0, 3.0, 5.0]), np.array([1.0, 0.5, 2.0, 3.0, 1.0]))


def test_numbers_of_a_set_by_hand() -> None:
    found = quality(PAIRS, ["subset", "nowhere"], FEW)
    assert found["n"] == 5
    assert found["accuracy"]["value"] == pytest.approx(3 / 5)
    assert found["ties"]["value"] == pytest.approx(1 / 5)
    assert found["margin"]["value"] == pytest.approx((1 + 0.5 - 2 + 0 + 4) / 5)
    # one pair won against the length rule (the second), two lost (the third and the tie)
    assert found["difference"]["difference"] == pytest.approx(-1 / 5)
    assert found["difference"]["p"] == 1.0
    expected = distributions.binomtest(3, 5, 0.5).pvalue
    assert found["p_chance"] == p_of_chance(PAIRS.correct()) == pytest.approx(expected)


def test_subsets_count_the_unknown_and_share_one_adjustment() -> None:
    found = quality(PAIRS, ["subset", "nowhere"], FEW)["subsets"]
    rights = {row["group"]: (row["accuracy"]["value"], row["n"]) for row in found}
    assert rights == {"one": (1.0, 2), "two": (0.0, 2), "unknown": (1.0, 1)}
    assert {row["column"] for row in found} == {"subset"}
    assert {row["flag"] for row in found} == {"n < 30"}
    assert found[0]["longer_wins"]["value"] == 0.5
    assert found[0]["difference"]["difference"] == 0.5
    assert [row["q"] for row in found] == benjamini_hochberg(
        [row["difference"]["p"] for row in found]
    )
    assert quality(PAIRS, [], FEW)["subsets"] == []


def test_the_histogram_holds_every_margin_and_has_an_edge_at_0() -> None:
    margins = np.array([-1.0, -0.01, 0.0, 0.01, 3.0, 3.0])
    found = histogram(margins)
    edges, counts = np.array(found["edges"]), np.array(found["counts"])
    assert counts.sum() == 6
    assert np.isclose(edges, 0).any()
    assert counts[edges[:-1] < -1e-9].sum() == 2
    assert np.diff(edges) == pytest.approx(6 / 24)
    assert sum(histogram(np.zeros(3))["counts"]) == 3


def steady(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    return [float(len(response_text(text))) for text in completions]


def by_place(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    return [steady([], [text])[0] + 0.25 * i for i, text in enumerate(completions)]


def by_company(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    return [score + len(completions) / 8 for score in steady(prompts, completions)]


def test_a_score_that_depends_on_its_company_is_found() -> None:
    spread = float(np.std([2, 1, 2, 3, 3, 1, 2, 1, 1, 1]))
    assert checks(steady, ROWS) == {
        "pairs": 5, "order": 0.0, "swapped": 0.0, "repeated": 0.0, "alone": 0.0,
    }  # fmt: skip
    # Ten responses: chosen 0 to 4, rejected 5 to 9. Reversed, a pair moves by at most 4 places;
    # swapped, by 5; with three pairs before and three behind, a chosen moves by 3 and a rejected
    # by 3 + 6; alone, the last one moves by 8, from place 9 to 1.
    moved = checks(by_place, ROWS)
    wide = spread_of(by_place)
    assert moved["order"] == pytest.approx(0.25 * 4 / wide)
    assert moved["swapped"] == pytest.approx(0.25 * 5 / wide)
    assert moved["repeated"] == pytest.approx(0.25 * 9 / wide)
    assert moved["alone"] == pytest.approx(0.25 * 8 / wide)
    company = checks(by_company, ROWS)
    assert (company["order"], company["swapped"]) == (0.0, 0.0)
    # 22 instead of 10 responses, and 2
    assert company["repeated"] == pytest.approx(12 / 8 / spread)
    assert company["alone"] == pytest.approx(8 / 8 / spread)


def spread_of(function: Any) -> float:
    responses = [row[side] for side in ("chosen", "rejected") for row in ROWS]
    return float(np.std(function([], responses)))


def test_at_most_8_pairs_are_scored_again() -> None:
    assert checks(steady, ROWS * 10)["pairs"] == 8
    assert checks(steady, ROWS[:1])["order"] == 0.0
