"""What is to be evaluated: tasks with their items, and the identity of models, items and code.

A result's key holds everything its numbers depend on. Batch size, progress and the settings of the
intervals are not in it: they change no stored row.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import align
from align.artifacts import StageJob, code_hash, json_hash, path_hash
from align.config import RunConfig
from align.data.sources import load_rows
from align.data.splits import split_holdout
from align.references import ModelReference
from evals.bias.open_generation import OpenTask
from evals.bias.open_prompts import EMBEDDED, embedded_prompts
from evals.bias.scorer_bias import KIND as SCORERS
from evals.bias.scorer_bias import ScorersTask, neutral_items
from evals.bias.suite import SuiteTask, draw_clusters
from evals.prompts import NAME as PROMPTS
from evals.prompts import Answering, PromptsTask
from evals.robustness import perturbed_task
from evals.task import Row, Task, item_ids
from evals.tasks import build_task
from evals.tasks.defined import DEFINED, defined_settings, with_examples

if TYPE_CHECKING:
    from align.config import SourceConfig, TaskConfig
    from align.data.formats import Kind
    from evals.engine import Engine
    from evals.rewards import Scoring

CODE = (
    "align.data.encoding",
    "align.adapters",
    "align.cache",
    "align.generation",
    "align.models",
    "align.packing",
    "align.products",
    "evals.answers",
    "evals.baselines",
    "evals.calibration",
    "evals.definitions",
    "evals.documents",
    "evals.engine",
    "evals.requests",
    "evals.metrics",
    "evals.perturb",
    "evals.perturb_words",
    "evals.schema",
    "evals.shots",
    "evals.task",
    "evals.templates",
    "evals.tasks",
    "evals.prompts",
    "evals.bias",
    "evals.heads",
    "evals.passes",
    "evals.sharing",
    "evals.stops",
    "align.data.world_people",
    "align.ppo.scale",
    "align.ppo.scoring",
    "align.ppo.terms",
    "reward.answers",
    "reward.classifier",
    "reward.combine",
    "reward.counterfactual",
    "reward.encoder",
    "reward.ensemble",
    "reward.functions",
    "reward.gold",
    "reward.lexical",
    "reward.load",
    "reward.members",
    "reward.model",
    "reward.parts",
    "reward.scorer",
    "reward.total",
    "reward.upper",
)
"""Modules that decide a stored row."""
STAGES = ("base", "sft", "ppo")
UNSTORED = {"data", "fewshot_data", "positive", "perturb"}
"""Fields that change no stored row: data are known by their items, `positive` chooses among sums,
and perturbed versions are results of their own."""


@dataclass(frozen=True)
class Entry:
    """A task and its items."""

    task: Task
    rows: Sequence[Row]
    record: Mapping[str, Any]
    """Of the data source, for the manifest."""
    settings: Mapping[str, Any]
    """What the scores depend on beside model, items and code."""
    original: str | None = None
    """The task that this one is a perturbed version of."""

    @property
    def items(self) -> str:
        """Hash of the items."""
        return json_hash(item_ids(self.rows))

    def signature(self, seed: int) -> str:
        """What stands beside the task's numbers: everything but the model."""
        parts = {
            "task": self.task.name,
            "kind": self.task.kind,
            "rows": len(self.rows),
            "items": self.items[:12],
            "source": self.record.get("source"),
            "split": self.record.get("split"),
            "shots": self.settings.get("num_fewshot") or 0,
            "version": self.settings.get("version"),
            "perturbation": self.settings.get("perturbation"),
            "decoding": self.task.decoding,
            "seed": seed,
            **{m.name: m.signature for m in self.task.metrics if m.signature},
            "alignkit": align.__version__,
        }
        return "|".join(f"{key}:{value}" for key, value in parts.items() if value is not None)


def evaluated_stages(config: RunConfig) -> tuple[str, ...]:
    """The stages of the run that make a language model, in order."""
    made = {"base": True, "sft": config.sft is not None, "ppo": config.ppo is not None}
    return tuple(stage for stage in STAGES if made[stage])


def configured_entries(config: RunConfig, job: StageJob) -> dict[str, Entry]:
    """The tasks of the configuration with their items.

    Raises:
        UserError: A task or its data is wrong; all tasks are built before any data are read.
    """
    assert config.evals is not None
    tasks = {name: build_task(name, section) for name, section in config.evals.tasks.items()}
    scorers = config.evals.scorers
    judges = known_judges(scorers, config.evals.hurtful)
    entries = {}
    if scorers and any(isinstance(task, OpenTask) for task in tasks.values()):
        entries[SCORERS] = scorers_entry(scorers, judges)
    for name, section in config.evals.tasks.items():
        rows: Sequence[Row]
        rows, record = task_rows(section, job)
        settings = section.model_dump(mode="json", exclude=UNSTORED)
        task = tasks[name]
        if isinstance(task, DEFINED):
            drawn = (
                load_rows(section.fewshot_data, "table", job.data) if section.fewshot_data else None
            )
            task = with_examples(task, None if drawn is None else drawn.rows)
            settings |= defined_settings(task)
        if isinstance(task, OpenTask):
            task = replace(task.judged(judges), scorers=scorers, hurtful=config.evals.hurtful)
            settings |= judges
        if isinstance(task, SuiteTask | OpenTask):
            rows = task.items(rows)
        elif section.clusters is not None and section.cluster is not None:
            rows = drawn_rows(rows, section.cluster, section.clusters, section.seed)
        entries[name] = Entry(task, rows, record, settings)
        for kind in section.perturb:
            version = perturbed_task(task, kind)
            changed = settings | {"perturbation": kind}
            entries[version.name] = Entry(version, rows, record, changed, name)
    return entries


