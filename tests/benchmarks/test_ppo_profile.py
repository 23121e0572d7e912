"""The profile of an update, at its smallest size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_phases_their_tokens_and_operators() -> None:
    words = ["--size=tiny", "--device=cpu", "--updates=3", "--batch=8", "--micro-batch=8"]
    words += ['--ours-args={"static_cache": true}']
    command = [sys.executable, "benchmarks/ppo_profile.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found["phases"]) == ["sample", "score", "measure", "optimise"]
    assert found["work"]["extra"] == {"static_cache": True}
    for phase in found["phases"].values():
        assert phase["of_roofline"] == pytest.approx(phase["least_seconds"] / phase["seconds"])
    tokens = {
        name: round(p["tokens_per_second"] * p["seconds"]) for name, p in found["phases"].items()
    }
    # 8 responses of 32 tokens to prompts of 24, four epochs
    assert tokens == {"sample": 256, "score": 448, "measure": 448, "optimise": 1792}
    operators = found["operators_seconds"]
    assert {"aten::mm", "all others"} < set(operators)
    assert min(operators.values()) > 0


@pytest.mark.parametrize("words", [["--updates=2"], ["--rounds=5"], ["--peer-dtype=bfloat16"]])
def test_options_that_would_do_nothing_are_refused(words: list[str]) -> None:
    command = [sys.executable, "benchmarks/ppo_profile.py", "--size=tiny", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].count(words[0].split("=")[0]) == 1
