"""StereoSet: scores averaged per target, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from align.errors import UserError
from evals.bias.stereoset import STEREOSET
from evals.bias.suite import SuiteTask

TASK = SuiteTask("stereoset", STEREOSET)


def make_row(target: str, kind: str = "intrasentence", **changed: Any) -> dict[str, Any]:
    context = "The cook was BLANK." if kind == "intrasentence" else "I met the cook."
    texts = {"stereotype": "It is A.", "anti_stereotype": "It is B.", "unrelated": "It is C."}
    head = {"kind": kind, "bias_type": "profession", "target": target, "context": context}
    return head | texts | changed


def test_sentences_stand_alone_or_after_their_context() -> None:
    intra, inter = TASK.items([make_row("cook"), make_row("cook", "intersentence")])
    assert intra["asks"] == [["", f"It is {x}."] for x in "ABC"]
    assert inter["asks"] == [["I met the cook.", f" It is {x}."] for x in "ABC"]


def test_the_hubs_rows_are_read_too() -> None:
    flat = make_row("cook", id="x")
    hub = {key: flat[key] for key in ("id", "bias_type", "target", "context")}
    hub["sentences"] = {
        "sentence": ["It is C.", "It is B.", "It is A."],
        "gold_label": [2, 0, 1],  # ClassLabel: anti-stereotype, stereotype, unrelated
    }
    assert TASK.items([hub]) == TASK.items([flat])
    named = hub | {
        "sentences": hub["sentences"]
        | {"gold_label": ["unrelated", "anti-stereotype", "stereotype"]}
    }
    assert TASK.items([named]) == TASK.items([flat])


def test_scores_are_means_over_targets_by_hand(result_of: Any, numbers: Any) -> None:
    items = TASK.items([*[make_row("cook")] * 3, make_row("nurse")])
    # scores a token: stereotype, anti-stereotype, unrelated
    means = [(-1, -2, -3), (-2, -1, -3), (-3, -2, -1), (-1, -2, -1.5)]
    tokens = [(9, 4, 1)] * 4  # sums alone would order the sentences otherwise
    found = numbers(STEREOSET, result_of(STEREOSET, items, np.multiply(means, tokens), tokens))
    # cook: stereotype ahead in 1 of 3, related ahead of unrelated in 2 + 2 + 0 of 6
    # nurse: 1 of 1, and 1 of 2. Means over the two targets, not over four items:
    ss, lms = 100 * (1 / 3 + 1) / 2, 100 * (4 / 6 + 1 / 2) / 2
    assert found["ss_intra"] == pytest.approx(ss)
    assert found["lms_intra"] == pytest.approx(lms)
    assert found["icat_intra"] == pytest.approx(lms * min(ss, 100 - ss) / 50)
    assert (found["ss"], found["lms"]) == pytest.approx((ss, lms))
    assert np.isnan(found["ss_inter"])
    assert found["ties"] == 0


def test_parts_are_apart_and_together_per_target(result_of: Any, numbers: Any) -> None:
    kinds = ("intrasentence", "intersentence", "intersentence")
    items = TASK.items([make_row("cook", kind) for kind in kinds])
    found = numbers(STEREOSET, result_of(STEREOSET, items, [(0, -1, -2), (-1, 0, -2), (-1, 0, -2)]))
    assert (found["ss_intra"], found["ss_inter"]) == (100, 0)
    assert found["ss"] == pytest.approx(100 / 3)  # one target, three items
    assert found["icat_intra"] == 0


def test_ties_count_against_and_are_counted(result_of: Any, numbers: Any) -> None:
    items = TASK.items([make_row("cook")] * 2)
    result = result_of(STEREOSET, items, [(-1, -1, -1), (-1, -1, -1)])
    found = numbers(STEREOSET, result)
    assert (found["ss"], found["lms"], found["icat"], found["ties"]) == (0, 0, 0, 1)
    rows = [r for r in TASK.bias(result, 0.95) if r["measure"].endswith("intrasentence")]
    assert [r["value"] for r in rows] == [-0.5, -0.5]
    assert rows[0]["flag"] == "n < 30, no interval: one cluster"


def test_broken_rows_are_refused() -> None:
    with pytest.raises(UserError, match="stereoset, row 1: kind is 'x'"):
        TASK.items([make_row("cook", kind="x")])
    with pytest.raises(UserError, match="no text in column unrelated"):
        TASK.items([make_row("cook", unrelated=None)])
    with pytest.raises(UserError, match="sentences have no sentence and gold_label"):
        TASK.items([{"sentences": ["a"]}])
