"""`align eval` on a reward model: settings, folders, another model's folder."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align import judging
from align.errors import UserError
from align.evaluation import evaluate_lone, lone_run
from align.judging import is_reward
from align.progress import Progress

PAIRS = [{"prompt": "ask", "chosen": "good" * n, "rejected": "bad"} for n in (1, 2, 3)]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with pairs and the folder of a reward stage, whose model is a rule."""
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    folder = Path("run/3-reward")
    (folder / "adapter").mkdir(parents=True)
    (folder / "manifest.json").write_text(
        '{"model": {"base": "org/base", "adapters": ["adapter"]}}'
    )
    (folder / "adapter" / "reward_config.json").write_text("{}")

    def load(place: Path, device: str) -> Callable[..., list[float]]:
        return lambda prompts, completions, **_: [float(len(c[-1]["content"])) for c in completions]

    monkeypatch.setattr(judging, "load_judge", load)
    return folder


def judged(model: Path, *settings: str, **given: Any) -> list[str]:
    run = lone_run(str(model), settings, **{"tasks": None, "out": "results", "name": None} | given)
    return evaluate_lone(run, Progress(out=io.StringIO(), quiet=True))


def test_pairs_are_named_on_the_command_line(stage: Path) -> None:
    lines = judged(stage, "mine=pairs.jsonl", "evals.resamples=100")
    assert lines[-1] == "results: results/run-3-reward"
    assert any(line.split()[:3] == ["mine", "3", "100.0%"] for line in lines)
    written = json.loads(Path("results/run-3-reward/mine/result.json").read_text())
    # 4, 8 and 12 letters against 3
    assert written["margin"]["value"] == pytest.approx((1 + 5 + 9) / 3)
    assert written["source"] == "pairs.jsonl"
    assert judged(stage, "mine=pairs.jsonl", "evals.resamples=100") == lines


def test_sets_come_from_a_yaml_too(stage: Path) -> None:
    Path("sets.yaml").write_text(
        "evals: {tasks: {}, pairs: {other: {data: {path: pairs.jsonl}}}}\n"
    )
    judged(stage, "mine=pairs.jsonl", tasks=Path("sets.yaml"), name="both")
    found = sorted(path.parent.name for path in Path("results/both").glob("*/result.json"))
    assert found == ["mine", "other"]


def test_what_cannot_be_judged_is_said(stage: Path) -> None:
    with pytest.raises(UserError, match=r"no pairs to judge; allowed: .*NAME=ROWS"):
        judged(stage)
    with pytest.raises(UserError, match="neither pairs nor a setting"):
        judged(stage, "pairs.jsonl")
    with pytest.raises(UserError, match=r"a/b"):
        judged(stage, "a/b=pairs.jsonl")


def test_results_of_another_model_are_not_overwritten(stage: Path) -> None:
    folder = Path("results/run-3-reward")
    judged(stage, "mine=pairs.jsonl")
    held = json.loads((folder / "reward.json").read_text())
    (folder / "reward.json").write_text(json.dumps({"model": "elsewhere", "hash": "other"}))
    with pytest.raises(UserError, match="holds the results of elsewhere; choose another name"):
        judged(stage, "mine=pairs.jsonl")
    (folder / "reward.json").write_text(json.dumps({**held, "model": "elsewhere"}))
    judged(stage, "mine=pairs.jsonl")  # moved, but the same weights
    (folder / "reward.json").unlink()
    judged(stage, "mine=pairs.jsonl")  # interrupted before the end
    (folder / "reward.json").unlink()
    (folder / "probe.json").write_text("{}")
    with pytest.raises(UserError, match="a language model"):
        judged(stage, "mine=pairs.jsonl")


def test_what_is_a_reward_model(stage: Path, tmp_path: Path) -> None:
    assert is_reward(str(stage))
    assert not is_reward(str(tmp_path))
    assert not is_reward("org/model")
    for name, expected in (("LlamaForSequenceClassification", True), ("LlamaForCausalLM", False)):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [name]}))
        assert is_reward(str(tmp_path)) is expected
