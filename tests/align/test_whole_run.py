"""From an empty folder to the audit: every stage of a run by the commands, as small as they go."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from align import cli


def source(world: str, limit: int) -> dict[str, Any]:
    return {"world": world, "limit": limit}


SHAPE = {"hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64}
CONFIG = {
    "name": "whole",
    "device": "cpu",
    "pretrain": {
        "data": source("text", 200),
        "eval_data": source("heldout_text", 20),
        "architecture": SHAPE | {"vocab_size": 512, "context": 128},
        "learning_rate": 3e-3,
        "max_length": 128,
    },
    "sft": {"data": source("instructions", 64), "learning_rate": 3e-3, "max_length": 128},
    "reward": {
        "data": source("preferences", 64),
        "eval_data": source("heldout_preferences", 40),
        "learning_rate": 3e-3,
        "max_length": 128,
    },
    "ppo": {
        "data": source("prompts", 32),
        "eval_data": source("heldout_prompts", 8),
        "episodes": 32,
        "batch_size": 16,
        "micro_batch_size": 16,
        "mini_batches": 1,
        "learning_rate": 1e-2,
        "response_length": 8,
        "max_prompt_length": 96,
    },
    "evals": {
        "prompts": 8,
        "tasks": {
            "people": {"kind": "counterfactual", "data": source("counterfactual", 48)},
            "text": {"kind": "perplexity", "data": source("heldout_text", 10)},
        },
        "reward_bias": ["people"],
    },
}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run and its audit."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("whole.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
        assert cli.main(["run", "whole.yaml"]) == 0
        assert cli.main(["audit", "runs/whole", "--sample", "4"]) == 0
    return folder / "runs" / "whole"


def test_every_stage_leaves_what_the_next_reads(run: Path) -> None:
    stages = sorted(folder.name for folder in run.iterdir() if folder.is_dir())
    wanted = ["1-pretrain", "2-sft", "3-reward", "4-ppo", "5-evals", "6-audit", "report"]
    assert stages == wanted
    ledger = read(run / "5-evals" / "ledger.json")
    assert ledger["stages"] == ["base", "sft", "ppo"]
    measured = {(row["stage"], row["task"]) for row in ledger["estimates"] + ledger["bias"]}
    assert measured == set(product(["base", "sft", "ppo"], ["text", "prompts", "people"]))
    updates = (run / "4-ppo" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len([line for line in updates if "kl" in line]) == 2
    assert "PPO" in (run / "report" / "index.html").read_text(encoding="utf-8")


def test_the_audit_joins_preference_and_drift_of_all_templates(run: Path) -> None:
    found = read(run / "6-audit" / "audit.json")
    assert found["stages"] == ["base", "sft", "ppo"]
    drift = found["drift"]
    assert (drift["outcome"], drift["before"], drift["after"]) == ("", "sft", "ppo")
    assert drift["missing"] == 0
    # The same contrast, from the two tables that it was joined from.
    row = next(r for r in drift["contrasts"] if r["attribute"] == "gender" and not r["control"])
    keys = ("measure", "attribute", "group_a", "group_b")
    same = {key: row[key] for key in keys}
    moved = [
        r["difference"]
        for r in found["bias_comparisons"]
        if same.items() <= r.items() and (r["before"], r["after"]) == ("sft", "ppo")
    ]
    judged = [r["value"] for r in found["reward_model"]["bias"] if same.items() <= r.items()]
    assert [row["drift"]["value"]] == pytest.approx(moved)
    assert [row["preference"]["value"]] == pytest.approx(judged)
    assert row["drift"]["value"] != 0
