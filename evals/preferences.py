"""Sets of preference pairs judged by a reward model: scored once, stored, summed up.

Of a run they are the held-out pairs and those of `evals.pairs`; of a reward stage alone
(`align eval STAGE NAME=ROWS`) those named. Scores are stored as a task's, so that `align compare`
reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from align.artifacts import StageJob, code_hash, write_json_atomic
from align.config import RunConfig
from align.data.sources import load_rows
from evals.plan import CODE, Entry, result_key
from evals.prompts import ScoreFunction
from evals.samples import cached_json, save_result, stored_result
from evals.stats import Resampling
from evals.stored import RESULT
from evals.task import TaskResult
from evals.tasks.preference import KIND, PreferenceTask, pairs_of
from reward.quality import checks, quality

HELD_OUT = "held-out"
"""The set that every run has."""
COLUMNS = ("subset", "kind")
"""Columns that name a subset where nothing else is said."""


@dataclass(frozen=True)
class Judge:
    """A reward model."""

    raw: Callable[[], ScoreFunction]
    """Loads it on first use; raw scores."""
    hash: str
    """Of its weights."""


class Judged(NamedTuple):
    """What a set says about the reward model, and the scores that say it."""

    quality: dict[str, Any]
    result: TaskResult


def pair_entry(
    judge: Judge, name: str, by: tuple[str, ...], rows: list[Any], record: Mapping[str, Any]
) -> Entry:
    """A set of pairs as an evaluation task."""
    task = PreferenceTask(judge.raw, name, by)
    return Entry(task, rows, record, {"kind": KIND, "by": list(by)})


def configured_pairs(config: RunConfig, job: StageJob, judge: Judge) -> dict[str, Entry]:
    """The sets of `evals.pairs`.

    Raises:
        UserError: A set cannot be read.
    """
    assert config.evals is not None
    return {
        name: pair_entry(judge, name, s.by, *load_rows(s.data, "preferences", job.data))
        for name, s in config.evals.pairs.items()
    }


def judge_sets(
    config: RunConfig, job: StageJob, judge: Judge, sets: Mapping[str, Entry]
) -> dict[str, Judged]:
    """What the sets say about the reward model, by name; scores come from disk if up to date.

    Each set leaves its scores, its checks and `result.json` in `job.folder / name`.

    Raises:
        UserError: A set is empty.
    """
    assert config.evals is not None
    resampling = Resampling(config.evals.resamples, config.evals.confidence, config.seed)
    common = {"dtype": config.dtype, "device": config.device}
    code = code_hash((*CODE, "reward.evaluate", "reward.calibration", "reward.quality"))
    found = {}
    for name, entry in sets.items():
        key = result_key({"model": judge.hash, **common, "code": code}, entry)
        result, checked = _scored(job, judge, entry, key)
        by = tuple(result.columns)
        content = quality(pairs_of(result), by, resampling)
        content |= {"checks": checked, "source": entry.record.get("source")}
        signature = f"{entry.signature(config.seed)}|model:{judge.hash[:12]}"
        head = {"name": name, "kind": KIND, "signature": signature, "missing": 0}
        write_json_atomic(job.folder / name / RESULT, head | content)
        found[name] = Judged(content, result)
    return found


def _scored(
    job: StageJob, judge: Judge, entry: Entry, key: Mapping[str, Any]
) -> tuple[TaskResult, dict[str, Any]]:
    """The scores of a set and the checks of the scoring."""
    folder = job.folder / entry.task.name
    result, checked = stored_result(folder, key), cached_json(folder / "checks.json", key)
    if result is None or checked is None:
        job.progress.note(f"scoring {len(entry.rows)} pairs of {entry.task.name}")
        assert isinstance(entry.task, PreferenceTask)
        result = entry.task.evaluate(None, entry.rows)
        checked = checks(judge.raw(), entry.rows)
        save_result(folder, result, key)
        write_json_atomic(folder / "checks.json", {"key": key, "value": checked})
    return result, checked
