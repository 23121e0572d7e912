"""`align audit` on a trained reward stage: the same scores, accuracy by group, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align import cli
from align.audit import subject_kind
from evals.bias.template_items import sample_items
from reward.model import RewardModel


def audit(*words: str) -> int:
    return cli.main(["audit", *words, "--quiet"])


@pytest.fixture
def pairs_file(workplace: Path, stage_pairs: list[dict[str, Any]]) -> Path:
    """The pairs with a column of groups."""
    path = workplace / "pairs.jsonl"
    rows = [row | {"place": "ab"[i % 2]} for i, row in enumerate(stage_pairs)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_reward_stage_is_audited_in_units_of_its_stored_spread(
    workplace: Path, stage: Path, pairs_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert subject_kind(str(stage)) == "reward"
    words = (str(stage), "--sample", "2", "--pairs", str(pairs_file), "--group", "place")
    assert audit(*words, "--name", "mine") == 0
    folder = workplace / "results" / "mine"
    found = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    reward = found["reward_model"]
    model = RewardModel.load(stage)
    assert (reward["spread"], reward["spread_of"]) == (model.settings.std, "held-out responses")
    rows = [
        row
        for row in sample_items(2)
        if (row["measure"], row["attribute"], row["group_a"]) == ("in response", "age", "old")
    ]
    sides = [
        np.array(
            model(
                [[{"role": "user", "content": row[f"prompt_{side}"]}] for row in rows],
                [row[f"preferred_{side}"] for row in rows],
            )
        )
        for side in "ab"
    ]
    (level,) = [
        row
        for row in reward["bias"]
        if (row["measure"], row["group_a"]) == ("in response:score", "old")
    ]
    expected = float((sides[0] - sides[1]).mean()) / model.settings.std
    assert level["value"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert (level["stage"], level["task"]) == ("reward", "identity")
    counts = {row["group"]: row["denominator"] for row in reward["groups"]}
    assert counts == {"a": 16, "b": 16}
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "Reward model: which words move the score" in page
    monkeypatch.setattr(RewardModel, "load", None)
    assert audit(*words, "--name", "mine") == 0, "a finished audit was not read"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--group", "place"), "--pairs needs --group, and --group needs --pairs"),
        (("seed=3",), "a reward stage takes no settings"),
        (("--pairs", "pairs.jsonl", "--group", "origin"), "no column origin"),
        (("--pairs", "none.jsonl", "--group", "place"), "none.jsonl"),
    ],
)
def test_what_does_not_fit_a_reward_stage_is_one_line(
    words: tuple[str, ...],
    said: str,
    stage: Path,
    pairs_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit(str(stage), *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
