"""Evaluate a reward model without a run: what `align eval STAGE NAME=ROWS` does with one."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from align.artifacts import StageJob, make_folder, stage_lock, write_json_atomic
from align.config import RunConfig
from align.errors import UserError
from align.progress import Progress
from align.stages import data_context, model_of

if TYPE_CHECKING:
    from evals.prompts import ScoreFunction

NAME = "reward.json"
FORMS = "NAME=ROWS with a file of preference pairs, or key=value with a key of a run's YAML"


def is_reward(model: str) -> bool:
    """Whether a user's model is a reward model: a reward stage, or a folder of a classifier."""
    from reward.parts import is_reward_stage

    folder = Path(model).expanduser()
    if is_reward_stage(folder):
        return True
    config = folder / "config.json"
    if not config.is_file():
        return False
    names = json.loads(config.read_text(encoding="utf-8")).get("architectures") or ()
    return any(name.endswith("ForSequenceClassification") for name in names)


def evaluate_judge(run: RunConfig, progress: Progress) -> list[str]:
    """Bring a reward model's results up to date, and return them as lines of tables.

    Args:
        run: See `align.evaluation.lone_run`; `evals.pairs` names the sets.
        progress: Where to report.

    Raises:
        UserError: No set is named, one cannot be read, or the folder holds another model.
    """
    from evals.plan import reference_hash
    from evals.preferences import Judge, configured_pairs, judge_sets
    from evals.report.lines import all_lines
    from evals.report.pairs import pair_tables

    if not (run.evals and run.evals.pairs):
        raise UserError("no pairs to judge", allowed=f"--tasks with `evals.pairs`, or {FORMS}")
    assert run.model is not None
    place, reference = Path(run.model.base), model_of(run, Path(run.output), "base")
    assert reference is not None

    @cache
    def raw() -> ScoreFunction:
        return load_judge(place, run.device)

    judge = Judge(raw, reference_hash(reference))
    folder = make_folder(make_folder(Path(run.output)) / run.name)
    with stage_lock(folder):
        _check_owner(folder / NAME, str(place), judge.hash)
        job = StageJob(folder, {run.name: reference}, data_context(run), progress)
        judged = judge_sets(run, job, judge, configured_pairs(run, job, judge))
        write_json_atomic(folder / NAME, {"model": str(place), "hash": judge.hash})
    found = {name: one.quality for name, one in judged.items()}
    return ["", *all_lines(pair_tables(found)), f"results: {folder}"]


def load_judge(place: Path, device: str) -> ScoreFunction:
    """The reward model with raw scores: of a stage, or a classifier with one label.

    Raises:
        UserError: It is none.
    """
    from align.models import pick_device
    from reward.gold import load_gold
    from reward.load import load_reward
    from reward.parts import is_reward_stage

    if is_reward_stage(place):
        return load_reward(place, device=pick_device(device))
    return load_gold(str(place), pick_device(device))


def _check_owner(path: Path, model: str, weights: str) -> None:
    """Refuse a folder with results of another reward model, or of a language model.

    Raises:
        UserError: It holds such.
    """
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    other = held is None and (path.parent / "probe.json").is_file()
    if other or (held and model != held["model"] and weights != held["hash"]):
        raise UserError(
            f"holds the results of {held['model'] if held else 'a language model'}",
            where=str(path.parent),
            remedy="choose another name with --name, or another folder with --out",
        )
