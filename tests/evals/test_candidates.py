"""Best-of-n and PPO's evaluations as the ledger takes them, without a model."""

import json
from pathlib import Path

import numpy as np
import pytest

from align.references import ModelReference
from evals.best_of import best_of
from evals.candidates import EVALUATIONS, table, training_entry
from evals.task import TaskResult


def result(rewards: list[float | None], gold: list[float] | None) -> TaskResult:
    scores = [
        {"reward": r} | ({} if gold is None else {"gold": gold[i]}) for i, r in enumerate(rewards)
    ]
    ids = tuple(map(str, range(len(rewards))))
    return TaskResult(ids, {}, [{"scores": own} for own in scores])


def test_the_responses_of_a_prompt_stay_together() -> None:
    names = {"proxy": "reward", "gold": "gold"}
    found = table(result([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]), 3, names)
    assert found == {"proxy": [[1, 2, 3], [4, 5, 6]], "gold": [[6, 5, 4], [3, 2, 1]]}
    proxy, gold = np.array(found["proxy"]), np.array(found["gold"])
    assert best_of(proxy, gold, 3).tolist() == [4, 1]
    assert table(result([1, 2], None), 2, {"proxy": "reward"}) == {"proxy": [[1, 2]]}


def test_a_prompt_with_a_response_without_a_score_is_left_out() -> None:
    names = {"proxy": "reward", "gold": "gold"}
    some = result([1, None, 3, 4], [4, 3, 2, 1])
    assert table(some, 2, names) == {"proxy": [[3, 4]], "gold": [[2, 1]]}
    assert table(some, 4, names) == {"proxy": [], "gold": []}


def test_training_is_read_beside_the_policy(tmp_path: Path) -> None:
    policy = ModelReference(str(tmp_path / "base"), (str(tmp_path / "4-ppo" / "adapter"),))
    (tmp_path / "4-ppo").mkdir()
    assert training_entry(policy, 0.95) is None
    rows = [
        {"scores": [0.0, 2.0], "gold": [1.0, 4.0], "kl": 0.0, "update": 0},
        {"scores": [1.0, 5.0], "gold": [0.0, 2.0], "kl": 4.0, "update": 5},
    ]
    path = tmp_path / "4-ppo" / EVALUATIONS
    path.write_text(json.dumps(rows[0]) + "\n")
    assert training_entry(policy, 0.95) is None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = training_entry(policy, 0.95)
    assert found is not None
    assert [p["update"] for p in found["points"]] == [0, 5]
    assert found["points"][1]["distance"] == 2.0
    assert found["points"][1]["proxy"]["value"] == pytest.approx(2.0)
    full = training_entry(ModelReference(str(tmp_path / "4-ppo" / "model")), 0.95)
    assert full == found
