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
from evals.prompts import TOTAL, PromptsTask
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
        prompts: The held-out prompts; PPO's score is the proxy.

    Raises:
        UserError: No prompt could be answered, or a score is not finite.
    """
    assert config.evals is not None
    n, task = config.evals.best_of, prompts.task
    proxy = TOTAL if isinstance(task, PromptsTask) and task.total else "reward"
    if n < 2 or not isinstance(task, PromptsTask) or proxy not in task.named:
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
        names = {"proxy": proxy} | ({"gold": "gold"} if "gold" in task.named else {})
        scores = table(task.evaluate(engine, rows), n, names)
        engine.close()
        if job.team.main:
            write_json_atomic(path, {"key": key, "value": scores})
    if not scores["proxy"]:
        return None
    found = best_of_n({k: np.array(v) for k, v in scores.items()}, config.evals.confidence)
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


def table(result: TaskResult, n: int, names: Mapping[str, str]) -> dict[str, list[list[float]]]:
    """Scores by reward, one list a prompt; the responses of a prompt follow each other.

    Args:
        result: Of the prompts, each `n` times.
        n: Responses a prompt.
        names: Reward -> the score's name. A prompt with a response that one has no score for is
            left out.
    """
    columns = [[sample["scores"][name] for sample in result.samples] for name in names.values()]
    scores = np.array(columns, dtype=np.float64).reshape(len(names), -1, n)
    kept = scores[:, np.isfinite(scores).all(axis=(0, 2))]
    return dict(zip(names, kept.tolist(), strict=True))
