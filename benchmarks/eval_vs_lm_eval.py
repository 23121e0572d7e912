"""Evaluation side by side with lm-evaluation-harness 0.4.13: the same numbers, time, memory.

    python benchmarks/eval_vs_lm_eval.py                            SmolLM2-135M, float32
    python benchmarks/eval_vs_lm_eval.py --dtype bfloat16 --save
    python benchmarks/eval_vs_lm_eval.py --tasks arc_easy lambada --limit 50 --peer-batch 1 16

Both sides read the same rows and the same weights. The harness runs its own task files; ours runs
the definitions in `evals/library`. MMLU and GSM8K show five examples, the first ones on both
sides; MMLU is asked subject by subject. The sides run in turn, each in a fresh process with the
same threads (OMP_NUM_THREADS). Seconds run from rows in memory to metrics: loading model and files
is not in them. Of several `--peer-batch` the fastest counts for each task, and the least memory.

The harness's softmax in float32 errs by 1e-5 nats a token on CPUs, always to one side: in torch
log_softmax is less exact than logsumexp. So log-likelihoods are compared with those of a further
run of it, not timed, whose softmax is float64.

In float64 (`--dtype float64`, slow) both sides run all of it so, and what they differ by is no
rounding.

The last line is one JSON object. `equal`: every prompt and generated text is the same, every
log-likelihood within 1e-4 nats (of long documents within 1e-6 of it), every metric within 1e-6 of
it, perplexities within 1e-5. `speedup_choice` and `speedup_all` are the peer's seconds over ours,
of multiple choice and of all tasks together; `memory_ratio` is our peak memory over the peer's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib.eval_rows import CHOICE, SOURCES, parts
from lib.parity import Parity, mean_metrics, parity, together
from lib.side_by_side import alternate, finish, provenance, ratio, run_worker
from peers import PROJECT, peer_python
from workers.eval_work import EvalWork, Outcome

GGUF = PROJECT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
DATA = PROJECT.parent / "shared" / "data"
Report = dict[str, Any]
"""What a worker prints: outcomes by part, memory_gb, versions."""


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--limit", type=int, help="items a task; default: its own")
    parser.add_argument("--gguf", type=Path, default=GGUF, help="SmolLM2's file (make smollm2)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public slices")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default="float32")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens the model may see")
    parser.add_argument("--peer-batch", nargs="+", default=["16"], help="numbers, or auto")
    parser.add_argument("--rounds", type=int, default=1, help="pairs of runs")
    parser.add_argument(
        "--save",
        nargs="?",
        const="",
        metavar="NAME",
        help="write it to benchmarks/results/, with a name at the end of the file's",
    )
    chosen = parser.parse_args(words)
    if chosen.limit is not None and chosen.limit < 1:
        parser.error(f"--limit {chosen.limit}; allowed: 1 or more")
    if not chosen.gguf.is_file():
        parser.error(f"no file {chosen.gguf}; `make smollm2` fetches it, or name it with --gguf")
    if not chosen.data.is_dir():
        parser.error(f"no folder {chosen.data}; name the slices of public sets with --data")
    return chosen


def prepare(chosen: argparse.Namespace, folder: Path) -> EvalWork:
    """Convert the model, write the rows, and say what both sides do."""
    request = json.dumps({"base": str(chosen.gguf)})
    model = run_worker(sys.executable, "workers.prepare", request)["model"]
    found = [p for task in chosen.tasks for p in parts(task, chosen.data, folder, chosen.limit)]
    library = str(PROJECT / "evals" / "library")
    return EvalWork(model, tuple(found), chosen.dtype, chosen.max_length, library=library)


def run_ours(work: EvalWork) -> Report:
    """Our side in a fresh process."""
    return _said("ours", run_worker(sys.executable, "workers.ours_evals", work.to_json()))


def run_peer(work: EvalWork, python: Path, batches: Sequence[str]) -> Report:
    """The peer, with every batch size in a fresh process; see `fastest`."""
    works = [replace(work, batch=batch) for batch in batches]
    reports = [run_worker(python, "workers.lm_evals", each.to_json()) for each in works]
    return fastest([_said(f"lm-eval, batch {b}", r) for b, r in zip(batches, reports, strict=True)])


def exact_outcomes(work: EvalWork, python: Path, ours: Report) -> dict[str, Any]:
    """The peer's outcomes of what is scored, not generated, with a softmax in float64."""
    scored = tuple(p for p in work.parts if ours["outcomes"][p.name]["loglikelihoods"])
    if not scored or work.dtype == "float64":
        return {}
    asked = replace(work, parts=scored, batch="1", softmax="float64")
    report = run_worker(python, "workers.lm_evals", asked.to_json())
    outcomes: dict[str, Any] = _said("lm-eval, exact", report)["outcomes"]
    return outcomes


def _said(name: str, report: Report) -> Report:
    """The report, after a line about it."""
    seconds = sum(part["seconds"] for part in report["outcomes"].values())
    print(f"{name:<20}{seconds:9.1f} s{report['memory_gb']:7.2f} GB", flush=True)
    return report


