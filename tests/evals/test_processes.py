"""Evaluation over several processes: the numbers of one, to the bit."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from align.models import save_model
from align.pipeline import run_pipeline
from align.progress import NullProgress, Progress
from align.settings import load_run
from align.team import Team
from evals.engine import Engine
from evals.requests import Request

# Starts as `align eval` does; what this process then does is scripted.
FAULT = """
import os, signal, sys, time
import align.pipeline
from align.cli import main
from align.errors import UserError

def fake(run, *, team, **_):
    if sys.argv[2] == "main":
        if team.main:
            raise UserError("the disk is full")
    elif not team.main:
        if sys.argv[2] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"told": UserError, "broken": ValueError}[sys.argv[2]]("row 7 is bad")
    team.exchange(1)
    time.sleep(60)

align.pipeline.run_pipeline = fake
sys.exit(main(["eval", sys.argv[1]]))
"""


InThreads = Callable[[int, Callable[[Team], Any]], list[Any]]


def requests(n: int = 60) -> list[Request]:
    """Choices that share contexts, one empty answer, one too long for the model."""
    generator = np.random.default_rng(0)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(generator.integers(3, 300, generator.integers(low, high)).tolist())

    contexts = [ids(1, 40) for _ in range(n)]
    asked = [Request(context, ids(1, 9)) for context in contexts for _ in range(3)]
    return [*asked, Request((4,), ()), Request(ids(90, 91), ids(9, 10))]


def everything(engine: Engine) -> list[Any]:
    """Every kind of work of an engine, as plain values."""
    generator = np.random.default_rng(1)
    prompts = [generator.integers(3, 300, n % 17 + 2).tolist() for n in range(140)]
    texts = ["the baker sold bread " * (n % 9 * 4) + "soup" * (n > 0) for n in range(20)]
    scored = [engine.loglikelihoods(requests()), engine.rolling(texts)]
    stop = engine.generate(prompts[:1], 4)[0].text[1:3]
    greedy = engine.generate(prompts, 12, (stop, "the"))
    assert stop
    assert len({answer.finished for answer in greedy}) == 2
    sampled = [engine.sample(prompts, 9, 0.8, seed=5), engine.sample(prompts[:3], 9, 0.8, seed=5)]
    return [*(part.tolist() for score in scored for part in score), greedy, *sampled]


def noting(engine: Engine, sizes: list[int]) -> Engine:
    """The engine, which notes how many tokens each of its batches for scores holds, padded."""
    score = engine._passes.score

    def noted(batch: Any, *rest: Any) -> Any:
        sizes.append(len(batch) * max(map(len, batch)))
        return score(batch, *rest)

    engine._passes.score = noted  # type: ignore[method-assign]
    return engine


@pytest.mark.parametrize("count", [2, 5])
def test_processes_have_the_numbers_of_one_to_the_bit(
    in_threads: InThreads, engine: Engine, count: int
) -> None:
    whole: list[int] = []
    expected = everything(noting(engine, whole))
    shares: list[list[int]] = [[] for _ in range(count)]

    def work(team: Team) -> list[Any]:
        own = Engine(engine.model, engine.tokenizer, engine.batch_tokens, team=team)
        return everything(noting(own, shares[team.rank]))

    for found in in_threads(count, work):
        assert repr(found) == repr(expected)  # NaN equals NaN there
    # Every batch runs once. In each of the two calls that score, the busiest process is ahead of
    # the least busy by one batch at most, as that was dealt to the least busy then.
    assert sorted(chain(*shares)) == sorted(whole)
    busy = [sum(share) for share in shares]
    assert max(busy) - min(busy) <= 2 * engine.batch_tokens


def test_fewer_batches_than_processes_leave_some_idle(
    in_threads: InThreads, engine: Engine
) -> None:
    asked = [Request((5, 6), (7,)), Request((8,), (9, 10))]
    expected = engine.loglikelihoods(asked).sums.tolist()
    found = in_threads(
        3,
        lambda team: Engine(engine.model, engine.tokenizer, team=team).loglikelihoods(asked).sums,
    )
    assert [sums.tolist() for sums in found] == [expected] * 3


def test_memory_that_runs_out_on_one_process_shrinks_the_batches_of_all(
    in_threads: InThreads, engine: Engine
) -> None:
    asked = requests()
    expected = engine.loglikelihoods(asked)

    def work(team: Team) -> tuple[list[float], int]:
        own = Engine(engine.model, engine.tokenizer, 500, team=team)
        score = own._passes.score

        def limited(batch: Any, *rest: Any) -> Any:
            if team.rank == 1 and len(batch) > 5:
                raise torch.OutOfMemoryError("no memory")
            return score(batch, *rest)

        own._passes.score = limited  # type: ignore[method-assign]
        return own.loglikelihoods(asked).sums.tolist(), own.batch_tokens

    (sums, tokens), other = in_threads(2, work)
    np.testing.assert_allclose(sums, expected.sums, atol=1e-4)
    assert repr(other) == repr((sums, tokens))
    assert tokens < 500


def test_the_main_process_shows_its_own_share(in_threads: InThreads, engine: Engine) -> None:
    out = [io.StringIO(), io.StringIO()]

    def work(team: Team) -> None:
        progress = Progress(out=out[team.rank], quiet=not team.main)
        own = Engine(engine.model, engine.tokenizer, 256, progress, team=team)
        own.generate([[5] * 10] * 40, 6)

    in_threads(2, work)
    # 16 tokens a sequence: batches of 16, 16 and 8; the first process has the first and the last.
    assert out[0].getvalue().split()[:2] == ["scoring", "24/24"]
    assert out[1].getvalue() == ""


def test_work_is_dealt_by_tokens(engine: Engine, in_threads: InThreads) -> None:
    out = io.StringIO()

    def work(team: Team) -> None:
        progress = Progress(out=out, quiet=not team.main)
        own = Engine(engine.model, engine.tokenizer, 20, progress, team=team)
        own.generate([[5] * 84, *[[5] * 4] * 8], 6)

    in_threads(2, work)
    # One batch of 90 tokens for the first process, four of 2 x 10 for the second.
    assert out.getvalue().split()[:2] == ["scoring", "1/1"]


RUN = {
    "name": "small",
    "device": "cpu",
    "reward": {
        "data": {"world": "preferences", "limit": 24},
        "eval_data": {"world": "heldout_preferences", "limit": 20},
        "batch_size": 8,
        "max_length": 160,
        "lora": {"r": 4, "alpha": 8},
    },
    "ppo": {
        "data": {"world": "prompts", "limit": 16},
        "eval_data": {"world": "heldout_prompts", "limit": 70},
        "episodes": 16,
        "batch_size": 16,
        "micro_batch_size": 8,
        "learning_rate": 0.01,
        "lora": {"r": 4, "alpha": 8},
        "max_prompt_length": 140,
        "response_length": 8,
    },
    "evals": {
        "prompts": 70,
        "batch_tokens": 1200,
        "resamples": 100,
        "tasks": {
            "sentiment": {
                "kind": "classification",
                "data": {"world": "sentiment", "limit": 20},
                "prompt": "{text} ?",
                "target": "label",
                "choices": ["positive", "negative"],
            },
            "translation": {
                "kind": "translation",
                "data": {"world": "translation", "limit": 30},
                "prompt": "translate to tavi : {source}",
                "target": "target",
                "max_new_tokens": 8,
            },
            "text": {"kind": "perplexity", "data": {"world": "heldout_text", "limit": 30}},
        },
    },
}


def launch(project: Path, *command: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    """A command of two processes, as a user starts it."""
    config = project / "configs" / "accelerate" / "ddp.yaml"
    launcher = ["--config_file", str(config), "--num_processes", "2", "--main_process_port", "0"]
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *launcher, *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


@pytest.mark.slow
def test_two_launched_processes_write_what_one_writes(
    project: Path, workplace: Path, tiny_tokenizer: Any, model_of: Callable[..., Any]
) -> None:
    save_model(model_of(0, context=256), tiny_tokenizer, workplace / "base")
    (workplace / "run.yaml").write_text(yaml.safe_dump(RUN | {"model": {"base": "base"}}))
    early = launch(project, "-m", "align", "eval", "run.yaml")
    assert [line for line in early.stderr.splitlines() if line.startswith("error: ")] == [
        "error: 3-reward: this stage has to run (not complete: no manifest), but 2 processes only "
        "evaluate; run it in one process first, without a launcher"
    ]
    assert early.returncode != 0
    run_pipeline(load_run(Path("run.yaml"), ()), until=None, command="", progress=NullProgress())
    alone, together = Path("alone"), Path("runs/small/5-evals")
    shutil.move(together, alone)
    shutil.rmtree("runs/small/report")
    done = launch(project, "-m", "align", "run", "run.yaml")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("base/text") == done.stdout.count("report: ") == 1
    files = {path.relative_to(alone) for path in alone.rglob("*") if path.is_file()}
    assert {p.relative_to(together) for p in together.rglob("*") if p.is_file()} == files
    for file in files - {Path("manifest.json")}:  # it holds the time
        assert (together / file).read_bytes() == (alone / file).read_bytes(), file
    again = launch(project, "-m", "align", "eval", "run.yaml")
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.splitlines()[-1] == "5-evals: up to date"


@pytest.mark.slow
def test_two_launched_processes_evaluate_a_lone_model(
    project: Path, workplace: Path, tiny_tokenizer: Any, model_of: Callable[..., Any]
) -> None:
    save_model(model_of(0, context=256), tiny_tokenizer, workplace / "base")
    rows = [{"text": f"the dog saw house {n % 7} and a {'red' * n}"} for n in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"kind": "perplexity", "data": {"path": "rows.jsonl"}}
    Path("tasks.yaml").write_text(yaml.safe_dump({"evals": {"tasks": {"text": task}}}))
    command = ["align", "eval", "base", "--tasks", "tasks.yaml"]
    alone = subprocess.run(
        [sys.executable, "-m", *command, "--out", "alone"],
        env=os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert alone.returncode == 0, alone.stderr[-2000:]
    done = launch(project, "-m", *command, "--out", "together")
    assert done.returncode == 0, done.stderr[-2000:]
    shown = alone.stdout.replace("alone/base", "together/base")
    assert done.stdout.splitlines()[1:] == shown.splitlines()[1:]  # the first is the progress
    files = {path.relative_to("alone") for path in Path("alone").rglob("*") if path.is_file()}
    assert Path("base/text/result.json") in files
    for file in files - {Path("base/.lock")}:  # it names a process
        assert ("together" / file).read_bytes() == ("alone" / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("main", ["error: the disk is full"]),
        ("told", ["error: process 1: row 7 is bad"]),
        ("broken", ["ValueError: row 7 is bad"]),
        ("killed", []),
    ],
)
def test_one_process_that_fails_ends_both_with_one_message(
    project: Path, workplace: Path, fault: str, said: list[str]
) -> None:
    Path("run.yaml").write_text(yaml.safe_dump(RUN | {"model": {"base": "base"}}))
    Path("fault.py").write_text(FAULT)
    done = launch(project, "fault.py", "run.yaml", fault, timeout=50)  # less than the sleep
    assert done.returncode != 0
    lines = done.stderr.splitlines()
    found = [line for line in lines if "row 7" in line or "full" in line]
    found = [line.removeprefix("[rank1]: ") for line in found if "raise" not in line]
    assert found == said
    assert done.stderr.count("Traceback") == 1 + (fault == "broken")  # one is the launcher's
