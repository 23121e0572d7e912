"""Results read back from disk with the tasks that made them, without a model or torch.

A stored task is a folder with `manifest.json` (what the numbers depend on), `result.json`,
`samples.jsonl` and `stats.npz`. Its settings rebuild the task, so that metrics, intervals and tests
are computed again from its rows by the same code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from align.config import TaskConfig
from align.errors import UserError
from evals.bias.open_generation import OpenTask
from evals.bias.scorer_bias import KIND as SCORERS
from evals.bias.scorer_bias import ScorersTask
from evals.prompts import NAME as PROMPTS
from evals.prompts import TOTAL, Answering, PromptsTask
from evals.samples import MANIFEST, SAMPLES, STATS, stored_result
from evals.schema import Definition
from evals.shots import Asking
from evals.task import Task, TaskResult
from evals.tasks import KINDS
from evals.tasks.borrowed import KIND as BORROWED
from evals.tasks.borrowed import BorrowedTask
from evals.tasks.defined import OUTPUTS
from evals.tasks.preference import KIND as PREFERENCE
from evals.tasks.preference import PreferenceTask

RESULT = "result.json"
EVALS = "5-evals"
ALLOWED = "the folder of a run, of a stage below its 5-evals, or of `align eval MODEL`"


@dataclass(frozen=True)
class Stored:
    """One finished task of one model."""

    folder: Path
    key: Mapping[str, Any]
    """What the numbers depend on: model, task, items, settings, code, dtype, device."""
    content: Mapping[str, Any]
    """`result.json`."""

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of the task; one that is not set is left out."""
        chosen = {"positive": self.content.get("positive")}
        return {k: v for k, v in (self.key["settings"] | chosen).items() if v is not None}

    @cached_property
    def task(self) -> Task:
        """The task, for its metrics; it has no examples and no reward functions to score with."""
        name, settings = str(self.key["task"]), self.settings
        if settings.get("kind") == PROMPTS:
            fields = ("temperature", "max_prompt_length", "max_new_tokens", "seed")
            answering = Answering(**{field: settings[field] for field in fields})
            named = list(settings["scores"])
            total = _gone if TOTAL in named else None
            functions = dict.fromkeys((name for name in named if name != TOTAL), _gone)
            return PromptsTask(answering, functions, total)
        if settings.get("kind") == PREFERENCE:
            return PreferenceTask(_gone, name, tuple(settings["by"]))
        if settings.get("kind") == BORROWED:
            return BorrowedTask(name, settings)
        if settings.get("kind") == SCORERS:
            return ScorersTask({}, settings["scorers"])
        if "kind" not in settings:
            definition = Definition.model_validate_json(json.dumps(settings["definition"]))
            asked = settings["num_fewshot"], settings["chat"], settings.get("system_prompt")
            return OUTPUTS[definition.output_type](name, Asking(name, definition, *asked))
        known = {k: v for k, v in settings.items() if k in TaskConfig.model_fields}
        config = TaskConfig.model_validate_json(json.dumps(known | {"data": {"path": "stored"}}))
        task = KINDS[settings["kind"]](name, config)
        return task.judged(settings) if isinstance(task, OpenTask) else task

    @cached_property
    def result(self) -> TaskResult:
        """The rows.

        Raises:
            UserError: A file is gone or is not what the manifest says.
        """
        found = stored_result(self.folder, self.key)
        if found is None:
            raise UserError(
                f"{SAMPLES} or {STATS} is not what {MANIFEST} says",
                where=str(self.folder),
                remedy="delete the folder and evaluate again",
            )
        return found


def stored_tasks(folder: Path) -> dict[str, Stored]:
    """The finished tasks of one model, by name.

    Raises:
        UserError: A file is broken.
    """
    found = {}
    for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
        entry, result = _read(manifest), manifest.parent / RESULT
        if "key" in entry and result.is_file():  # else another folder, or a killed evaluation
            found[manifest.parent.name] = Stored(manifest.parent, entry["key"], _read(result))
    return found


def stored_models(place: Path) -> dict[str, dict[str, Stored]]:
    """Every model below a folder a user names, with its tasks: label -> tasks.

    Raises:
        UserError: There is no finished result.
    """
    if not place.is_dir():
        raise UserError("no such folder", where=str(place), allowed=ALLOWED)
    top = place / EVALS if (place / EVALS).is_dir() else place
    own = stored_tasks(top)
    if own:
        return {_label(top): own}
    below = {_label(folder): stored_tasks(folder) for folder in _models(top)}
    found = {label: tasks for label, tasks in below.items() if tasks}
    if not found:
        raise UserError("no finished results in this folder", where=str(place), allowed=ALLOWED)
    return found


def _gone(*_: Any) -> Any:
    """Stands for a reward function: its scores are stored."""
    raise NotImplementedError("a stored task scores nothing")


def _models(top: Path) -> list[Path]:
    """Folders of models: of a run in the order of its training, else by name."""
    ledger = top / "ledger.json"
    if ledger.is_file():
        return [top / stage for stage in _read(ledger)["stages"]]
    return sorted(path for path in top.iterdir() if path.is_dir())


def _label(folder: Path) -> str:
    """A model's name: of a run with the run's, `sentiment/ppo`."""
    folder = folder.resolve()
    run = folder.parent.parent.name if folder.parent.name == EVALS else ""
    return f"{run}/{folder.name}" if run else folder.name


def _read(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: The file is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"broken JSON ({error})", where=str(path)) from error
    if not isinstance(content, dict):
        raise UserError("holds no JSON object", where=str(path))
    return content
