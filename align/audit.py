"""What `align audit` does: every measure of bias and privacy of a model, a reward model or a run.

The templates of `evals.bias` need no data. A language model answers them through its
log-likelihoods, as a task of `align eval`; a reward model is asked for scores. Of a run every stage
is audited on the same items, with the counterfactual tasks that the run names itself. Results lie
beside one another as those of `align eval`; finished ones are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.artifacts import StageJob, make_folder, path_hash, stage_lock, write_json_atomic
from align.config import EvalsConfig, RunConfig, TaskConfig
from align.data.sources import DataContext
from align.errors import UserError
from align.evaluation import check_owner, lone_run, model_name
from align.progress import Progress
from align.references import ModelReference
from align.settings import load_run
from align.stages import data_context, model_of

if TYPE_CHECKING:
    from evals.plan import Entry
    from evals.privacy.documents import KnownSet
    from reward.audit import Sampling

RUN_FOLDER, NAME = "6-audit", "audit.json"


@dataclass(frozen=True)
class Asked:
    """What a user asks of an audit."""

    templates: int
    """Drawn of each measure."""
    seed: int = 0
    pairs: Path | None = None
    """Preference pairs for the accuracy by group (a reward stage)."""
    groups: tuple[str, ...] = ()
    """Their columns."""
    out: str | None = None
    name: str | None = None
    train: Path | None = None
    """Texts that a model was trained on, for privacy."""
    heldout: Path | None = None
    """Texts like them that it was not."""


def run_audit(subject: str, settings: Sequence[str], asked: Asked, progress: Progress) -> list[str]:
    """Audit what `subject` names, write the results, and return lines for a terminal.

    Args:
        subject: Folder of a run, of a reward stage, or any model; or a table of predictions.
        settings: Of a model TASK=ROWS or key=value; of a run or table key=value.
        asked: Sample, pairs and places.
        progress: Where to report.

    Raises:
        UserError: Nothing of that name, a setting or an option does not fit, or nothing could be
            scored.
    """
    kind = subject_kind(subject)
    if kind == "predictions":
        return _audit_predictions(subject, settings, asked, progress)
    if kind != "reward" and (asked.pairs or asked.groups):
        raise UserError("--pairs and --group go with a reward stage or predictions", where=subject)
    if kind != "model" and (asked.train or asked.heldout):
        raise UserError("--train and --heldout go with a model", where=subject)
    if (asked.train is None) != (asked.heldout is None):
        raise UserError("--train needs --heldout, and --heldout needs --train", where=subject)
    if kind == "reward" and (asked.pairs is None) != (not asked.groups):
        raise UserError("--pairs needs --group, and --group needs --pairs", where=subject)
    if kind == "reward" and settings:
        raise UserError("a reward stage takes no settings", where=settings[0], allowed="--pairs")
    audits = {"run": _audit_run, "reward": _audit_reward, "model": _audit_model}
    folder, ledger = audits[kind](subject, settings, asked, progress)
    from evals.report.audit import audit_lines, write_page

    write_json_atomic(folder / NAME, ledger)
    page = write_page(folder, ledger)
    return ["", *audit_lines(ledger), f"results: {folder}; page: {page}"]


def subject_kind(subject: str) -> str:
    """`run`, `reward` (a reward stage), `predictions` (a table) or `model`."""
    from evals.prediction_rows import is_predictions

    place = Path(subject).expanduser()
    if is_predictions(subject):
        return "predictions"
    if (place / "config.yaml").is_file():
        return "run"
    from reward.parts import is_reward_stage

    return "reward" if is_reward_stage(place) else "model"


def _audit_predictions(
    subject: str, settings: Sequence[str], asked: Asked, progress: Progress
) -> list[str]:
    """A table of predictions, or a stored classification task; no model is loaded."""
    from align import __version__
    from evals.prediction_rows import prediction_columns
    from evals.predictions import audit_predictions
    from evals.report.predictions import prediction_lines, write_page
    from evals.stats import Resampling

    if asked.pairs is not None:
        raise UserError("--pairs goes with a reward stage", where=subject)
    columns, place = prediction_columns(settings), Path(subject).expanduser()
    name = asked.name or place.name.split(".")[0]
    progress.note(
        f"auditing predictions of {place.name} by {', '.join(asked.groups) or 'no group'}"
    )
    found = audit_predictions(subject, columns, asked.groups, Resampling(seed=asked.seed))
    about = {"name": name, "seed": asked.seed, "hash": path_hash(place), "alignkit": __version__}
    ledger = found | {"subject": about}
    folder = make_folder(Path(asked.out or "results") / name)
    with stage_lock(folder):
        write_json_atomic(folder / NAME, ledger)
        page = write_page(folder, ledger)
    return ["", *prediction_lines(ledger), f"results: {folder}; page: {page}"]


def _audit_run(
    subject: str, settings: Sequence[str], asked: Asked, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Every stage of a run, into its own folder."""
    from evals.audit import audit_stage
    from evals.drift import audit_drift
    from evals.plan import configured_entries, evaluated_stages
    from evals.privacy.documents import known_sets

    place = Path(subject).expanduser()
    progress.note(f"settings: {place / 'config.yaml'}, with which the run was made")
    whole = load_run(place / "config.yaml", settings)
    run = _bias_alone(whole)
    stages = evaluated_stages(run)
    inputs = {stage: _made(run, place, stage) for stage in stages}
    folder = make_folder(Path(asked.out) if asked.out else place / RUN_FOLDER)
    job = StageJob(folder, inputs, data_context(run), progress)
    own = configured_entries(run, job)
    with stage_lock(folder):
        ledger = _language_models(run, job, stages, own, asked)
        ledger |= _kept(run, job, stages, known_sets(run, job))
        audited = None
        if run.reward is not None:
            model = _made(run, place, "reward")
            pairs = _held_pairs(whole, job)
            items = {n: e.rows for n, e in own.items() if e.task.kind == "counterfactual"}
            audited = audit_stage(Path(model.base), job, _sampling(asked), pairs, items)
        ledger |= {"reward_model": audited, "subject": _subject(asked, run.name)}
        ledger["drift"] = audit_drift(folder, ledger)
    return folder, ledger


