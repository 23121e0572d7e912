"""One evaluation by lm-evaluation-harness: `python -m workers.lm_evals WORK` prints one JSON line.

Tasks are its own YAML files, included by files that name other rows and nothing else: prompts,
functions and metrics are those that it comes with.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import lm_eval.tasks
import torch
import yaml
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from workers.eval_work import EvalWork, Outcome, Part
from workers.measure import eval_report, timed


def task_file(part: Part, library: str) -> dict[str, Any]:
    """A task with the part's rows.

    Where the harness has no such task, ours serves: its fields are the harness's.
    """
    folder = Path(lm_eval.tasks.__file__).parent
    official = (
        folder / part.official if part.official else Path(library) / f"{part.definition}.yaml"
    )
    files = {"test": part.rows}
    written: dict[str, Any] = {
        "include": str(official),
        "task": part.name,
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "num_fewshot": part.shots,
    }
    if part.shots:
        files["examples"] = part.examples
        written |= {"fewshot_split": "examples", "fewshot_config": {"sampler": "first_n"}}
    return written


def outcome(name: str, found: dict[str, Any], seconds: tuple[float, float]) -> Outcome:
    """What both sides report."""
    items = {sample["doc_id"]: sample for sample in found["samples"][name]}  # of any filter
    samples = [items[number] for number in sorted(items)]
    responses = [[tries[0] for tries in sample["resps"]] for sample in samples]
    generated = isinstance(responses[0][0], str)
    asked = len(samples[0]["arguments"][0]) > 1
    return Outcome(
        *seconds,
        metrics={
            key.removesuffix(",none"): value
            for key, value in found["results"][name].items()
            if isinstance(value, float) and "_stderr" not in key
        },
        prompts=[sample["arguments"][0][0] for sample in samples] if asked else [],
        loglikelihoods=[] if generated else [list(map(_number, row)) for row in responses],
        texts=[row[0] for row in responses] if generated else [],
    )


def _number(response: Any) -> float:
    """Log-likelihood of a response, with or without the mark of greedy ones."""
    return float(response[0] if isinstance(response, list | tuple) else response)


def main() -> None:
    """Load once, score every part, print."""
    work = EvalWork.from_json(sys.argv[1])
    model = HFLM(
        pretrained=work.model,
        device="cpu",
        dtype=work.dtype,
        softmax_dtype=work.softmax or None,
        batch_size=work.batch,
        max_length=work.max_length,
    )
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for part in work.parts:
            text = yaml.safe_dump(task_file(part, work.library))
            Path(folder, f"{part.name}.yaml").write_text(text, encoding="utf-8")
        manager = TaskManager(include_path=folder, include_defaults=False)
        for part in work.parts:
            tasks = manager.load([part.name])
            found, seconds = timed(lambda tasks=tasks: evaluate(model, tasks, bootstrap_iters=0))
            outcomes[part.name] = outcome(part.name, found, seconds).to_dict()
    print(eval_report(outcomes, "lm_eval"))


if __name__ == "__main__":
    main()
