"""One evaluation by alignkit: `python -m workers.ours_evals WORK` prints one JSON line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.eval_work import EvalWork, Outcome, Part
from workers.measure import eval_report, timed

from align.models import load_model
from align.references import ModelReference
from evals.definitions import read_definition
from evals.engine import Engine
from evals.schema import ShotsConfig
from evals.shots import Asking
from evals.task import Task, TaskResult
from evals.tasks.defined import OUTPUTS
from evals.tasks.perplexity import COLUMNS


def read_rows(file: str) -> tuple[Mapping[str, Any], ...]:
    """Rows of a JSON Lines file."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return tuple(map(json.loads, lines))


def task_of(part: Part) -> Task:
    """Our task; examples are the first rows, as on the other side."""
    first = {"fewshot_config": ShotsConfig(sampler="first_n")}
    definition = read_definition(part.definition).model_copy(update=first)
    examples = read_rows(part.examples) if part.examples else None
    asking = Asking(part.name, definition, part.shots, examples=examples)
    return OUTPUTS[definition.output_type](part.name, asking)


def loglikelihoods(sample: Mapping[str, Any]) -> list[float]:
    """Of an item's choices, answer or document."""
    if "logprobs" in sample:
        return list(sample["logprobs"])
    if "logprob" in sample:
        return [sample["logprob"]]
    return [-sample[COLUMNS[0]]] if COLUMNS[0] in sample else []


def outcome(task: Task, result: TaskResult, seconds: tuple[float, float]) -> Outcome:
    """What both sides report."""
    samples = result.samples
    found = [loglikelihoods(sample) for sample in samples]
    return Outcome(
        *seconds,
        metrics={m.name: float(m.combine(result.stats[m.stat].sum(0))) for m in task.metrics},
        prompts=[sample["prompt"] for sample in samples if "prompt" in sample],
        loglikelihoods=[scores for scores in found if scores],
        texts=[s["response"] for s, scores in zip(samples, found, strict=True) if not scores],
    )


def main() -> None:
    """Load once, score every part, print."""
    work = EvalWork.from_json(sys.argv[1])
    loaded = load_model(ModelReference(work.model, dtype=work.dtype), device="cpu")
    engine = Engine(loaded.model, loaded.tokenizer)
    engine.max_length = work.max_length
    outcomes = {}
    for part in work.parts:
        task, rows = task_of(part), read_rows(part.rows)
        result, seconds = timed(lambda task=task, rows=rows: task.evaluate(engine, rows))
        outcomes[part.name] = outcome(task, result, seconds).to_dict()
    print(eval_report(outcomes, "alignkit"))


if __name__ == "__main__":
    main()
