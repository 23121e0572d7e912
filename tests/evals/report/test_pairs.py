"""Tables and drawings of judged pairs hold the numbers they are made from."""

import numpy as np
import pytest

from evals.report.pairs import agreement_table, pair_blocks, pair_tables
from evals.stats import Resampling
from reward.agreement import agreement
from reward.evaluate import Pairs
from reward.quality import quality

RNG = np.random.default_rng(1)
ROWS = [
    {
        "prompt": "?",
        "chosen": "a" * int(RNG.integers(1, 9)),
        "rejected": "b" * int(RNG.integers(1, 9)),
        "subset": "odd" if index % 2 else "even",
    }
    for index in range(80)
]
MARGINS = RNG.normal(1.0, 1.0, 80)
FOUND = quality(Pairs(ROWS, MARGINS, np.zeros(80)), ["subset"], Resampling(resamples=100))
SETS = {"mine": FOUND | {"checks": {"order": 0.0, "swapped": 0.0, "repeated": 0.5, "alone": 1e-7}}}


def test_accuracy_calibration_and_checks_are_tabled() -> None:
    accuracy, calibration, checks = pair_tables(SETS)
    assert [row.cells[0].text for row in accuracy.rows] == [
        "mine", "mine, subset even", "mine, subset odd",
    ]  # fmt: skip
    share = float((MARGINS > 0).mean())
    assert accuracy.rows[0].cells[2].value == pytest.approx(share)
    assert accuracy.rows[0].cells[2].flags == ("above chance",)
    assert accuracy.rows[0].cells[4].value == pytest.approx(share - FOUND["longer_wins"]["value"])
    assert (
        "q = " in accuracy.rows[1].cells[4].notes[1] or "q <" in accuracy.rows[1].cells[4].notes[1]
    )
    assert calibration.rows[0].cells[1].value == FOUND["calibration"]["ece"]["value"]
    # a repeated pair that moves a score is a fault; the last digits of a padded row are none
    assert checks.rows[0].cells[4].value == 0.5
    assert checks.rows[0].cells[4].flags == ("not 0",)
    assert checks.rows[0].cells[5].flags == ()


def test_no_change_is_a_plain_0() -> None:
    clean = {"mine": FOUND | {"checks": {"order": 0.0, "swapped": 0.0, "repeated": 0.0}}}
    cell = pair_tables(clean)[2].rows[0].cells[4]
    assert (cell.text, cell.flags) == ("0", ())


def test_drawings_say_what_they_show() -> None:
    figures = pair_blocks(SETS)[-1]
    reliability, margins = figures.figures
    wrong = int((MARGINS < 0).sum())
    assert f"{wrong} of them below 0" in margins.description
    assert f"of {FOUND['calibration']['bins'][0]['n']}" in reliability.description
    assert reliability.svg.startswith("<svg viewBox")
    assert pair_blocks({}) == []


def test_agreement_is_tabled() -> None:
    found = agreement(MARGINS, MARGINS + RNG.normal(size=80), Resampling(resamples=100))
    table = agreement_table([{"task": "mine", "before": "one", "after": "two", **found}])
    (row,) = table.rows
    assert row.cells[0].text == "mine: one, two"
    values = [found[key]["value"] for key in ("share", "kappa", "correlation")]
    assert [cell.value for cell in row.cells[2:]] == values
