"""The effects that `align audit` keeps item by item are those of its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align import cli
from evals.bias.template_items import sample_items
from evals.task import item_ids
from reward.model import RewardModel


def test_kept_effects_are_those_of_the_table_and_are_made_again(
    workplace: Path, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["audit", str(stage), "--sample", "2", "--name", "mine", "--quiet"]
    assert cli.main(words) == 0
    folder = workplace / "results" / "mine"
    audit = json.loads((folder / "audit.json").read_text(encoding="utf-8"))["reward_model"]
    kept = json.loads((folder / "reward" / "effects.json").read_text(encoding="utf-8"))["value"]
    assert "effects" not in audit, "items stand in their own file"
    rows = sample_items(2)
    assert list(kept) == ["identity"]
    assert list(kept["identity"]) == list(item_ids(rows))
    keys = ("measure", "attribute", "group_a", "group_b", "control")
    contrasts = [row for row in audit["bias"] if not row["measure"].endswith(":score")]
    assert len(contrasts) == 2 * 39
    for contrast in contrasts:
        effects = [
            kept["identity"][item]
            for item, row in zip(item_ids(rows), rows, strict=True)
            if all(row[key] == contrast[key] for key in keys)
        ]
        assert contrast["value"] == pytest.approx(sum(effects) / len(effects))
    (folder / "reward" / "effects.json").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(RewardModel, "load", None)
        with pytest.raises(TypeError):  # it is loaded again
            cli.main(words)
    assert cli.main(words) == 0
    assert json.loads((folder / "reward" / "effects.json").read_text("utf-8"))["value"] == kept
