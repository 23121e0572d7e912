"""Our engine as a model of an installed lm-evaluation-harness, and its tasks as ours.

Only this module imports `lm_eval` (extra `lm-eval`). A task named here may download its official
rows and run the python functions of its definition, as in lm-evaluation-harness itself.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from align.complaints import nearest
from align.data.encoding import encode_prompt
from align.errors import UserError
from evals.requests import text_request
from evals.stops import Answer, Stops
from evals.tasks.borrowed import KIND, ROWS, BorrowedTask

if TYPE_CHECKING:
    from evals.engine import Engine

SEED = 1234
"""Of the examples' draw and of sampled responses: lm-evaluation-harness's default."""
OURS = {"until", "max_gen_toks", "do_sample", "temperature"}
"""Settings of generation that the engine has."""


class EngineLM(LM):  # type: ignore[misc]  # lm_eval is untyped
    """Answers lm-evaluation-harness's requests with `Engine`.

    Attributes:
        problems: Item -> why a request of its could not be answered.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.problems: dict[int, str] = {}

    def missing(self) -> dict[str, int]:
        """Reason -> items that could not be scored."""
        return dict(Counter(self.problems.values()))

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Summed log-probability of each continuation, and whether it is the greedy one."""
        asked = [text_request(self.engine.tokenizer, *request.args) for request in requests]
        found = self.engine.loglikelihoods(asked)
        for request, own, total in zip(requests, asked, found.sums, strict=True):
            if total != total:
                self.problems[request.doc_id] = self.engine.problem(own) or "not finite"
        return list(zip(found.sums.tolist(), found.greedy.tolist(), strict=True))

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-likelihood of whole documents."""
        sums = self.engine.rolling([request.args[0] for request in requests]).sums
        for request, total in zip(requests, sums, strict=True):
            if total != total:
                self.problems[request.doc_id] = "empty document"
        return [float(total) for total in sums]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Responses up to the first stop; requests of the same settings together."""
        texts = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(place)
        for settings, places in groups.items():
            answers = self._answers([requests[place] for place in places], json.loads(settings))
            for place, text in zip(places, answers, strict=True):
                texts[place] = text
        return texts

    def _answers(self, requests: Sequence[Any], settings: Mapping[str, Any]) -> list[str]:
        """Responses under one setting; "" where a prompt leaves no room."""
        unknown = sorted(set(settings) - OURS)
        if unknown:
            raise UserError(
                f"generation with {', '.join(unknown)}", allowed=", ".join(sorted(OURS))
            )
        engine, new = self.engine, int(settings.get("max_gen_toks", 256))
        room = engine.max_length - new
        prompts = [encode_prompt(engine.tokenizer, request.args[0]) for request in requests]
        fitting = [place for place, ids in enumerate(prompts) if len(ids) <= room]
        for place in set(range(len(requests))) - set(fitting):
            self.problems[requests[place].doc_id] = f"longer than {room} tokens"
        stop = settings.get("until") or ()
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        rows, texts = [prompts[place] for place in fitting], [""] * len(requests)
        for place, answer in zip(fitting, self._drawn(rows, new, stop, settings), strict=True):
            texts[place] = answer.text
        return texts

    def _drawn(
        self, prompts: list[list[int]], new: int, stop: tuple[str, ...], settings: Mapping[str, Any]
    ) -> list[Answer]:
        """Greedy or sampled answers."""
        temperature = float(settings.get("temperature") or 0)
        if not (settings.get("do_sample") and temperature):
            return self.engine.generate(prompts, new, stop)
        end = Stops(self.engine.tokenizer, stop)
        return [end.answer(r) for r in self.engine.sample(prompts, new, temperature, SEED)]


def borrow_tasks(
    names: Sequence[str], folder: Path | None, limit: int | None, shots: int | None
) -> list[tuple[BorrowedTask, list[dict[str, Any]]]]:
    """Tasks of lm-evaluation-harness with their rows.

    Args:
        names: Tasks, groups or tags; a group stands for its tasks.
        folder: More definitions (`--include-path`).
        limit: At most so many rows a task, the first ones.
        shots: Examples before a question; None: the task's own number.

    Raises:
        UserError: There is no such task, its rows cannot be read, or we cannot run it.
    """
    manager = TaskManager(include_path=None if folder is None else str(folder))
    for name in names:
        if name not in manager.all_tasks:
            raise UserError(
                f"lm-evaluation-harness has no task {name!r}",
                allowed=nearest(name, manager.all_tasks),
                remedy="--include-path names a folder of more",
            )
    try:
        loaded = manager.load(list(names))["tasks"]
    except (OSError, ValueError) as error:
        raise UserError(
            f"the rows of {', '.join(names)} cannot be read ({error})",
            remedy="they come from the hub, or from the definition's data_files",
        ) from error
    return [(_borrowed(name, task, shots), _rows(task, limit)) for name, task in loaded.items()]


def run_task(model: EngineLM, name: str, task: Any, items: int) -> list[dict[str, Any]]:
    """Every item and filter of a task, with its values of the metrics."""
    found = evaluate(
        lm=model,
        task_dict={"tasks": {name: task}, "groups": {}},
        limit=items,
        bootstrap_iters=0,
        log_samples=True,
    )
    samples: list[dict[str, Any]] = found["samples"][name]
    return samples


def _borrowed(name: str, task: Any, shots: int | None) -> BorrowedTask:
    """A task with what its scores depend on."""
    if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
        raise UserError(f"{name} runs generated code or needs images", allowed="other tasks")
    if shots is not None and task.get_config("num_fewshot") != 0:  # 0 there forbids examples
        task.set_config(key="num_fewshot", value=shots)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=SEED)
    # functions stand there by their source, some by an address that changes
    dumped = json.dumps(task.dump_config(), default=lambda value: type(value).__name__)
    config = json.loads(re.sub(r" at 0x[0-9a-f]+", "", dumped))
    settings = {
        "kind": KIND,
        "lm_eval": lm_eval.__version__,
        "version": task.VERSION,
        "output_type": config["output_type"],
        "num_fewshot": config["num_fewshot"],
        "seed": SEED,
        # the rows are known by their hashes, wherever they lie
        "config": {k: v for k, v in config.items() if k not in ("dataset_kwargs", "metadata")},
        "metrics": _metrics(task),
    }
    return BorrowedTask(name.replace("/", "__"), settings, task)


def _metrics(task: Any) -> dict[str, dict[str, str]]:
    """Metric, with its filter, -> aggregation and direction, as far as there are rows for it."""
    better = {True: "higher", False: "lower"}
    ways = {name: getattr(way, "__name__", "") for name, way in task.aggregation().items()}
    filters = [entry.name for entry in task._filters]
    return {
        name if reading == "none" else f"{name},{reading}": {
            "aggregation": way,
            "better": better.get(task.higher_is_better().get(name), "none"),
        }
        for reading in filters
        for name, way in ways.items()
        if way in ROWS
    }


def _rows(task: Any, limit: int | None) -> list[dict[str, Any]]:
    """The first rows of a task as plain JSON."""
    rows = list(task.eval_docs)[:limit]
    return [json.loads(json.dumps(row, default=str)) for row in rows]
