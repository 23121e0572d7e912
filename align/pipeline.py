"""Run a configuration's stages in order: skip what is up to date, resume what was killed.

An artifact is skipped when its configuration, inputs, code and outputs all agree with its
manifest; otherwise the run says which differed. Each manifest is written last, so a killed stage
is simply not complete and goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from align.artifacts import (
    StageJob,
    StageRecord,
    code_hash,
    make_folder,
    path_hash,
    stage_lock,
    staleness,
    write_json_atomic,
    write_manifest,
    write_text_atomic,
)
from align.config import RunConfig
from align.data.sources import DataContext, load_rows
from align.errors import UserError
from align.progress import Progress
from align.references import ModelReference
from align.settings import config_hash
from align.stages import STAGES, Stage, data_context, model_of, sources
from align.workspace import close_workspace, open_workspace


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        folder: The run's folder.
        ran: Names of the stages that ran; the others were up to date.
        report: The report's page; None where the run stops before it.
        verdict: The gate's outcome and reasons; None without a report.
        seconds: Wall-clock seconds of this call.
    """

    folder: Path
    ran: tuple[str, ...]
    report: Path | None
    verdict: str | None
    seconds: float


@dataclass(frozen=True)
class _Context:
    """What all stages of one call share."""

    data: DataContext
    progress: Progress


def run_pipeline(
    config: RunConfig, *, until: str | None, command: str, progress: Progress
) -> RunSummary:
    """Bring a run up to date.

    Args:
        config: The run.
        until: Last stage to run; None: all, and the report.
        command: The command line, for the manifests.
        progress: Where to report.

    Raises:
        UserError: Bad input; found before any training starts where that is possible.
    """
    start = time.monotonic()
    run = make_folder(Path(config.output) / config.name)
    stages = _wanted(config, until)
    with stage_lock(run):
        _prepare(config, run)
        context = _Context(data_context(config), progress)
        ran: list[str] = []
        checked = False
        for stage in stages:
            record = _record(config, run, stage, command)
            reason = staleness(run / stage.folder, record)
            if reason is None:
                progress.note(f"{stage.folder}: up to date")
                continue
            if not checked:
                _check_arguments(config, stage)
                _check_data(config, stages[stages.index(stage) :], context.data)
                checked = True
            progress.note(f"{stage.folder}: running ({reason})")
            _run_stage(config, run, stage, record, context)
            ran.append(stage.name)
        report, verdict = (None, None)
        if until is None and config.evals is not None:
            report, verdict = _report(config, run, bool(ran))
            _say_changes(run, progress)
    return RunSummary(run, tuple(ran), report, verdict, time.monotonic() - start)


def rebuild_report(run: Path, config: RunConfig | None = None) -> tuple[Path, str]:
    """Write the report of a finished run again from its stored results.

    Raises:
        UserError: The folder holds no evaluated run.
    """
    from align.settings import load_run

    if not (run / "config.yaml").is_file():
        raise UserError("no run in this folder: config.yaml is missing", where=str(run))
    return _write_report(run, config or load_run(run / "config.yaml"))


def _wanted(config: RunConfig, until: str | None) -> list[Stage]:
    """The stages that the configuration has, up to `until`."""
    names = [stage.name for stage in STAGES]
    if until is not None and getattr(config, until) is None:
        has = ", ".join(name for name in names if getattr(config, name) is not None)
        raise UserError(f"the configuration has no section `{until}`", allowed=has)
    last = len(names) if until is None else names.index(until) + 1
    return [stage for stage in STAGES[:last] if getattr(config, stage.name) is not None]


def _prepare(config: RunConfig, run: Path) -> None:
    """Write the resolved configuration and set the number of threads of later imports."""
    import yaml

    dumped = config.model_dump(mode="json", exclude_none=True)
    text = f"# config hash {config_hash(config)}\n" + yaml.safe_dump(dumped, sort_keys=False)
    path = run / "config.yaml"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text_atomic(path, text)
    if config.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)


def _record(config: RunConfig, run: Path, stage: Stage, command: str) -> StageRecord:
    """What the stage's artifact depends on."""
    common = {"seed", "device", "dtype", "threads", "world"}
    settings = config.model_dump(mode="json", include={*common, stage.name, *stage.reads})
    settings["holdout"] = config.data.holdout
    return StageRecord(
        stage=stage.folder,
        config=settings,
        inputs={**_model_inputs(config, run, stage), **_data_inputs(config, stage)},
        code=code_hash(stage.code),
        command=command,
        seed=config.seed,
    )


def _model_inputs(config: RunConfig, run: Path, stage: Stage) -> dict[str, dict[str, str]]:
    """Path and hash of every folder or file of the models a stage starts from."""
    inputs = {}
    for role, reference in _references(config, run, stage).items():
        places = [reference.base, *reference.adapters]
        for number, place in enumerate(places):
            key = role if len(places) == 1 else f"{role}.{number}"
            inputs[key] = {"path": _relative(place, run / stage.folder), "hash": _hash(place)}
    return inputs


