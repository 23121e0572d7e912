"""Evaluate any model on tasks, without a run: what `align eval MODEL` does.

The settings are a run's whose only stages are the model and `evals`; a YAML of a run serves too,
its training is left aside. Results lie in `<out>/<model name>/<task>/`, as those of a run's stage.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from align.artifacts import StageJob, make_folder, stage_lock
from align.config import RunConfig
from align.config.evaluation import OPEN, SUITES
from align.errors import UserError
from align.judging import FORMS as PAIRS
from align.judging import evaluate_judge, is_reward
from align.progress import Progress
from align.references import ModelReference
from align.settings import load_run, parse_run
from align.stages import data_context, model_of
from align.team import ALONE, Team

if TYPE_CHECKING:
    from evals.plan import Entry


@dataclass(frozen=True)
class Harness:
    """Tasks of an installed lm-evaluation-harness."""

    names: tuple[str, ...] = ()
    """Tasks, groups or tags."""
    folder: Path | None = None
    """More definitions."""
    limit: int | None = None
    """At most so many rows a task, the first ones."""
    shots: int | None = None
    """Examples before a question; default: the task's."""


TRAINING = ("pretrain", "sft", "reward", "ppo")
FORMS = (
    "TASK=ROWS with a definition's name or .yaml file or a bias suite's name, or key=value with a "
    "key of a run's YAML"
)


def lone_run(
    model: str, settings: Sequence[str], *, tasks: Path | None, out: str, name: str | None
) -> RunConfig:
    """The settings of an evaluation.

    Args:
        model: Stage folder, model folder, .gguf file or hub id.
        settings: `TASK=ROWS` (a definition and its file of rows) or `key=value` each.
        tasks: YAML file with a section `evals`; None: `settings` names all tasks.
        out: Folder of the results.
        name: The model's name there; default: from `model`.

    Raises:
        UserError: No task is named, or a setting is wrong.
    """
    given = [f"name={json.dumps(name or model_name(model))}", f"output={json.dumps(out)}"]
    given += [f"model.base={json.dumps(model)}", "model.adapters=[]", "model.revision=null"]
    given += [f"{stage}=null" for stage in TRAINING] + ["evals.tasks={}", "evals.reward_bias=[]"]
    form = _pairs if is_reward(model) else _setting
    given += [form(text, absolute=tasks is not None) for text in settings]
    return load_run(tasks, given) if tasks is not None else parse_run(Path("tasks"), "{}", given)


def evaluate_lone(
    run: RunConfig, progress: Progress, harness: Harness | None = None, team: Team = ALONE
) -> list[str]:
    """Bring a model's results up to date, and return them as lines of a table.

    Args:
        run: See `lone_run`.
        progress: Where to report.
        harness: Further tasks.
        team: The processes that evaluate; the main one writes and returns the lines.

    Raises:
        UserError: A task, its rows or the model is wrong, or the folder holds another model.
    """
    if run.model is not None and is_reward(run.model.base):
        return evaluate_judge(run, progress) if team.main else []
    from evals.harness import NAME
    from evals.plan import configured_entries, reference_text
    from evals.report.lines import ledger_lines
    from evals.run import evaluate_models

    borrowed = _borrowed(harness) if harness is not None and harness.names else {}
    if not borrowed and not (run.evals and run.evals.tasks):
        raise UserError("no task to evaluate", allowed=f"--tasks, --lm-eval, or {FORMS}")
    if run.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(run.threads)
    reference = model_of(run, Path(run.output), "base")
    assert reference is not None
    folder = make_folder(Path(run.output)) / run.name
    with stage_lock(folder) if team.main else nullcontext():
        name = reference_text(reference, folder.parent.parent)
        check_owner(folder / NAME, reference, name)
        job = StageJob(folder.parent, {run.name: reference}, data_context(run), progress, team=team)
        entries = {**configured_entries(run, job), **borrowed}
        ledger = evaluate_models(run, job, (run.name,), entries)
    if not team.main:
        return []
    return ["", *ledger_lines(ledger), f"results: {folder}"]


def model_name(model: str) -> str:
    """A model's folder name: of a stage with the run's, of a hub id with its owner's."""
    path = Path(model).expanduser()
    if path.is_dir():
        path = path.resolve()
        staged = (path / "manifest.json").is_file()
        name = f"{path.parent.name}-{path.name}" if staged else path.name
    else:
        name = path.stem if path.suffix == ".gguf" else model.replace("/", "__")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:100] or "model"


def _borrowed(harness: Harness) -> dict[str, Entry]:
    """Its tasks with their rows.

    Raises:
        UserError: lm-evaluation-harness is not installed, or a task cannot be had.
    """
    from evals.plan import Entry

    try:
        from evals.borrowing import borrow_tasks
    except ModuleNotFoundError as error:
        raise UserError(
            f"--lm-eval needs lm-evaluation-harness ({error})",
            remedy="install it with `pip install 'alignkit[lm-eval]'`",
        ) from error
    found = borrow_tasks(harness.names, harness.folder, harness.limit, harness.shots)
    return {
        task.name: Entry(task, rows, {"source": "lm-evaluation-harness"}, task.settings)
        for task, rows in found
    }


def _setting(text: str, *, absolute: bool) -> str:
    """`TASK=ROWS` as an override; an override stays as it is.

    Raises:
        UserError: The name before = is neither a definition nor a key.
    """
    from evals.bias.open_prompts import EMBEDDED
    from evals.definitions import is_file, read_definition

    key, equals, value = text.partition("=")
    if not equals:
        raise UserError("neither rows nor a setting", where=repr(text), allowed=FORMS)
    if not is_file(key) and re.split(r"[.\[]", key)[0] in RunConfig.model_fields:
        return text
    file = os.path.abspath if absolute else str
    data = {"path": value if value == EMBEDDED else file(os.path.expanduser(value))}
    if key in SUITES + OPEN:
        return f"evals.tasks.{key}={json.dumps({'kind': key, 'data': data})}"
    read_definition(key)
    entry = {"definition": file(key) if is_file(key) else key, "data": data}
    name = Path(key).stem.replace(".", "_") if is_file(key) else key
    return f"evals.tasks.{name}={json.dumps(entry)}"


def _pairs(text: str, *, absolute: bool) -> str:
    """`NAME=ROWS` of a reward model as an override; an override stays as it is.

    Raises:
        UserError: There is no =.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError("neither pairs nor a setting", where=repr(text), allowed=PAIRS)
    if re.split(r"[.\[]", key)[0] in RunConfig.model_fields:
        return text
    file = os.path.abspath if absolute else str
    path = file(os.path.expanduser(value))
    return f"evals.pairs.{key}.data={json.dumps({'path': path})}"


def check_owner(path: Path, reference: ModelReference, name: str) -> None:
    """Refuse a folder whose results are of another model, named otherwise and with other weights.

    Raises:
        UserError: They are.
    """
    from evals.plan import reference_hash

    if not path.is_file():
        return
    held = json.loads(path.read_text(encoding="utf-8"))
    if name != held["model_name"] and reference_hash(reference) != held["config"]["model_sha"]:
        raise UserError(
            f"holds the results of {held['model_name']}",
            where=str(path.parent),
            remedy="choose another name with --name, or another folder with --out",
        )
