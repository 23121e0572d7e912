"""Stored results of several models compared item by item: no model is loaded.

Every model is compared with the first one. Whatever would make a difference mean something else is
refused (other items, other settings of a task, weights that changed between tasks) or left out and
said (tasks not all models have, perplexity per token of different tokens).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from align.complaints import nearest
from align.errors import UserError
from evals.ledger import (
    Results,
    Table,
    bias_comparison_table,
    bias_table,
    comparison_table,
    estimate_table,
    held_metrics,
)
from evals.report.tables import q_values
from evals.score import pair_results
from evals.stats import Resampling
from evals.stored import Stored, stored_models
from evals.task import Task
from evals.tasks.perplexity import COLUMNS
from evals.tasks.preference import PreferenceTask, margins_of
from reward.agreement import agreement

Models = Mapping[str, Mapping[str, Stored]]
"""Label -> its tasks by name; the first one is what the others are compared with."""


def compare_stored(
    places: Sequence[Path], wanted: Sequence[str] = (), resampling: Resampling | None = None
) -> dict[str, Any]:
    """Compare stored results.

    Args:
        places: Folders of runs (all their stages), of stages, or of `align eval MODEL`.
        wanted: Tasks to compare; none: all that every model has.
        resampling: How intervals and permutations are made.

    Returns:
        The tables of a ledger (`stages` are the models), `agreement` of reward models, `left_out`
        and `notes` in sentences.

    Raises:
        UserError: Fewer than two models, no common task, or results that cannot be compared.
    """
    models = _named(places)
    if len(models) < 2:
        raise UserError(
            "one model is nothing to compare", where=str(places[0]), remedy="name a second folder"
        )
    resampling = resampling or Resampling()
    names, left_out = _common(models, wanted)
    for name in names:
        _check(name, {label: tasks[name] for label, tasks in models.items()})
    first, *others = models
    tasks = {name: models[first][name].task for name in names}
    comparisons: Table = []
    changes: Table = []
    for other in others:
        pair = _results(models, tasks, (first, other))
        comparisons += comparison_table(pair, resampling)
        changes += bias_comparison_table(pair, resampling.confidence)
    kept = [row for row in comparisons if _same_units(row, models)]
    left_out += [
        f"{row['task']} {row['metric']}: {row['before']} and {row['after']} have other tokens"
        for row in comparisons
        if row not in kept
    ]
    results = _results(models, tasks, tuple(models))
    left_out += [
        f"{name} {metric.name}: not all results hold its rows"
        for name, task in tasks.items()
        for metric in task.metrics
        if metric.name not in {held.name for held in held_metrics(results, name)}
    ]
    return {
        "stages": list(models),
        "models": {label: _identity(label, own, names) for label, own in models.items()},
        "confidence": resampling.confidence,
        "estimates": estimate_table(results, resampling),
        "comparisons": _adjusted(kept, kept),
        "bias": bias_table(results, resampling.confidence),
        "bias_comparisons": _adjusted(changes, [row for row in changes if not row["control"]]),
        "agreement": agreement_table(models, names, resampling),
        "left_out": left_out,
        "notes": _notes(models, names),
    }


def agreement_table(models: Models, names: Sequence[str], resampling: Resampling) -> Table:
    """Agreement of every reward model with the first, set by set of pairs."""
    first, *others = models
    rows = []
    for name in names:
        if not isinstance(models[first][name].task, PreferenceTask):
            continue
        for other in others:
            one, two = pair_results(models[first][name].result, models[other][name].result)
            found = agreement(margins_of(one), margins_of(two), resampling)
            rows.append({"task": name, "before": first, "after": other, **found})
    return rows


def _named(places: Sequence[Path]) -> dict[str, Mapping[str, Stored]]:
    """All models under labels that differ: where two agree, with the folder as it was named.

    Raises:
        UserError: A folder is named twice.
    """
    found: dict[str, Mapping[str, Stored]] = {}
    folders: set[Path] = set()
    for place in places:
        for label, tasks in stored_models(place).items():
            folder = next(iter(tasks.values())).folder.parent
            if folder.resolve() in folders:
                raise UserError("named twice", where=str(folder), remedy="name each model once")
            folders.add(folder.resolve())
            found[str(folder) if label in found else label] = tasks
    return found


def _common(models: Models, wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tasks that all models have, and a sentence for each one that is left out.

    Raises:
        UserError: There is none, or a wanted one is missing.
    """
    have = list(dict.fromkeys(name for tasks in models.values() for name in tasks))
    lacking = {name: [x for x, tasks in models.items() if name not in tasks] for name in have}
    common = [name for name in have if not lacking[name]]
    for name in wanted:
        if name not in have:
            raise UserError(f"no result of a task {name!r}", allowed=nearest(name, have))
        if lacking[name]:
            raise UserError(f"no result of {', '.join(lacking[name])}", where=f"task {name}")
    if not common:
        listed = "; ".join(f"{label}: {', '.join(tasks)}" for label, tasks in models.items())
        raise UserError(
            f"no task has results of all models ({listed})", remedy="evaluate them on one task"
        )
    if wanted:
        return list(dict.fromkeys(wanted)), []
    said = [f"{name}: no result of {', '.join(who)}" for name, who in lacking.items() if who]
    return common, said


