"""N responses of one stage to every held-out prompt, scored: what best-of-n is computed from.

The stage is the one that PPO starts from, so both ways of optimising leave from the same policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from align.artifacts import StageJob, write_json_atomic
from align.config import RunConfig
from align.references import ModelReference
from evals.overoptimisation import best_of_n, over_training
from evals.plan import Entry, model_key, open_engine
from evals.prompts import PromptsTask
from evals.samples import cached_json
from evals.task import TaskResult

FILE = "best-of-n.json"
EVALUATIONS = "evaluations.jsonl"
"""In the folder of PPO: rewards of the held-out prompts at every evaluation."""


def optimisation_entries(config: RunConfig, job: StageJob, prompts: Entry | None) -> dict[str, Any]:
    """The ledger's `optimisation`: `best_of_n` and `ppo`, each where it was measured.

    Raises:
        UserError: See `best_of_entry`.
    """
    assert config.evals is not None
    policy = job.inputs.get("ppo")
    found = {
        "best_of_n": best_of_entry(config, job, prompts) if prompts else None,
        "ppo": training_entry(policy, config.evals.confidence) if policy else None,
    }
    return {name: entry for name, entry in found.items() if entry is not None}


def best_of_entry(config: RunConfig, job: StageJob, prompts: Entry) -> dict[str, Any] | None:
    """The ledger's `best_of_n`; None where none is asked for. Scores come from disk if up to date.

    Args:
        config: Its `evals.best_of` is N.
        job: Results go below its folder.
        prompts: The held-out prompts; the task's rewards are the proxy and gold.

    Raises:
        UserError: No prompt could be answered, or a score is not finite.
    """
    assert config.evals is not None
    n, task = config.evals.best_of, prompts.task
    if n < 2 or not isinstance(task, PromptsTask) or "reward" not in task.scores:
        return None
    stage = "sft" if config.sft is not None else "base"
    path = job.folder / stage / FILE
    model = model_key(config, job.inputs[stage])
    key = {**model, "items": prompts.items, "settings": prompts.settings, "samples": n}
    scores = job.team.from_main(partial(cached_json, path, key))
    if scores is None:
        engine = open_engine(config, job, stage)
        engine.progress, engine.label = job.progress, f"{stage}/best of {n}"
        rows = [row for row in prompts.rows for _ in range(n)]
        scores = table(task.evaluate(engine, rows), n)
        engine.close()
        if job.team.main:
            write_json_atomic(path, {"key": key, "value": scores})
    named = {"reward": "proxy", "gold": "gold"}
    found = best_of_n({named[k]: np.array(v) for k, v in scores.items()}, config.evals.confidence)
    return found | {"stage": stage}


def training_entry(policy: ModelReference, confidence: float) -> dict[str, Any] | None:
    """The ledger's `ppo`, from what PPO stored beside its policy.

    None where it evaluated fewer than twice.
    """
    path = Path((policy.adapters or (policy.base,))[-1]).parent / EVALUATIONS
    if not path.is_file():
        return None
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return over_training(rows, confidence) if len(rows) > 1 else None


def table(result: TaskResult, n: int) -> Mapping[str, list[list[float]]]:
    """Scores by reward, one list a prompt; the responses of a prompt follow each other."""
    kept = ("reward", "gold")
    columns = {k: [sample["scores"].get(k) for sample in result.samples] for k in kept}
    return {
        name: [values[start : start + n] for start in range(0, len(values), n)]
        for name, values in columns.items()
        if None not in values
    }
