"""Capability tasks, and the table from a configured kind to its task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from align.config import TaskConfig
from align.errors import UserError
from evals.bias.counterfactual import CounterfactualTask
from evals.bias.open_generation import OpenTask
from evals.bias.open_prompts import OPEN
from evals.bias.suite import Suite, SuiteTask
from evals.bias.suites import SUITES
from evals.task import Task
from evals.tasks.classification import ClassificationTask
from evals.tasks.defined import build_defined
from evals.tasks.perplexity import PerplexityTask
from evals.tasks.translation import TranslationTask


def _suite_task(suite: Suite, name: str, config: TaskConfig) -> SuiteTask:
    """A suite's task."""
    return SuiteTask(name, suite, config.clusters, config.seed)


KINDS: Mapping[str, Callable[[str, TaskConfig], Task]] = {
    "classification": ClassificationTask.from_config,
    "translation": TranslationTask.from_config,
    "perplexity": lambda name, _: PerplexityTask(name),
    "counterfactual": lambda name, _: CounterfactualTask(name),
    **{kind: partial(_suite_task, suite) for kind, suite in SUITES.items()},
    **dict.fromkeys(OPEN, OpenTask.from_config),
}
USED = {
    "classification": {
        "prompt",
        "target",
        "choices",
        "positive",
        "chat",
        "groups",
        "cluster",
        "clusters",
        "seed",
        "perturb",
    },
    "translation": {"prompt", "target", "chat", "max_new_tokens"},
    "definition": {
        "chat",
        "system_prompt",
        "num_fewshot",
        "fewshot_data",
        "seed",
        "perturb",
        "groups",
        "cluster",
        "clusters",
    },
    **{kind: {"clusters", "seed"} for kind in SUITES},
    **{
        kind: {"clusters", "seed", "chat", "max_new_tokens", "samples", "temperature"}
        for kind in OPEN
    },
}
"""Optional fields that a kind reads; another one that is set is an error."""
RESERVED = ("prompts", "reward_model", "ppo", "reward", "pairs", "scorers")
"""Names that mean something else in the ledger and in the gate."""


def build_task(name: str, config: TaskConfig) -> Task:
    """The task of one entry of `evals.tasks`; reads no data.

    Raises:
        UserError: The name is taken, a field is missing, unused or malformed.
    """
    where = f"evals.tasks.{name}"
    if name in RESERVED or {"/", "+"} & set(name) or name.startswith("."):
        raise UserError(
            f"task name {name!r} cannot be used",
            where=where,
            allowed=f"any but {', '.join(RESERVED)}, without / and +",
        )
    kind = config.kind or "definition"
    unused = config.model_fields_set - {kind, "kind", "data"} - USED.get(kind, set())
    if unused:
        reader = "a definition" if config.kind is None else f"kind {kind}"
        raise UserError(
            f"{', '.join(sorted(unused))} is never read by {reader}",
            where=where,
            allowed=", ".join(sorted(USED.get(kind, {"kind", "data"}))),
        )
    if config.clusters is not None and config.cluster is None and kind not in {*SUITES, *OPEN}:
        raise UserError(
            "clusters draws whole clusters, and no column names them",
            where=f"{where}.clusters",
            remedy="set cluster to a column",
        )
    return KINDS[kind](name, config) if config.kind else build_defined(name, config)
