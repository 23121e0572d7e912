"""Run a configuration's stages in order: skip what is up to date, resume what was killed.

An artifact is skipped when its configuration, inputs, code and outputs all agree with its
manifest; otherwise the run says which differed. Each manifest is written last, so a killed stage
is simply not complete and goes on from its last checkpoint. Of several processes the main one does
this, and the others join it for the evaluation.
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
from align.inputs import references, stage_record
from align.progress import Progress
from align.settings import config_hash
from align.stages import STAGES, Stage, data_context, sources
from align.team import ALONE, Team
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
    team: Team


def run_pipeline(
    config: RunConfig,
    *,
    until: str | None,
    command: str,
    progress: Progress,
    team: Team = ALONE,
) -> RunSummary:
    """Bring a run up to date.

    Args:
        config: The run.
        until: Last stage to run; None: all, and the report.
        command: The command line, for the manifests.
        progress: Where to report.
        team: The processes of this command; each of them calls this.

    Raises:
        UserError: Bad input; found before any training starts where that is possible. Several
            processes, and a stage that trains is not up to date.
    """
    start = time.monotonic()
    run = Path(config.output) / config.name
    _set_threads(config, team)
    if not team.main:
        _join_evaluation(config, run, _Context(data_context(config), progress, team))
        return RunSummary(run, (), None, None, time.monotonic() - start)
    stages = _wanted(config, until)
    make_folder(run)
    with stage_lock(run):
        _prepare(config, run)
        context = _Context(data_context(config), progress, team)
        ran: list[str] = []
        checked = False
        for stage in stages:
            record = stage_record(config, run, stage, command)
            reason = staleness(run / stage.folder, record)
            if reason is None:
                progress.note(f"{stage.folder}: up to date")
                continue
            _check_alone(stage, reason, team)
            if not checked:
                _check_arguments(config, stage)
                _check_data(config, stages[stages.index(stage) :], context.data)
                checked = True
            progress.note(f"{stage.folder}: running ({reason})")
            _run_stage(config, run, stage, record, context)
            ran.append(stage.name)
        if "evals" not in ran:
            team.exchange(None)
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
    """Write the resolved configuration."""
    import yaml

    dumped = config.model_dump(mode="json", exclude_none=True)
    text = f"# config hash {config_hash(config)}\n" + yaml.safe_dump(dumped, sort_keys=False)
    path = run / "config.yaml"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text_atomic(path, text)


def _set_threads(config: RunConfig, team: Team) -> None:
    """Set the number of threads of torch, or of its later import."""
    if config.threads is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    if team.count > 1:  # to connect them has imported torch
        import torch

        torch.set_num_threads(config.threads)


def _check_alone(stage: Stage, reason: str, team: Team) -> None:
    """Refuse to train with several processes.

    Raises:
        UserError: The stage is another one than the evaluation.
    """
    if team.count > 1 and stage.name != "evals":
        raise UserError(
            f"this stage has to run ({reason}), but {team.count} processes only evaluate",
            where=stage.folder,
            remedy="run it in one process first, without a launcher",
        )


def _join_evaluation(config: RunConfig, run: Path, context: _Context) -> None:
    """Take part in the main process's evaluation, if it comes to one."""
    folder = context.team.from_main(lambda: None)
    if folder is not None:
        stage = STAGES[-1]
        stage.run(config, _job(config, run, stage, folder, context))


def _check_arguments(config: RunConfig, first: Stage) -> None:
    """Check further trainer arguments from the first stage to run on, rewards, and tasks.

    Only a section that gives such arguments makes this load a trainer's library.
    """
    for stage in STAGES[STAGES.index(first) :]:
        section = getattr(config, stage.name)
        if stage.check is not None and section is not None and section.trainer:
            stage.check(config)
    if config.ppo is not None and first.name != "evals":
        from reward.combine import check_rewards

        check_rewards(config.ppo.rewards)
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
    job = _job(config, run, stage, folder, context)
    if stage.name == "evals":
        context.team.exchange(folder)
    start = time.monotonic()
    result = stage.run(config, job)
    seconds = time.monotonic() - start
    from align.models import pick_device

    done = replace(record, seconds=seconds, device=pick_device(config.device))
    write_manifest(folder, done, result)
    close_workspace(folder, artifact)
    context.progress.note(f"{stage.folder}: done in {seconds:.0f} s")


def _job(config: RunConfig, run: Path, stage: Stage, folder: Path, context: _Context) -> StageJob:
    """What the stage is given."""
    models = references(config, run, stage)
    return StageJob(folder, models, context.data, context.progress, context.team)


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
