"""The evaluation stage: every model of the run on the same items, then the ledger.

Each model is loaded once and scored on every task whose stored result is not up to date. Numbers,
comparisons and tables come from the stored rows afterwards, so they can be made again without a
model. The ledger is written last. Several processes score together; the main one alone reads and
writes results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from align.artifacts import StageJob, StageResult, write_json_atomic
from align.config import RunConfig
from align.errors import UserError
from evals.audit import audit_reward, reward_model
from evals.candidates import optimisation_entries
from evals.harness import write_harness
from evals.ledger import Results, build_ledger
from evals.overlap import overlap_key, overlap_table
from evals.plan import (
    Entry,
    configured_entries,
    evaluated_stages,
    model_key,
    open_engine,
    prompts_entry,
    reference_hash,
    reference_text,
    result_key,
)
from evals.prompts import NAME as PROMPTS
from evals.prompts import ScoreFunction
from evals.requests import Request
from evals.rewards import scoring
from evals.samples import cached_json, save_result, stored_result
from evals.stats import Resampling
from evals.stored import RESULT
from evals.task import TaskResult
from evals.tasks.classification import ClassificationTask

if TYPE_CHECKING:
    from evals.engine import Engine

_PROBE_ROWS, _PROBE_TOKENS = 4, 16


@dataclass(frozen=True)
class _Run:
    """What the steps of one evaluation share."""

    config: RunConfig
    job: StageJob
    entries: Mapping[str, Entry]


class _Stored(NamedTuple):
    """Results of one stage on disk."""

    model: dict[str, Any]
    """What the model's numbers depend on."""
    keys: dict[str, dict[str, Any]]
    """What each task's numbers depend on."""
    found: dict[str, TaskResult | None]
    """None where a result is not up to date."""
    probe: list[float] | None


def run_evals(config: RunConfig, job: StageJob, gold: ScoreFunction | None = None) -> StageResult:
    """Evaluate every stage and write `ledger.json`.

    Args:
        config: The run, with a section `evals`.
        job: `inputs` holds base, sft, ppo and, for scores of responses, reward (its base is the
            reward stage's folder).
        gold: An unbiased score of responses that is only watched.

    Raises:
        UserError: A task or its data is wrong, an adapter changes nothing, or nothing could be
            scored.
    """
    section = config.evals
    assert section is not None
    rewards = reward_model(config, job)
    entries = configured_entries(config, job)
    prompts = prompts_entry(config, job, scoring(config, job, rewards, gold))
    if prompts is not None:
        entries[PROMPTS] = prompts
    run = _Run(config, job, entries)
    resampling = Resampling(section.resamples, section.confidence, config.seed)
    results = _evaluate(run, evaluated_stages(config))
    optimised = optimisation_entries(config, job, prompts)
    if not job.team.main:
        return StageResult(metrics={})
    overlap = _overlap(run)
    found = {row["task"]: frozenset(row.pop("items")) for row in overlap}
    results = replace(results, contaminated=found)
    audited = audit_reward(config, job, entries, rewards, resampling) if rewards else None
    ledger = build_ledger(results, resampling) | {
        "models": _models(run, results.stages),
        "reward_model": audited,
        "overlap": overlap,
        "optimisation": optimised,
    }
    _write_results(run, results, ledger)
    write_json_atomic(job.folder / "ledger.json", ledger)
    own = {name: entry.record for name, entry in entries.items() if entry.original is None}
    records = [{"task": name, **record} for name, record in own.items()]
    return StageResult(metrics=_metrics(ledger), data=records)


def evaluate_models(
    config: RunConfig, job: StageJob, names: tuple[str, ...], entries: Mapping[str, Entry]
) -> dict[str, Any]:
    """Evaluate models on tasks outside a run's stage, and return the ledger (main process).

    Args:
        config: Its `evals` says how.
        job: Results go below `folder / name`; `inputs` holds each model under its name.
        names: The models', in the order in which they are compared.
        entries: The tasks.

    Raises:
        UserError: Nothing could be scored, or a model equals the one before.
    """
    section = config.evals
    assert section is not None
    run = _Run(config, job, entries)
    resampling = Resampling(section.resamples, section.confidence, config.seed)
    results = _evaluate(run, names)
    if not job.team.main:
        return {}
    ledger = build_ledger(results, resampling) | {"models": _models(run, names)}
    _write_results(run, results, ledger)
    return ledger


def _evaluate(run: _Run, stages: tuple[str, ...]) -> Results:
    """Results of all stages; those up to date are read."""
    scored: dict[tuple[str, str], TaskResult] = {}
    probes: dict[str, list[float]] = {}
    for stage in stages:
        found, probe = _evaluate_stage(run, stage, probes)
        scored |= {(stage, name): result for name, result in found.items()}
        probes[stage] = probe
    seed = run.config.seed
    return Results(
        stages=stages,
        tasks={name: entry.task for name, entry in run.entries.items()},
        signatures={name: entry.signature(seed) for name, entry in run.entries.items()},
        scored=scored,
        originals={name: e.original for name, e in run.entries.items() if e.original},
    )


