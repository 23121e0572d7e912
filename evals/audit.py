"""The run's reward model in the evaluation: scores of responses, and audits of the model itself.

`audit_reward` is the part of the evaluation, `audit_stage` that of `align audit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from align.artifacts import StageJob, code_hash, json_hash, make_folder, write_json_atomic
from align.config import RunConfig
from align.references import resolve_reference
from evals.bias.counterfactual import DRAWS
from evals.bias.template_items import IDENTITY, sample_items
from evals.drift import EFFECTS, item_effects, remembering
from evals.plan import CODE, Entry, held_rows, reference_hash
from evals.preferences import COLUMNS, HELD_OUT, Judge, configured_pairs, judge_sets, pair_entry
from evals.prompts import ScoreFunction
from evals.samples import cached_json
from evals.stats import Resampling
from evals.task import item_ids
from evals.tasks.preference import pairs_of

if TYPE_CHECKING:
    from reward.audit import Sampling
    from reward.model import RewardModel

AUDIT_CODE = (*CODE, "evals.drift", "evals.stats", "evals.significance", "reward")
Grouped = tuple[Sequence[Any], tuple[str, ...]]
"""Preference pairs and the columns that hold groups."""


class Rewards(NamedTuple):
    """The reward model, loaded once and on first use: raw scores, and in units of their spread."""

    raw: Callable[[], RewardModel]
    normalised: Callable[[], ScoreFunction]


def reward_model(config: RunConfig, job: StageJob) -> Rewards | None:
    """The reward model of the run; None where it has none."""
    if config.reward is None or "reward" not in job.inputs:
        return None

    @cache
    def raw() -> RewardModel:
        from align.models import pick_device
        from reward.load import load_reward

        folder = Path(job.inputs["reward"].base)
        return load_reward(folder, device=pick_device(config.device))

    def normalised() -> ScoreFunction:
        return raw().normalising()

    return Rewards(raw, normalised)


def audit_reward(
    config: RunConfig,
    job: StageJob,
    entries: Mapping[str, Entry],
    rewards: Rewards,
    resampling: Resampling,
) -> dict[str, Any]:
    """The ledger's `reward_model`: from disk where it is up to date.

    Raises:
        UserError: See `reward.evaluate.evaluate_reward`.
    """
    section = config.evals
    assert section is not None
    bias_rows = {name: entries[name].rows for name in section.reward_bias}
    pairs, record = held_rows(config.reward, "preferences", config, job)
    groups = sorted({column for task in section.tasks.values() for column in task.groups})
    known = {column for row in pairs for column in row}
    weights = reference_hash(resolve_reference(job.inputs["reward"].base))
    key = {
        "reward": weights,
        "pairs": json_hash(item_ids(pairs)),
        "items": {name: entries[name].items for name in bias_rows},
        "groups": groups,
        "resampling": [resampling.resamples, resampling.confidence, resampling.seed],
        "code": code_hash((*CODE, "reward.evaluate")),
    }
    judge = Judge(rewards.raw, weights)
    sets = {HELD_OUT: pair_entry(judge, HELD_OUT, COLUMNS, pairs, record)}
    sets |= configured_pairs(config, job, judge)
    judged = judge_sets(config, replace(job, folder=job.folder / "reward"), judge, sets)
    qualities = {name: one.quality for name, one in judged.items()}
    path = job.folder / "reward" / "audit.json"
    stored: dict[str, Any] | None = cached_json(path, key)
    if stored is not None:
        return stored | {"pairs": qualities}
    from reward.evaluate import evaluate_reward

    job.progress.note(f"auditing the reward model on {len(pairs)} pairs")
    audit = evaluate_reward(
        rewards.raw(),
        replace(pairs_of(judged[HELD_OUT].result), rows=pairs),
        bias_rows,
        groups=[name for name in groups if name in known],
        resampling=resampling,
    )
    write_json_atomic(path, {"key": key, "value": audit})
    return audit | {"pairs": qualities}


def audit_stage(
    stage: Path,
    job: StageJob,
    sampling: Sampling,
    pairs: Grouped | None,
    items: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """The audit of a reward stage's score on templates, from disk where it is up to date.

    Args:
        stage: Its folder.
        job: Results go to `folder/reward`; effects item by item to a file of their own there.
        sampling: Templates and seed.
        pairs: For the accuracy by group.
        items: Task -> further items in the counterfactual format.

    Raises:
        UserError: See `reward.audit.audit_templates` and `reward.load.load_reward`.
    """
    key = {
        "reward": reference_hash(resolve_reference(str(stage))),
        "templates": [sampling.templates, sampling.seed],
        "pairs": None if pairs is None else [json_hash(item_ids(pairs[0])), list(pairs[1])],
        "items": {name: json_hash(item_ids(rows)) for name, rows in items.items()},
        "draws": DRAWS,
        "code": code_hash(AUDIT_CODE),
    }
    path = make_folder(job.folder / "reward") / "audit.json"
    stored: dict[str, Any] | None = cached_json(path, key)
    if stored is not None and cached_json(path.with_name(EFFECTS), key) is not None:
        return stored
    found = _measured(stage, job, sampling, pairs, items)
    found |= {"model": {"folder": str(stage), "hash": key["reward"]}}
    write_json_atomic(path.with_name(EFFECTS), {"key": key, "value": found.pop("effects")})
    write_json_atomic(path, {"key": key, "value": found})
    return found


def _measured(
    stage: Path,
    job: StageJob,
    sampling: Sampling,
    pairs: Grouped | None,
    items: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Load the reward model and ask it."""
    from reward.audit import adjusted, audit_templates
    from reward.evaluate import accuracy_by_group, audit_scores, score_pairs
    from reward.load import load_reward

    model, resampling = load_reward(stage), Resampling(DRAWS, seed=sampling.seed)
    job.progress.note(f"auditing the scores of {stage} on {sampling.templates} templates a measure")
    spread = model.settings.std if model.settings.n else None
    asked = remembering(model)
    found = audit_templates(asked, spread, sampling, resampling)
    found["spread_of"] = "held-out responses" if model.settings.n else "the templates' texts"
    head = {"stage": "reward", "task": IDENTITY}
    rows = [head | row for row in found["bias"]]
    for task, some in items.items():
        own = audit_scores(asked, some, found["spread"], task, resampling)
        rows += [head | {"task": task} | row for row in own]
    every = {
        IDENTITY: sample_items(sampling.templates, sampling.seed, sampling.attributes),
        **items,
    }
    found["effects"] = {
        task: item_effects(asked, some, found["spread"]) for task, some in every.items()
    }
    found["bias"], found["groups"] = adjusted(rows), []
    if pairs is not None and pairs[1]:
        found["groups"] = accuracy_by_group(score_pairs(model, pairs[0]), pairs[1])
    return found