def _hash(place: str) -> str:
    """Content hash of a local model; a hub id stands for itself."""
    return path_hash(Path(place)) if os.path.exists(place) else f"hub:{place}"


def _relative(place: str, folder: Path) -> str:
    """A local path relative to the stage's folder."""
    return os.path.relpath(place, folder) if os.path.exists(place) else place


def _data_inputs(config: RunConfig, stage: Stage) -> dict[str, dict[str, str]]:
    """Path and hash of every data file and task definition a stage reads."""
    inputs = _definition_inputs(config) if stage.name == "evals" else {}
    for key, (source, _) in sources(config, stage.name).items():
        if source.path is not None:
            path = Path(config.data.root or ".") / source.path
            if path.exists():  # otherwise reading it says what is missing
                inputs[key] = {"path": source.path, "hash": path_hash(path)}
    return inputs


def _definition_inputs(config: RunConfig) -> dict[str, dict[str, str]]:
    """Path and hash of the run's own task definitions; the library's count as code."""
    named = (
        {k: str(task.definition) for k, task in config.evals.tasks.items()} if config.evals else {}
    )
    return {
        f"evals.tasks.{name}.definition": {"path": path, "hash": path_hash(Path(path))}
        for name, path in named.items()
        if path.endswith((".yaml", ".yml")) and Path(path).exists()
    }


def _references(config: RunConfig, run: Path, stage: Stage) -> dict[str, ModelReference]:
    """The models a stage starts from, by role."""
    found = {role: model_of(config, run, name) for role, name in stage.models.items()}
    return {role: reference for role, reference in found.items() if reference is not None}


def _check_arguments(config: RunConfig, first: Stage) -> None:
    """Check further trainer arguments from the first stage to run on, and the tasks' templates.

    Only a section that gives such arguments makes this load a trainer's library.
    """
    for stage in STAGES[STAGES.index(first) :]:
        section = getattr(config, stage.name)
        if stage.check is not None and section is not None and section.trainer:
            stage.check(config)
    if config.evals is not None:
        from evals.tasks import build_task

        for name, settings in config.evals.tasks.items():
            build_task(name, settings)


def _check_data(config: RunConfig, stages: list[Stage], data: DataContext) -> None:
    """Read every local source of the stages to come once, before hours go into training."""
    seen: set[tuple[str, str]] = set()
    for stage in stages:
        for source, kind in sources(config, stage.name).values():
            key = (source.model_dump_json(), kind)
            if source.path is not None and key not in seen:
                seen.add(key)
                load_rows(source, kind, data)  # type: ignore[arg-type]


def _run_stage(
    config: RunConfig, run: Path, stage: Stage, record: StageRecord, context: _Context
) -> None:
    """Run one stage in its workspace; its manifest completes it, and it takes its place."""
    artifact = run / stage.folder
    folder = open_workspace(artifact, record, keep_results=stage.name == "evals")
    job = StageJob(folder, _references(config, run, stage), context.data, context.progress)
    start = time.monotonic()
    result = stage.run(config, job)
    seconds = time.monotonic() - start
    from align.models import pick_device

    done = replace(record, seconds=seconds, device=pick_device(config.device))
    write_manifest(folder, done, result)
    close_workspace(folder, artifact)
    context.progress.note(f"{stage.folder}: done in {seconds:.0f} s")


def _report(config: RunConfig, run: Path, changed: bool) -> tuple[Path, str]:
    """The report's page and verdict, written again only when something changed."""
    page, stored = run / "report" / "index.html", run / "report" / "built.json"
    wanted = {
        "report": config_hash(config.report),
        "ledger": path_hash(run / "5-evals" / "ledger.json"),
        "code": code_hash(("evals.report", "evals.gate", "evals.evidence")),
    }
    if not changed and page.exists() and stored.exists():
        before = json.loads(stored.read_text(encoding="utf-8"))
        if before["wanted"] == wanted:
            return page, before["verdict"]
    page, verdict = _write_report(run, config)
    write_json_atomic(stored, {"wanted": wanted, "verdict": verdict})
    return page, verdict


def _say_changes(run: Path, progress: Progress) -> None:
    """The closing table: what changed from stage to stage."""
    from evals.report import stage_summary

    rows = stage_summary(json.loads((run / "5-evals" / "ledger.json").read_text(encoding="utf-8")))
    if not rows:
        return
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(rows[0]))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        progress.note("  ".join(cells).rstrip())


def _write_report(run: Path, config: RunConfig) -> tuple[Path, str]:
    """Build the report from stored results."""
    from evals.report import build_report

    result = build_report(run, config.report)
    return result.path, result.verdict