def _evaluate_stage(
    run: _Run, stage: str, probes: dict[str, list[float]]
) -> tuple[dict[str, TaskResult], list[float]]:
    """All tasks on one model, loaded only if a result is not up to date; and its probe."""
    folder, team = run.job.folder / stage, run.job.team
    stored = team.from_main(lambda: _stored(run, stage))
    found, probe = stored.found, stored.probe
    if probe is None or None in found.values():
        engine = open_engine(run.config, run.job, stage)
        probe = _probe(engine)
        _check_changed(stage, probe, probes)
        engine.progress = run.job.progress
        if team.main:
            write_json_atomic(folder / "probe.json", {"key": stored.model, "value": probe})
        for name, entry in run.entries.items():
            if found[name] is None:
                engine.label = f"{stage}/{name}"
                result = entry.task.evaluate(engine, entry.rows)
                if team.main:
                    save_result(folder / name, result, stored.keys[name])
                found[name] = result
        engine.close()
    else:
        run.job.progress.note(f"{stage}: all tasks up to date")
    return {name: result for name, result in found.items() if result is not None}, probe


def _stored(run: _Run, stage: str) -> _Stored:
    """What the stage's folder holds that is up to date."""
    folder = run.job.folder / stage
    model = model_key(run.config, run.job.inputs[stage])
    keys = {name: result_key(model, entry) for name, entry in run.entries.items()}
    return _Stored(
        model=model,
        keys=keys,
        found={name: stored_result(folder / name, key) for name, key in keys.items()},
        probe=cached_json(folder / "probe.json", model),
    )


def _probe(engine: Engine) -> list[float]:
    """Log-likelihoods of a few fixed token sequences: equal for equal models only."""
    size = engine.model.config.get_text_config().vocab_size
    shape = (_PROBE_ROWS, min(_PROBE_TOKENS, engine.max_length))
    ids = np.random.default_rng(0).integers(0, size, size=shape).tolist()
    requests = [Request((row[0],), tuple(row[1:])) for row in ids]
    return [float(value) for value in engine.loglikelihoods(requests).sums]


def _check_changed(stage: str, probe: list[float], earlier: dict[str, list[float]]) -> None:
    """Refuse a stage that predicts exactly what the one before does.

    Raises:
        UserError: Its adapter was not active, or changes nothing.
    """
    before = next(reversed(earlier), None)
    if before is not None and earlier[before] == probe:
        raise UserError(
            f"the models of {before} and {stage} give exactly the same logits",
            where="evals",
            remedy=f"check that {stage}'s adapter was trained and is loaded",
        )


def _overlap(run: _Run) -> list[dict[str, Any]]:
    """Items that share a passage with the training text; from disk where it is up to date."""
    path = run.job.folder / "overlap.json"
    own = {name: entry for name, entry in run.entries.items() if entry.original is None}
    key = overlap_key(run.config, run.job, own)
    stored: list[dict[str, Any]] | None = cached_json(path, key)
    if stored is None:
        stored = overlap_table(run.config, run.job, own)
        write_json_atomic(path, {"key": key, "value": stored})
    return stored


def _models(run: _Run, stages: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Name and hash of each stage's model."""
    folder = run.job.folder.parent
    references = {stage: run.job.inputs[stage] for stage in stages}
    return {
        stage: {
            "reference": reference_text(reference, folder),
            "hash": reference_hash(reference),
        }
        for stage, reference in references.items()
    }


def _write_results(run: _Run, results: Results, ledger: Mapping[str, Any]) -> None:
    """Write `result.json` of each stage and task: its part of the ledger, with its signature.

    All of a stage's stand once more in lm-evaluation-harness's JSON.
    """
    for stage, name in results.scored:
        if name in results.originals:
            continue
        own = {"stage": stage, "task": name}
        tables = {
            table: [row for row in ledger[table] if row["stage"] == stage and row["task"] == name]
            for table in (
                "estimates",
                "baselines",
                "robustness",
                "groups",
                "group_differences",
                "group_gaps",
                "bias",
                "missing",
            )
        }
        task = next(row for row in ledger["tasks"] if row["name"] == name)
        result = results.scored[stage, name]
        model = ledger["models"][stage]["hash"]
        content = task | own | {"n": len(result.ids), "missing": sum(result.missing.values())}
        content |= {"signature": f"{task['signature']}|model:{model[:12]}"}
        content |= {"reasons": tables.pop("missing")} | tables
        if isinstance(kind := results.tasks[name], ClassificationTask):
            content |= {"positive": kind.positive}
        write_json_atomic(run.job.folder / stage / name / RESULT, content)
    for stage in results.stages:
        write_harness(run.job.folder / stage, ledger["models"][stage])


def _metrics(ledger: Mapping[str, Any]) -> dict[str, float]:
    """Every estimate under stage/task/metric, for the stage's manifest."""
    return {
        f"{row['stage']}/{row['task']}/{row['metric']}": row["value"] for row in ledger["estimates"]
    }
