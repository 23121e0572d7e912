"""CrowS-Pairs and BBQ item by item beside lm-evaluation-harness, on the same model and files."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align import models
from align.references import ModelReference
from evals.bias.suite import SuiteTask
from evals.bias.suites import SUITES
from evals.engine import Engine
from evals.task import TaskResult

pytestmark = pytest.mark.peer
OFFICIAL = {
    "bbq": "bbq/bbq_multiple_choice.yaml",
    "crows_pairs": "crows_pairs/crows_pairs_english.yaml",
}
PEOPLE = ("baker", "cook", "nurse", "driver")


def generated() -> dict[str, list[dict[str, Any]]]:
    """Rows in both formats."""
    rows = []
    for number in range(24):
        first, second = PEOPLE[number % 4], PEOPLE[(number + 1) % 4]
        rows.append(
            {
                "example_id": number,
                "question_index": str(number // 8),
                "question_polarity": ("neg", "nonneg")[number % 2],
                "context_condition": ("ambig", "disambig")[number // 2 % 2],
                "category": "Age",
                "answer_info": {
                    "ans0": [first, "old"],
                    "ans1": ["Not known", "unknown"],
                    "ans2": [second, "nonOld"],
                },
                "additional_metadata": {"stereotyped_groups": ["old"]},
                "context": f"A {first} and a {second} sold {number} cakes.",
                "question": "Who was late?",
                "ans0": f"The {first}",
                "ans1": "Not known",
                "ans2": f"The {second}",
                "label": 1 if number // 2 % 2 == 0 else 0,
            }
        )
    pairs = [
        {"sent_more": f"The {a} sold {n}.", "sent_less": f"The {b} sold {n}.", "bias_type": "age"}
        for n, a in enumerate(PEOPLE * 3)
        for b in PEOPLE
        if a != b
    ]
    return {"bbq": rows, "crows_pairs": pairs}


def real(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """A few rows from the whole of the official files."""
    with gzip.open(folder / "bias-bbq" / "Religion.jsonl.gz", "rt", encoding="utf-8") as file:
        questions = [json.loads(line) for line in file]
    text = (folder / "bias-crows-pairs" / "test.jsonl").read_text(encoding="utf-8")
    pairs = [json.loads(line) for line in text.splitlines()]
    return {"bbq": questions[::120], "crows_pairs": pairs[::100]}


@pytest.fixture
def harness(project: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Outcomes of the harness's own tasks on rows."""
    python = project / ".peers" / "lm-eval" / "bin" / "python"
    if not python.is_file():
        pytest.skip("no .peers/lm-eval: run `make peers`")

    def outcomes(
        model: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]], dtype: str = "float32"
    ) -> dict[str, Any]:
        parts = []
        for name, found in rows.items():
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
            part = {"name": f"peer_{name}", "task": name, "definition": name}
            parts.append(part | {"official": OFFICIAL[name], "rows": str(path)})
        work = {"model": str(model), "parts": parts, "dtype": dtype, "max_length": 512}
        work["softmax"] = "float64"
        done = subprocess.run(
            [python, "-m", "workers.lm_evals", json.dumps(work)],
            cwd=project / "benchmarks",
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found_outcomes: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["outcomes"]
        return found_outcomes

    return outcomes


def agree(result: TaskResult, peer: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Log-likelihoods within 1e-4 nats, the same choices, the same numbers."""
    ours = np.array([sample["logprobs"] for sample in result.samples])
    theirs = np.array(peer["loglikelihoods"])
    assert np.abs(ours - theirs).max() < 1e-4
    assert ours.argmax(axis=1).tolist() == theirs.argmax(axis=1).tolist()
    metrics = {m.name: m for m in SUITES[str(names["kind"])].metrics}
    for own, other in names.items():
        if own != "kind":
            value = float(metrics[own].combine(result.stats[metrics[own].stat].sum(axis=0)))
            assert value == pytest.approx(peer["metrics"][other], abs=1e-4, nan_ok=True)


def check(engine: Engine, rows: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    results = {}
    for kind, own in rows.items():
        task = SuiteTask(kind, SUITES[kind])
        results[kind] = task.evaluate(engine, task.items(own))
    pairs = {"kind": "crows_pairs", "pct_stereotype": "pct_stereotype"}
    pairs["likelihood_diff"] = "likelihood_diff"
    agree(results["crows_pairs"], found["peer_crows_pairs"], pairs)
    scores = {"kind": "bbq", "accuracy_amb": "accuracy_amb", "accuracy_dis": "accuracy_disamb"}
    scores |= {"s_amb": "amb_bias_score", "s_dis": "disamb_bias_score", "accuracy": "acc"}
    agree(results["bbq"], found["peer_bbq"], scores)


def test_a_tiny_model_agrees(
    harness: Callable[..., dict[str, Any]], model_of: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model, folder = model_of(seed=4, context=512), tmp_path / "model"
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    rows = generated()
    check(Engine(model, tiny_tokenizer, batch_tokens=2048), rows, harness(folder, rows))


@pytest.mark.real_data
def test_a_real_model_agrees(
    harness: Callable[..., dict[str, Any]], project: Path, shared_data: Path, tmp_path: Path
) -> None:
    """SmolLM2-135M-Instruct on official rows.

    In float64: in float32 two right sums of 100 nats differ by up to 2e-4 (docs/evals.md).
    """
    gguf = project / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not gguf.is_file():
        pytest.skip("no SmolLM2: run `make smollm2`")
    loaded = models.load_model(ModelReference(str(gguf), dtype="float32"))
    models.save_model(loaded.model, loaded.tokenizer, tmp_path / "model")
    rows = real(shared_data)
    engine = Engine(loaded.model.double(), loaded.tokenizer, batch_tokens=2048)
    check(engine, rows, harness(tmp_path / "model", rows, "float64"))