def drawn_rows(rows: Sequence[Row], column: str, count: int, seed: int) -> list[Row]:
    """Rows of at most `count` clusters, drawn whole; a row without one is its own."""
    named = [{"cluster": str(row.get(column) or ""), "row": row} for row in rows]
    return [item["row"] for item in draw_clusters(named, count, seed)]


def task_rows(section: TaskConfig, job: StageJob) -> tuple[Sequence[Row], dict[str, Any]]:
    """Rows of a task and their record."""
    if section.kind == "open_prompts" and section.data.path == EMBEDDED:
        return (own := embedded_prompts()), {"source": "embedded prompts", "rows": len(own)}
    return load_rows(section.data, "text" if section.kind == "perplexity" else "table", job.data)


def known_judges(scorers: Mapping[str, str], hurtful: str | None) -> dict[str, Any]:
    """What responses are judged by, as it stands in the settings of open generation.

    Raises:
        UserError: A scorer or the file cannot be opened.
    """
    from reward.lexical import word_list
    from reward.scorer import open_scorer

    opened = {name: open_scorer(given, f"evals.scorers.{name}") for name, given in scorers.items()}
    known: dict[str, Any] = {"scored": {name: [*own[1:]] for name, own in opened.items()}}
    if hurtful is not None:
        known["words"] = f"{Path(hurtful).name} @{word_list(Path(hurtful), 'evals.hurtful')[1]}"
    return known


def scorers_entry(scorers: Mapping[str, str], judges: Mapping[str, Any]) -> Entry:
    """The scorers themselves on neutral sentences."""
    rows = neutral_items()
    identities = {name: known[0] for name, known in judges["scored"].items()}
    record = {"source": "embedded templates", "rows": len(rows)}
    settings = {"kind": SCORERS, "scorers": identities}
    return Entry(ScorersTask(scorers, identities), rows, record, settings)


def prompts_entry(config: RunConfig, job: StageJob, scoring: Scoring) -> Entry | None:
    """Held-out PPO prompts, answered under PPO's settings; None where the run has none."""
    if config.evals is None or config.evals.prompts == 0 or config.ppo is None:
        return None
    rows, record = held_rows(config.ppo, "prompts", config, job)
    rows = rows[: config.evals.prompts]
    answering = Answering(
        temperature=config.ppo.temperature,
        max_prompt_length=config.ppo.max_prompt_length,
        max_new_tokens=config.ppo.response_length,
        seed=config.seed,
    )
    task = PromptsTask(answering, scoring.scores, scoring.total)
    settings = asdict(answering) | {"scores": sorted(task.named), "kind": PROMPTS}
    return Entry(task, rows, record | {"rows": len(rows)}, settings | dict(scoring.settings))


def held_rows(
    section: Any, kind: Kind, config: RunConfig, job: StageJob
) -> tuple[list[Row], dict[str, Any]]:
    """Held-out rows of a training section: its `eval_data`, else the run's holdout of `data`."""
    source: SourceConfig | None = section.eval_data
    rows, record = load_rows(source or section.data, kind, job.data)
    if source is not None:
        return list(rows), record
    return list(split_holdout(rows, config.data.holdout, config.seed).held), record


def reference_hash(reference: ModelReference) -> str:
    """Identity of a model: the contents of its base and adapters; a hub id stands for itself."""
    places = [reference.base, *reference.adapters]
    hashes = [
        path_hash(Path(place)) if os.path.exists(place) else f"hub:{place}@{reference.revision}"
        for place in places
    ]
    return json_hash(hashes)


def reference_text(reference: ModelReference, run: Path) -> str:
    """A model for readers: base + adapters, local ones relative to the run's folder."""
    places = [reference.base, *reference.adapters]
    names = [
        Path(os.path.relpath(place, run)).as_posix() if os.path.exists(place) else place
        for place in places
    ]
    return " + ".join(names)


def model_key(config: RunConfig, reference: ModelReference) -> dict[str, Any]:
    """What a model's numbers depend on."""
    return {
        "model": reference_hash(reference),
        "dtype": config.dtype,
        "device": config.device,
        "code": code_hash(CODE),
    }


def open_engine(config: RunConfig, job: StageJob, stage: str) -> Engine:
    """The stage's model, ready to score."""
    from align.models import load_model, pick_device
    from evals.engine import Engine

    assert config.evals is not None
    loaded = load_model(job.inputs[stage], device=pick_device(config.device))
    return Engine(loaded.model, loaded.tokenizer, config.evals.batch_tokens, team=job.team)


def result_key(model: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    """What a task's numbers for a model depend on."""
    return {**model, "task": entry.task.name, "items": entry.items, "settings": entry.settings}
