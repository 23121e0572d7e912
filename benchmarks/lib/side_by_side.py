"""What every side-by-side needs: fresh processes, paired ratios, where and when it was measured.

The process that starts the workers stays small: a child's peak memory cannot read lower than that
of the process it was started from.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from align.artifacts import git_state
from align.files import jsonable, write_json_atomic

BENCHMARKS = Path(__file__).resolve().parents[1]
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
"""No worker calls anyone; libraries that would count their users are told not to."""


class Ratio(NamedTuple):
    """Median, least and largest of a ratio over paired rounds."""

    median: float
    low: float
    high: float
    n: int


def run_worker(python: Path | str, module: str, argument: str) -> dict[str, Any]:
    """What a worker prints as its last line, from a process of its own that reads this tree.

    Args:
        python: Interpreter of the environment it needs.
        module: Its name, such as `workers.ours_ppo`.
        argument: Its one argument, JSON.

    Raises:
        SystemExit: The worker failed; the end of what it said is shown.
    """
    command = [str(python), "-m", module, argument]
    environment = os.environ | OFFLINE | {"PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(command, cwd=BENCHMARKS, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write((done.stdout + done.stderr)[-4000:])
        raise SystemExit(f"{module} failed with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def alternate(
    ours: Callable[[int], dict[str, Any]], peer: Callable[[int], dict[str, Any]], rounds: int
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Run A B A B ...: a slow moment of the machine meets both sides."""
    return [(ours(number), peer(number)) for number in range(rounds)]


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Ratios of numbers measured in the same round."""
    found = [a / b for a, b in zip(above, below, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found), len(found))


def machine(accelerator: str | None) -> str:
    """The machine in words: accelerator, cores, processor, memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    parts = [accelerator, f"{os.cpu_count()} cores {_processor()}", f"{memory:.0f} GB"]
    return ", ".join(part for part in parts if part)


def _processor() -> str:
    """Name of the processor, as the kernel has it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def provenance(accelerator: str | None) -> dict[str, Any]:
    """Commit, whether files differed from it, date (UTC) and machine."""
    state = git_state()
    return {
        "commit": state["commit"],
        "dirty": state["dirty"],
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(accelerator),
    }


def finish(result: Mapping[str, Any], save_as: str | None) -> None:
    """Print the result as one line of JSON, the last; save it where asked."""
    if save_as is not None:
        write_json_atomic(BENCHMARKS / "results" / f"{save_as}.json", result)
    print(json.dumps(jsonable(result), allow_nan=False))
