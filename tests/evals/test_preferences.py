"""Pairs judged, stored, read back and compared, with scripted reward functions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import StageJob
from align.config import RunConfig
from align.data.encoding import response_text
from align.data.sources import DataContext
from align.progress import NullProgress
from evals.compare import compare_stored
from evals.preferences import Judge, configured_pairs, judge_sets, pair_entry
from evals.report.lines import comparison_lines

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"question {index}"}],
        "chosen": [{"role": "assistant", "content": "a" * (index % 5 + 1)}],
        "rejected": [{"role": "assistant", "content": "b" * (index % 3 + 1)}],
        "subset": "even" if index % 2 == 0 else "odd",
        "id": index,
    }
    for index in range(12)
]


def by_length(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    return [float(len(response_text(text))) for text in completions]


def by_letter(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    return [float(response_text(text)[0] == "a") for text in completions]


@pytest.fixture
def judge_rows(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Judge a file of rows with a function, into a folder of its name."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    section = {"tasks": {}, "resamples": 200, "pairs": {"mine": {"data": {"path": str(path)}}}}
    config = RunConfig.model_validate({"name": "x", "model": {"base": "m"}, "evals": section})

    def run(reward: Any, name: str) -> dict[str, Any]:
        data = DataContext(root=None, world=None, seed=0)
        job = StageJob(tmp_path / name, {}, data, NullProgress())
        judge = Judge(lambda: reward, name * 3)
        return judge_sets(config, job, judge, configured_pairs(config, job, judge))["mine"].quality

    return run


def test_a_set_is_judged_and_its_subsets_named(judge_rows: Any, tmp_path: Path) -> None:
    found = judge_rows(by_length, "one")
    # lengths 1 2 3 4 5 1 2 3 4 5 1 2 against 1 2 3 four times: six longer, three as long
    assert found["accuracy"]["value"] == pytest.approx(6 / 12)
    assert found["ties"]["value"] == pytest.approx(3 / 12)
    assert found["difference"]["difference"] == 0.0
    assert [row["group"] for row in found["subsets"]] == ["even", "odd"]
    # even places: 1 3 5 2 4 1 against 1 3 2 1 3 2
    assert found["subsets"][0]["accuracy"]["value"] == pytest.approx(3 / 6)
    assert found["checks"]["order"] == found["checks"]["alone"] == 0.0
    written = json.loads((tmp_path / "one" / "mine" / "result.json").read_text())
    assert written["accuracy"] == found["accuracy"]
    assert "model:oneoneone" in written["signature"]
    samples = (tmp_path / "one" / "mine" / "samples.jsonl").read_text().splitlines()
    assert json.loads(samples[3])["score_chosen"] == 4.0
    assert json.loads(samples[3])["columns"] == {"subset": "odd"}


def test_scores_are_read_where_nothing_changed(judge_rows: Any) -> None:
    first = judge_rows(by_length, "one")

    def never(*_: Any, **__: Any) -> list[float]:
        raise AssertionError("scored again")

    assert judge_rows(never, "one") == first
    with pytest.raises(AssertionError, match="scored again"):
        judge_rows(never, "other")


def test_two_reward_models_are_compared_pair_by_pair(judge_rows: Any, tmp_path: Path) -> None:
    judge_rows(by_length, "one")
    judge_rows(by_letter, "two")
    tables = compare_stored([tmp_path / "one", tmp_path / "two"])
    (row,) = [row for row in tables["comparisons"] if row["metric"] == "accuracy"]
    assert row["difference"] == pytest.approx(6 / 12)
    assert (row["gained"], row["lost"]) == (6, 0)
    (agreed,) = tables["agreement"]
    # the second is always right, the first six times of twelve
    assert agreed["share"]["value"] == pytest.approx(6 / 12)
    assert agreed["kappa"]["value"] == pytest.approx(0.0)
    lines = comparison_lines(tables)
    assert any(line.split()[:5] == ["mine:", "one,", "two", "12", "50.0%"] for line in lines)


def test_a_set_without_columns_of_subsets_has_none(tmp_path: Path) -> None:
    judge = Judge(lambda: by_length, "h")
    rows = [{k: v for k, v in row.items() if k != "subset"} for row in ROWS]
    entry = pair_entry(judge, "plain", ("subset",), rows, {})
    assert entry.task.evaluate(None, rows).columns == {}  # type: ignore[arg-type]
    assert entry.task.texts(rows)[3] == "aaaa"
