"""Results survive the disk exactly, and are used only for what they were made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evals.samples import cached_json, save_result, stored_result
from evals.task import TaskResult

KEY = {"model": "abc", "task": "reviews"}
RESULT = TaskResult(
    ids=("a", "b"),
    stats={"f1": np.array([[1.0, 0.1], [0, 1 / 3]]), "accuracy": np.ones((2, 2))},
    samples=[{"prompt": "é\n", "score": 0.1}, {"prompt": "x", "score": -1e-300}],
    clusters=("c1", "c2"),
    columns={"gender": ("woman", "unknown")},
    missing={"too long": 3},
)


def test_results_come_back_exactly(tmp_path: Path) -> None:
    save_result(tmp_path, RESULT, KEY)
    back = stored_result(tmp_path, KEY)
    assert back is not None
    assert (back.ids, back.clusters, back.columns) == (RESULT.ids, RESULT.clusters, RESULT.columns)
    assert (back.missing, back.samples) == (RESULT.missing, RESULT.samples)
    for name, rows in RESULT.stats.items():
        assert back.stats[name].tolist() == rows.tolist()


def test_results_of_something_else_are_not_used(tmp_path: Path) -> None:
    assert stored_result(tmp_path, KEY) is None
    save_result(tmp_path, RESULT, KEY)
    assert stored_result(tmp_path, KEY | {"model": "other"}) is None


@pytest.mark.parametrize("name", ["samples.jsonl", "stats.npz"])
def test_changed_or_lost_files_are_not_used(tmp_path: Path, name: str) -> None:
    save_result(tmp_path, RESULT, KEY)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"\n")
    assert stored_result(tmp_path, KEY) is None
    save_result(tmp_path, RESULT, KEY)
    (tmp_path / name).unlink()
    assert stored_result(tmp_path, KEY) is None


def test_a_kill_between_the_files_leaves_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_result(tmp_path, RESULT, KEY)
    monkeypatch.setattr("evals.samples.np.savez", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_result(tmp_path, RESULT, KEY)
    assert stored_result(tmp_path, KEY) is None


def test_equal_results_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_result(tmp_path / name, RESULT, KEY)
    for file in ("samples.jsonl", "stats.npz", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_samples_may_not_use_our_names(tmp_path: Path) -> None:
    result = TaskResult(ids=("a",), stats={}, samples=[{"id": 1}])
    with pytest.raises(ValueError, match="reserved names: \\['id'\\]"):
        save_result(tmp_path, result, KEY)


def test_cached_values_are_of_their_key(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert cached_json(path, {"a": 1}) is None
    path.write_text(json.dumps({"key": {"a": 1}, "value": [2]}), encoding="utf-8")
    assert cached_json(path, {"a": 1}) == [2]
    assert cached_json(path, {"a": 2}) is None
