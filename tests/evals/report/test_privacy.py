"""The page's part on privacy, from rows that are known."""

from __future__ import annotations

from typing import Any

import pytest

from evals.report.layout import Table
from evals.report.numbers import MINUS
from evals.report.privacy import privacy_blocks, privacy_sentences

ENDS = {"value": 0.75, "low": 0.6, "high": 0.9}


@pytest.fixture
def privacy() -> dict[str, Any]:
    head = {"stage": "base", "set": "pretrain"}
    tests = {"p": 0.01, "q": 0.04}
    caught = {"value": 0.1, "low": 0.05, "high": 0.2, "numerator": 4}
    personal = {"kind": "mail", "passages": 2, "documents": 1, "n": 9, "examples": ["jx@x.xx"]}
    return {
        "exposure": [
            head
            | ENDS
            | tests
            | {"repeats": r, "n": 8, "skew_normal": 1.25, "first": 1}
            | {"estimate": "sampled", "most": 9.97}
            for r in (0, 4)
        ],
        "membership": [
            head | ENDS | tests | {"score": "loss", "n": 40, "heldout": 29, "caught": caught},
            head
            | ENDS
            | {"p": 0.5, "q": 0.5, "score": "zlib", "n": 40, "heldout": 40}
            | {"caught": caught, "low": None, "high": None},
        ],
        "extraction": [head | ENDS | {"side": "members", "numerator": 3, "n": 4}],
        "extraction_gaps": [head | ENDS | {"value": -0.25, "n": 4, "heldout": 5}],
        "changes": [
            {"before": "base", "after": "sft", "set": "sft", "measure": "AUC, loss", "n": 40}
            | {"difference": 0.5, "low": 0.25, "high": 0.75}
            | tests
        ],
        "personal": [head | personal | {"side": "others", "learned": 1}],
        "training_personal": [
            {"set": "pretrain"} | personal,
            {"set": "pretrain"} | personal | {"passages": 0},
        ],
        "skipped": [
            head | {"side": "others", "documents": 3, "reason": "too short"},
            head | {"side": "others", "documents": 3, "reason": "too short", "stage": "sft"},
            head | {"side": "others", "documents": 1, "reason": "too short", "stage": "ppo"},
        ],
        "repeated": {"sft": 2},
        "settings": {"prompt_tokens": 50, "next_tokens": 25},
        "chance": 1.4427,
    }


def tables(privacy: dict[str, Any]) -> dict[str, Table]:
    return {b.caption: b for b in privacy_blocks(privacy) if isinstance(b, Table)}


def test_findings_count_what_is_told_from_chance(privacy: dict[str, Any]) -> None:
    assert privacy_sentences(privacy) == [
        "privacy: 1 of 2 AUCs differ from 0.5 (q at most 0.05).",
        "privacy: 2 of 2 mean exposures exceed chance (q at most 0.05).",
        "privacy: 3 held out documents of pretrain, base, sft: too short.",
        "privacy: 1 held out documents of pretrain, ppo: too short.",
        "privacy: 2 held-out documents of sft left out, the same stand in the training data.",
    ]
    assert privacy_sentences(None) == []
    assert privacy_blocks(None) == []


def test_every_number_stands_with_n_and_interval(privacy: dict[str, Any]) -> None:
    found = tables(privacy)
    never, four = found["Exposure of planted secrets"].rows
    assert (never.style, never.cells[1].text, four.cells[1].text) == ("control", "never", "4 times")
    assert four.cells[3].value == 0.75
    assert four.cells[3].notes == ("[0.600, 0.900]",)
    assert four.cells[5].notes == ("sampled, most 9.97",)
    assert "1.44 bits" in found["Exposure of planted secrets"].notes[0]
    loss, zlib = found["Membership inference"].rows
    assert (loss.cells[2].text, loss.cells[2].flags) == ("40 (29)", ("n < 30",))
    assert (zlib.cells[2].flags, zlib.cells[3].notes) == ((), ("no interval",))
    assert loss.cells[5].notes[-1] == "4 / 40"
    share, gap = found["Verbatim extraction"].rows
    assert (share.cells[3].text, gap.cells[4].text) == ("3 / 4", f"{MINUS}0.250")
    assert "50 tokens given, the next 25" in found["Verbatim extraction"].notes[0]
    (change,) = found["Changes between stages"].rows
    assert (change.cells[0].text, change.cells[3].text) == ("sft minus base: sft", "+0.500")


def test_personal_data_are_shown_masked_where_there_are_any(privacy: dict[str, Any]) -> None:
    trained, said = tables(privacy)["Personal data by pattern, masked"].rows
    assert trained.cells[0].text == "training data: pretrain"
    assert trained.cells[1].notes == ("jx@x.xx",)
    assert (said.cells[0].text, said.cells[4].text) == ("base: pretrain, held out prompts", "1")
    assert said.cells[2].text == "1 / 9"