def _audit_model(
    subject: str, settings: Sequence[str], asked: Asked, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """One language model, on the templates and on further tasks."""
    from evals.harness import NAME as HARNESS
    from evals.plan import configured_entries, reference_text
    from evals.privacy.documents import given_set

    run = lone_run(subject, settings, tasks=None, out=asked.out or "results", name=asked.name)
    reference = model_of(run, Path(run.output), "base")
    assert reference is not None
    job = StageJob(
        make_folder(Path(run.output)), {run.name: reference}, data_context(run), progress
    )
    folder = make_folder(job.folder / run.name)
    with stage_lock(folder):
        check_owner(folder / HARNESS, reference, reference_text(reference, job.folder.parent))
        entries = configured_entries(run, job)
        ledger = _language_models(run, job, (run.name,), entries, asked)
        sets = [given_set(str(asked.train), str(asked.heldout), job)] if asked.train else []
        ledger |= _kept(run, job, (run.name,), sets)
    return folder, ledger | {"reward_model": None, "subject": _subject(asked, run.name)}


def _audit_reward(
    subject: str, settings: Sequence[str], asked: Asked, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """A reward stage by itself."""
    from align.config import SourceConfig
    from align.data.sources import load_rows
    from evals.audit import audit_stage

    name = asked.name or model_name(subject)
    folder = make_folder(Path(asked.out or "results") / name)
    job = StageJob(folder, {}, DataContext(root=None, world=None, seed=asked.seed), progress)
    pairs: tuple[Sequence[Any], tuple[str, ...]] | None = None
    if asked.pairs is not None:
        rows, _ = load_rows(SourceConfig(path=str(asked.pairs)), "preferences", job.data)
        unknown = [g for g in asked.groups if not any(g in row for row in rows)]
        if unknown:
            raise UserError(f"no column {', '.join(unknown)}", where=str(asked.pairs))
        pairs = (rows, asked.groups)
    with stage_lock(folder):
        audited = audit_stage(Path(subject).expanduser(), job, _sampling(asked), pairs, {})
    return folder, {"stages": [], "reward_model": audited, "subject": _subject(asked, name)}


def _language_models(
    run: RunConfig, job: StageJob, names: tuple[str, ...], own: Mapping[str, Entry], asked: Asked
) -> dict[str, Any]:
    """The ledger of language models on the templates and on tasks of their own."""
    from evals.bias.counterfactual import CounterfactualTask
    from evals.bias.template_items import IDENTITY, sample_items
    from evals.explanation import explain_models, require_captum
    from evals.plan import Entry
    from evals.run import evaluate_models

    if IDENTITY in own:
        raise UserError(f"task name {IDENTITY!r} is taken by the templates", where="evals.tasks")
    if run.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(run.threads)
    rows = sample_items(asked.templates, asked.seed)
    task = CounterfactualTask(IDENTITY, title="Identity swaps, own templates")
    record = {"source": "embedded templates", "rows": len(rows)}
    entry = Entry(task, rows, record, {"kind": task.kind})
    if run.audit.gradients:
        require_captum()
    ledger = evaluate_models(run, job, names, {IDENTITY: entry, **own})
    return ledger | {"cases": explain_models(run, job, names, IDENTITY, rows)}


def _kept(
    run: RunConfig, job: StageJob, names: tuple[str, ...], sets: Sequence[KnownSet]
) -> dict[str, Any]:
    """What the models have kept of their training data."""
    from evals.privacy.audit import audit_privacy

    return {"privacy": audit_privacy(run, job, names, sets)}


def _sampling(asked: Asked) -> Sampling:
    from reward.audit import Sampling

    return Sampling(asked.templates, asked.seed)


def _bias_alone(run: RunConfig) -> RunConfig:
    """The run with those of its tasks that measure bias, or answer for groups."""
    from evals.task import BiasTask
    from evals.tasks import build_task

    section = run.evals or EvalsConfig(tasks={})
    # A run's own YAML spells out every field; a task refuses those that its kind never reads.
    said = {
        name: TaskConfig.model_validate(task.model_dump(exclude_defaults=True))
        for name, task in section.tasks.items()
    }
    kept = {
        name: task
        for name, task in said.items()
        if task.groups or isinstance(build_task(name, task), BiasTask)
    }
    return run.model_copy(update={"evals": section.model_copy(update={"tasks": kept})})


def _made(run: RunConfig, place: Path, stage: str) -> ModelReference:
    """The model that a stage of the run has made.

    Raises:
        UserError: It has not.
    """
    reference = model_of(run, place, stage)
    assert reference is not None
    return reference


def _held_pairs(run: RunConfig, job: StageJob) -> tuple[Sequence[Any], tuple[str, ...]]:
    """Held-out pairs of the run and the group columns that they share with its tasks."""
    from evals.plan import held_rows

    rows, _ = held_rows(run.reward, "preferences", run, job)
    columns = {column for row in rows for column in row}
    tasks = run.evals.tasks.values() if run.evals else ()
    named = {column for task in tasks for column in task.groups}
    return rows, tuple(sorted(named & columns))


def _subject(asked: Asked, name: str) -> dict[str, Any]:
    """What was audited and how it was drawn."""
    from align import __version__
    from evals.bias.template_items import population_sizes

    return {
        "name": name,
        "templates": asked.templates,
        "seed": asked.seed,
        "population": population_sizes(),
        "alignkit": __version__,
    }
