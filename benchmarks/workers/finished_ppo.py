"""The PPO stage of a finished run: `python -m workers.finished_ppo WORK` prints one JSON line.

Trains nothing: scores and seconds are those that the stage logged, and its policy answers the
held-out prompts. `extra` holds `run`, the run's folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from workers.measure import Recorder, device_of, report
from workers.scores import held_scores
from workers.work import Work

from align.models import load_model
from align.references import resolve_reference


def logged(file: Path) -> Recorder:
    """What the stage logged at the end of every update."""
    recorder = Recorder("score/mean", lambda _: {})
    ended = 0.0
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "score/mean" not in row:
            continue
        parts = {key: value for key, value in row.items() if key.startswith("seconds/")}
        ended += sum(parts.values())
        recorder.ended.append(ended)
        recorder.scores.append(row["score/mean"])
        recorder.phases.append(
            {key.removeprefix("seconds/"): value for key, value in parts.items()}
        )
    return recorder


if __name__ == "__main__":
    the_work = Work.from_json(sys.argv[1])
    stage = Path(the_work.extra["run"]) / "4-ppo"
    policy = load_model(resolve_reference(str(stage)), device=device_of(the_work)).model
    scores = held_scores(policy, the_work, policy.config.vocab_size)
    print(report(the_work, logged(stage / "metrics.jsonl"), "alignkit", scores))