def fastest(reports: Sequence[Report]) -> Report:
    """Each part as the fastest report has it, the least memory of all."""
    outcomes = {
        part: min((report["outcomes"][part] for report in reports), key=lambda o: o["seconds"])
        for part in reports[0]["outcomes"]
    }
    return {
        **reports[0],
        "outcomes": outcomes,
        "memory_gb": min(report["memory_gb"] for report in reports),
    }


def seconds_of(report: Report, names: Sequence[str]) -> float:
    """Seconds of some parts together."""
    return float(sum(report["outcomes"][name]["seconds"] for name in names))


def compare(
    work: EvalWork, runs: Sequence[tuple[Report, Report]], exact: Mapping[str, Any]
) -> dict[str, Any]:
    """The result of all rounds; numbers are compared in the first one, `exact` ones come first."""
    ours, peer = ([run[place] for run in runs] for place in (0, 1))
    tasks = list(dict.fromkeys(part.task for part in work.parts))
    names = {task: [p.name for p in work.parts if p.task == task] for task in tasks}
    found = {task: task_row(names[task], ours, peer, exact) for task in tasks}
    choice = [name for task in tasks if task in CHOICE for name in names[task]]
    every = [part.name for part in work.parts]

    def speedup(wanted: Sequence[str]) -> Any:
        return ratio([seconds_of(r, wanted) for r in peer], [seconds_of(r, wanted) for r in ours])

    whole = speedup(every)
    chosen = speedup(choice) if choice else None
    memory = ratio([r["memory_gb"] for r in ours], [r["memory_gb"] for r in peer])
    return {
        "benchmark": "eval_vs_lm_eval",
        "equal": all(row["equal"] for row in found.values()),
        "speedup_choice": chosen and chosen.median,
        "speedup_choice_range": chosen and [chosen.low, chosen.high],
        "speedup_all": whole.median,
        "speedup_all_range": [whole.low, whole.high],
        "memory_ratio": memory.median,
        "memory_ratio_range": [memory.low, memory.high],
        "rounds": len(runs),
        "dtype": work.dtype,
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "max_length": work.max_length,
        "tasks": found,
        "ours": _side(ours),
        "peer": _side(peer),
        **provenance(None),
    }


def task_row(
    names: Sequence[str],
    ours: Sequence[Report],
    peer: Sequence[Report],
    exact: Mapping[str, Any],
) -> dict[str, Any]:
    """One task: items, seconds, parity and the metrics of both sides."""
    pairs = [
        (Outcome(**ours[0]["outcomes"][name]), Outcome(**peer[0]["outcomes"][name]))
        for name in names
    ]
    best = [Outcome(**exact[name]) if name in exact else None for name in names]
    found = [parity(a, numbers or b) for (a, b), numbers in zip(pairs, best, strict=True)]
    same, sizes = together(found), [part.items for part in found]
    seconds = [
        statistics.median(seconds_of(report, names) for report in side) for side in (ours, peer)
    ]
    return {
        "n": same.items,
        "seconds_ours": seconds[0],
        "seconds_peer": seconds[1],
        "cpu_seconds_ours": sum(a.cpu_seconds for a, _ in pairs),
        "cpu_seconds_peer": sum(b.cpu_seconds for _, b in pairs),
        "speedup": seconds[1] / seconds[0],
        "equal": same.equal,
        **_differences(same),
        "metrics_ours": mean_metrics(sizes, [a.metrics for a, _ in pairs]),
        "metrics_peer": mean_metrics(sizes, [b.metrics for _, b in pairs]),
    }


def _differences(same: Parity) -> dict[str, float]:
    """What differs, by name."""
    return {
        "prompts_differ": same.prompts,
        "texts_differ": same.texts,
        "largest_nats": same.nats,
        "beyond_tolerance": same.beyond,
        "largest_metric_difference": same.metrics,
        "metrics_differ": same.wrong,
    }


def _side(reports: Sequence[Report]) -> dict[str, Any]:
    """Memory and versions of a side."""
    memory = statistics.median(report["memory_gb"] for report in reports)
    return {"memory_gb": memory, "versions": reports[0]["versions"]}


def table(result: Mapping[str, Any]) -> str:
    """Tasks side by side."""
    lines = [f"{'':<12}{'n':>6}{'ours, s':>10}{'peer, s':>10}{'peer/ours':>11}  same numbers"]
    for name, row in result["tasks"].items():
        times = f"{row['seconds_ours']:>10.1f}{row['seconds_peer']:>10.1f}{row['speedup']:>11.2f}"
        lines.append(f"{name:<12}{row['n']:>6}{times}  {'yes' if row['equal'] else 'NO'}")
    return "\n".join(lines)


def main() -> None:
    """Run all rounds, print the table and the result."""
    chosen = arguments()
    python = peer_python("lm-eval")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        work = prepare(chosen, Path(folder))
        runs = alternate(
            lambda _: run_ours(work),
            lambda _: run_peer(work, python, chosen.peer_batch),
            chosen.rounds,
        )
        exact = exact_outcomes(work, python, runs[0][0])
    result = compare(work, runs, exact) | {"peer_batch": chosen.peer_batch}
    print(table(result))
    name = "-".join(["eval_vs_lm_eval", chosen.dtype, "cpu", *filter(None, [chosen.save])])
    finish(result, None if chosen.save is None else name)


if __name__ == "__main__":
    main()
