"""Results in lm-evaluation-harness's JSON (0.4.13), for the tools that read it.

The file is made from the stored `result.json` of every task of a model alone. Names of metrics are
ours; a filter stands behind the comma. Departure: the standard error of F1, BLEU, perplexity and
the like is the jackknife's over items (clusters where there are some), where lm-evaluation-harness
bootstraps or has none. No date, so that the same evaluation gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.artifacts import write_json_atomic
from align.config.evaluation import OPEN, SUITES
from evals.bias.scorer_bias import KIND as SCORERS
from evals.evidence import is_number
from evals.stored import Stored, stored_tasks
from evals.tasks.borrowed import KIND as BORROWED

NAME = "results_lm_eval.json"
OUTPUTS = {
    "classification": "multiple_choice",
    "translation": "generate_until",
    "prompts": "generate_until",
    "perplexity": "loglikelihood_rolling",
    "counterfactual": "loglikelihood",
    **dict.fromkeys(SUITES, "loglikelihood"),
    **dict.fromkeys(OPEN, "generate_until"),
    SCORERS: "none",
}
"""Kind of a task -> output type."""
BETTER = {"higher": True, "lower": False, "none": None}


def write_harness(folder: Path, model: Mapping[str, str]) -> None:
    """Write `results_lm_eval.json` beside the tasks of a model; those of other weights stay out.

    Args:
        folder: The model's folder.
        model: Its `reference` and `hash`.
    """
    tasks = stored_tasks(folder)
    own = {name: task for name, task in tasks.items() if task.key["model"] == model["hash"]}
    write_json_atomic(folder / NAME, harness_results(own, model))


def harness_results(tasks: Mapping[str, Stored], model: Mapping[str, str]) -> dict[str, Any]:
    """The content of the file: the keys of `lm_eval.result_schema.EvalResults` that we know."""
    return {
        "results": {name: _metrics(name, task.content) for name, task in tasks.items()},
        "group_subtasks": {},
        "configs": {name: _config(name, task.settings) for name, task in tasks.items()},
        "versions": {
            name: task.settings["version"]
            for name, task in tasks.items()
            if "version" in task.settings
        },
        "n-shot": {name: task.settings.get("num_fewshot", 0) for name, task in tasks.items()},
        "higher_is_better": {
            name: {
                row["metric"].partition(",")[0]: BETTER[row["better"]]
                for row in task.content["estimates"]
            }
            for name, task in tasks.items()
        },
        "n-samples": {name: _count(task.content) for name, task in tasks.items()},
        "config": {
            "model": "alignkit",
            "model_args": {"pretrained": model["reference"]},
            "model_sha": model["hash"],
            "model_dtype": next((task.key["dtype"] for task in tasks.values()), "auto"),
        },
        "model_source": "alignkit",
        "model_name": model["reference"],
        "task_hashes": {name: task.key["items"] for name, task in tasks.items()},
    }


def _metrics(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """`acc,none` and `acc_stderr,none` of every metric; what is undefined is N/A."""
    metrics = {"name": name, "alias": name, "sample_len": content["n"]}
    for row in content["estimates"]:
        metric, _, reading = row["metric"].partition(",")
        for key, value in ((metric, row["value"]), (f"{metric}_stderr", row.get("stderr"))):
            metrics[f"{key},{reading or 'none'}"] = value if is_number(value) else "N/A"
    return metrics


def _config(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The task's definition, or the settings of its kind."""
    if settings.get("kind") == BORROWED:
        return dict(settings["config"])
    if "kind" not in settings:
        return {**settings["definition"], "task": name, "num_fewshot": settings["num_fewshot"]}
    return {**settings, "task": name, "output_type": OUTPUTS[settings["kind"]], "num_fewshot": 0}


def _count(content: Mapping[str, Any]) -> dict[str, int]:
    """Items given and scored."""
    return {"original": content["n"] + content["missing"], "effective": content["n"]}
