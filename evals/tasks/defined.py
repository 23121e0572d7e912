"""Tasks made from definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from align.config import TaskConfig
from align.errors import UserError
from align.files import json_hash
from evals.definitions import read_definition
from evals.shots import Asking, question_columns
from evals.task import Row
from evals.tasks.generation import GenerationTask
from evals.tasks.likelihood import LoglikelihoodTask, RollingTask
from evals.tasks.multiple_choice import MultipleChoiceTask

DefinedTask: TypeAlias = MultipleChoiceTask | LoglikelihoodTask | RollingTask | GenerationTask
DEFINED = (MultipleChoiceTask, LoglikelihoodTask, RollingTask, GenerationTask)
OUTPUTS: Mapping[str, Callable[[str, Asking], DefinedTask]] = {
    "multiple_choice": MultipleChoiceTask,
    "loglikelihood": LoglikelihoodTask,
    "loglikelihood_rolling": RollingTask,
    "generate_until": GenerationTask,
}


def build_defined(name: str, config: TaskConfig) -> DefinedTask:
    """The task of an entry of `evals.tasks` that names a definition; reads no rows.

    Raises:
        UserError: The definition is wrong, or the entry sets what it cannot use.
    """
    definition, where = read_definition(str(config.definition)), f"evals.tasks.{name}"
    given = config.num_fewshot
    shots = definition.num_fewshot if given is None else given
    chat = bool(config.chat)
    if definition.output_type == "loglikelihood_rolling" and (chat or shots):
        raise UserError(
            "whole documents are not asked", where=where, allowed="neither chat nor num_fewshot"
        )
    if config.system_prompt is not None and not chat:
        raise UserError(
            "needs the chat template", where=f"{where}.system_prompt", remedy="set chat: true"
        )
    if config.fewshot_data is not None and not shots:
        raise UserError(
            "is never read without examples",
            where=f"{where}.fewshot_data",
            remedy="set num_fewshot or remove it",
        )
    if config.perturb and definition.output_type != "multiple_choice":
        raise UserError(
            f"is never read by {definition.output_type}: a changed question may change the answer",
            where=f"{where}.perturb",
            allowed="definitions of multiple choice",
        )
    if config.perturb and not question_columns(definition):
        raise UserError(
            "doc_to_text has no column that neither choices nor target read",
            where=f"{where}.perturb",
            remedy="remove it",
        )
    refusals = any(entry.metric.startswith("refusal") for entry in definition.metric_list)
    chosen = definition.output_type == "multiple_choice"
    if config.groups and not (refusals or chosen):
        raise UserError(
            "is never read by this definition",
            where=f"{where}.groups",
            allowed="definitions of multiple choice, or with refusal",
        )
    if config.cluster is not None and not chosen:
        raise UserError(
            "is never read by this definition",
            where=f"{where}.cluster",
            allowed="definitions of multiple choice",
        )
    asking = Asking(name, definition, shots, chat, config.system_prompt, config.seed)
    if chosen:
        return MultipleChoiceTask(name, asking, config.groups, config.cluster)
    if config.groups:
        return GenerationTask(name, asking, group_columns=config.groups)
    return OUTPUTS[definition.output_type](name, asking)


def with_examples(task: DefinedTask, rows: Sequence[Row] | None) -> DefinedTask:
    """The task with the rows that its examples come from; None: its own."""
    examples = None if rows is None else tuple(rows)
    return replace(task, asking=replace(task.asking, examples=examples))


def defined_settings(task: DefinedTask) -> dict[str, Any]:
    """What the task's scores depend on beside items, model and code."""
    asking = task.asking
    return {
        "definition": asking.definition.model_dump(mode="json"),
        "version": asking.definition.metadata.version,
        "num_fewshot": asking.shots,
        "chat": asking.chat,
        "examples": None if asking.examples is None else json_hash(asking.examples),
    }
