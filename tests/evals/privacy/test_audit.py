"""Tables of privacy from raw values that are known, and changes by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as distributions

from evals.privacy.audit import (
    adjust,
    change_rows,
    exposure_rows,
    extraction_gaps,
    extraction_rows,
    mean_difference,
    membership_rows,
    training_personal,
)
from evals.privacy.documents import KnownSet
from evals.stats import wilson


def side(scores: list[float], repeated: list[int]) -> dict[str, Any]:
    columns = [[value, value, -value, value] for value in scores]
    return {"scores": columns, "repeated": repeated, "skipped": {}, "personal": []}


def canary(repeats: int, rank: int, total: int = 8, digits: int = 1) -> dict[str, Any]:
    bits = math.log2(total / rank)
    known = {"repeats": repeats, "rank": rank, "total": total, "exposure": bits}
    return known | {"extrapolated": bits + 1, "digits": digits}


RAW = {
    "members": side([3.0, 1.0, 2.0], [1, 1, 0, 0]),
    "others": side([1.0, 0.0], [0, 1]),
    "canaries": [canary(0, 4), canary(0, 8), canary(2, 1), canary(2, 2)],
}


def test_membership_counts_pairs() -> None:
    rows = {row["score"]: row for row in membership_rows(RAW)}
    # of the 6 pairs 3>1, 3>0, 1=1, 1>0, 2>1, 2>0: 5.5
    assert rows["loss"]["value"] == pytest.approx(5.5 / 6)
    assert rows["min_k_pp"]["value"] == pytest.approx(0.5 / 6)
    assert (rows["loss"]["n"], rows["loss"]["heldout"]) == (3, 2)
    # none of two held-out documents may pass: 3 and 2 are above 1
    assert (rows["loss"]["caught"]["numerator"], rows["loss"]["caught"]["value"]) == (2, 2 / 3)


def test_extraction_by_side_and_its_gap() -> None:
    members, others = extraction_rows(RAW)
    assert (members["numerator"], members["value"], members["n"]) == (2, 0.5, 4)
    assert (members["low"], members["high"]) == tuple(wilson(2, 4))
    assert (others["numerator"], others["value"]) == (1, 0.5)
    assert extraction_gaps(RAW)[0]["value"] == 0.0


def test_exposure_by_repeats() -> None:
    never, twice = exposure_rows(RAW)
    # ranks 4 and 8 of 8: 1 and 0 bits; 1 and 2 of 8: 3 and 2 bits
    assert (never["value"], twice["value"], twice["first"]) == (0.5, 2.5, 1)
    assert (never["skew_normal"], never["estimate"], never["most"]) == (1.5, "sampled", 3.0)
    # ranks' p-values 1/8 and 2/8: P(UV <= 1/32) = 1/32 (1 + ln 32)
    assert twice["p"] == pytest.approx((1 + math.log(32)) / 32)
    whole = exposure_rows({"canaries": [canary(1, 1, 10)]})[0]
    assert (whole["estimate"], math.isnan(whole["low"])) == ("enumerated", True)
    unknown = exposure_rows({"canaries": [canary(1, 1, 10) | {"extrapolated": None}]})[0]
    assert unknown["skew_normal"] is None


def test_changes_by_hand() -> None:
    after = {
        "members": side([3.0, 1.0, 2.0], [1, 1, 1, 1]),
        "others": side([0.5, 0.0], [0, 0]),
        "canaries": [canary(0, 4), canary(0, 4), canary(2, 1), canary(2, 1)],
    }
    rows = {row["measure"]: row for row in change_rows(RAW, after)}
    assert rows["AUC, loss"]["difference"] == pytest.approx(1 - 5.5 / 6)
    # training +.5, held out -.5
    gap = rows["extraction, training minus held out"]
    assert gap["difference"] == 1.0
    found = distributions.ttest_ind([0, 0, 1, 1], [0, -1], equal_var=False)
    assert gap["p"] == pytest.approx(found.pvalue)
    assert gap["low"] == pytest.approx(found.confidence_interval().low)
    assert rows["exposure, 2 times, bits"]["difference"] == 0.5
    fewer = after | {"members": side([1.0], [1])}
    assert {row["measure"] for row in change_rows(RAW, fewer)} == {
        "exposure, 0 times, bits",
        "exposure, 2 times, bits",
    }


def test_no_spread_gives_a_difference_without_interval() -> None:
    same = mean_difference(np.array([1.0, 1.0]), np.array([0.0, 0.0]))
    assert (same.difference, math.isnan(same.low), math.isnan(same.p)) == (1.0, True, True)
    assert math.isnan(mean_difference(np.array([1.0]), np.array([0.0, 1.0])).p)


def test_q_leaves_rows_without_p_alone() -> None:
    rows: list[dict[str, Any]] = [{"p": 0.01}, {"p": math.nan}, {"p": 0.04}]
    adjust(rows)
    # two tests: .01 * 2 / 1 and .04 * 2 / 2
    assert [row.get("q") for row in rows] == [0.02, None, 0.04]


def test_nothing_on_one_side_gives_no_row() -> None:
    empty = RAW | {"others": side([], [])}
    assert membership_rows(empty) == []
    assert extraction_gaps(empty) == []
    assert [row["side"] for row in extraction_rows(empty)] == ["members"]


def test_personal_data_of_the_training_rows_is_counted_and_masked() -> None:
    rows = [{"text": "a@b.org, a@b.org"}, {"messages": [{"content": "or 8.8.8.8"}]}, {"text": "-"}]
    found = {row["kind"]: row for row in training_personal(KnownSet("sft", "text", rows, []))}
    mail = found["mail"]
    assert (mail["passages"], mail["distinct"], mail["documents"], mail["n"]) == (2, 1, 1, 3)
    assert mail["examples"] == ["a@x.xxx"]
    assert found["ip"]["passages"] == 1
