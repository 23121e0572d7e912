"""Groups and clusters that rows name, and whole clusters drawn for a task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.artifacts import StageJob
from align.data.sources import DataContext
from align.errors import UserError
from align.progress import Progress
from align.settings import parse_run
from evals.plan import configured_entries
from evals.tasks.grouping import cluster_column, group_columns

ROWS = [
    {"g": value, "c": cluster} for value, cluster in ((" f ", "t"), ("?", None), (["b", "a"], 3))
]


def test_a_cell_names_a_group_none_or_several() -> None:
    assert group_columns(ROWS, ("g",), "x") == {"g": ["f", "unknown", "a + b"]}
    more = [{"g": []}, {"g": ["a", None]}, {}, {"g": 5}, {"g": "N/A"}]
    assert group_columns(more, ("g",), "x")["g"] == ["unknown", "a", "unknown", "5", "unknown"]
    with pytest.raises(UserError, match="no row has the group column 'h'"):
        group_columns(ROWS, ("h",), "x")


def test_a_row_without_a_cluster_stands_alone() -> None:
    assert cluster_column(ROWS, "c", "x") == ["t", "row 2", "3"]
    assert cluster_column(ROWS, None, "x") is None
    with pytest.raises(UserError, match="no row has the cluster column 'h'"):
        cluster_column(ROWS, "h", "x")


def test_clusters_of_a_classification_are_drawn_whole(tmp_path: Path) -> None:
    rows = [{"text": f"{i}", "label": "yes", "frame": f"frame {i // 3}"} for i in range(30)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {"kind": "classification", "data": {"path": str(data)}, "prompt": "{text}"}
    task |= {"target": "label", "choices": ["yes", "no"], "cluster": "frame", "clusters": 4}
    run = {"name": "x", "model": {"base": "m"}, "evals": {"tasks": {"own": task}}}
    config = parse_run(tmp_path / "run.yaml", json.dumps(run), [])
    context = DataContext(root=tmp_path, world=None, seed=0)
    with Progress(quiet=True) as progress:
        entry = configured_entries(config, StageJob(tmp_path, {}, context, progress))["own"]
    drawn = [row["frame"] for row in entry.rows]
    assert len(drawn) == 12
    assert len(set(drawn)) == 4
    assert [row["text"] for row in entry.rows] == sorted((r["text"] for r in entry.rows), key=int)