def _check(name: str, stored: Mapping[str, Stored]) -> None:
    """Refuse results of one task that do not answer the same questions in the same way.

    Raises:
        UserError: Settings or items differ.
    """
    (first, before), *others = stored.items()
    for label, after in others:
        where = f"task {name}, {first} and {label}"
        old, new = before.settings, after.settings
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        if keys:
            shown = ", ".join(_difference(key, old.get(key), new.get(key)) for key in keys)
            raise UserError(
                f"different settings: {shown}",
                where=where,
                remedy="evaluate both with one configuration, or choose other tasks with --task",
            )
        try:
            pair_results(before.result, after.result)
        except UserError as error:
            raise UserError(
                error.what,
                where=where,
                remedy="evaluate both on the same rows, or choose other tasks with --task",
            ) from error


def _difference(key: str, old: Any, new: Any) -> str:
    """A setting that differs, with its values where they are short."""
    values = f"{old!r} and {new!r}"
    return f"{key} ({values})" if len(values) <= 60 else key


def _results(models: Models, tasks: Mapping[str, Task], labels: tuple[str, ...]) -> Results:
    """Results as the ledger's tables want them."""
    scored = {(label, name): models[label][name].result for label in labels for name in tasks}
    return Results(labels, tasks, {}, scored)


def _same_units(row: Mapping[str, Any], models: Models) -> bool:
    """Whether a metric counts the same units for both models: tokens may differ."""
    if row["metric"] != "token_perplexity":
        return True
    both = (models[row[side]][row["task"]].result for side in ("before", "after"))
    before, after = pair_results(*both)
    column = COLUMNS.index("tokens")
    old, new = before.stats["perplexity"][:, column], after.stats["perplexity"][:, column]
    return np.array_equal(old, new)


def _adjusted(rows: Table, family: Table) -> Table:
    """The rows with `q`, p adjusted over the rows of the family; null for the others."""
    q = q_values(family)
    return [{**row, "q": q.get(id(row))} for row in rows]


def _identity(label: str, tasks: Mapping[str, Stored], names: Sequence[str]) -> dict[str, str]:
    """Hash of a model's weights and the folder of its results.

    Raises:
        UserError: Tasks were scored with different weights.
    """
    hashes = {tasks[name].key["model"] for name in names}
    folder = tasks[names[0]].folder.parent
    if len(hashes) > 1:
        raise UserError(
            f"the tasks of {label} were scored with {len(hashes)} different models",
            where=str(folder),
            remedy="evaluate them again, or choose tasks with --task",
        )
    return {"folder": folder.as_posix(), "hash": hashes.pop()}


def _notes(models: Models, names: Sequence[str]) -> list[str]:
    """What differs beside the weights, and items that not all models have scored."""
    notes = []
    for key, words in (("dtype", "dtype"), ("device", "device"), ("code", "version of the code")):
        values = {label: tasks[names[0]].key[key][:12] for label, tasks in models.items()}
        if len(set(values.values())) > 1:
            shown = ", ".join(f"{label}: {value}" for label, value in values.items())
            notes.append(f"not the same {words} ({shown}); differences may come from it")
    for name in names:
        missing = {x: sum(tasks[name].result.missing.values()) for x, tasks in models.items()}
        if any(missing.values()):
            shown = ", ".join(f"{label}: {count}" for label, count in missing.items())
            notes.append(f"{name}: items that could not be scored ({shown})")
    return notes
