"""The pure parts of `benchmarks/eval_vs_lm_eval.py`: rows, parity, ratios, the command line."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("eval_vs_lm_eval", "lib.eval_rows", "lib.parity", "workers.eval_work")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The script and its parts by their last name."""
    sys.path.append(str(FOLDER))
    yield {name.split(".")[-1]: importlib.import_module(name) for name in NAMES}
    sys.path.remove(str(FOLDER))


def outcome(modules: dict[str, ModuleType], **changes: Any) -> Any:
    """Two items of two choices each."""
    plain: dict[str, Any] = {
        "seconds": 2.0,
        "cpu_seconds": 1.5,
        "metrics": {"acc": 0.5},
        "prompts": ["a", "b"],
        "loglikelihoods": [[-1.0, -2.0], [-3.0, -40000.0]],
        "texts": [],
    }
    return modules["eval_work"].Outcome(**plain | changes)


def test_log_likelihoods_may_differ_by_rounding_only(modules: dict[str, ModuleType]) -> None:
    parity, ours = modules["parity"].parity, outcome(modules)
    assert parity(ours, ours).equal
    assert parity(ours, ours).items == 2
    near = outcome(modules, loglikelihoods=[[-1.00009, -2.0], [-3.0, -40000.03]])
    # .03 of 40000 is 7.5e-7 of it, within 1e-6; 9e-5 is within 1e-4 nats.
    assert parity(near, ours).equal
    assert parity(near, ours).nats == pytest.approx(0.03, abs=1e-6)
    far = outcome(modules, loglikelihoods=[[-1.0, -2.0], [-3.00011, -40000.05]])
    assert parity(far, ours).beyond == 2
    assert not parity(far, ours).equal


def test_other_prompts_texts_and_metrics_are_not_equal(modules: dict[str, ModuleType]) -> None:
    parity, ours = modules["parity"].parity, outcome(modules)
    asked = parity(outcome(modules, prompts=["a", "b "]), ours)
    assert (asked.prompts, asked.equal) == (1, False)
    said = [outcome(modules, loglikelihoods=[], texts=texts) for texts in (["x", "y"], ["x", "z"])]
    assert parity(*said).texts == 1
    assert not parity(*said).equal
    assert parity(said[0], said[0]).items == 2
    # 1e-6 of .5 is 5e-7; a metric that one side alone has does not count.
    assert parity(outcome(modules, metrics={"acc": 0.5 + 4e-7, "f1": 9.0}), ours).equal
    assert not parity(outcome(modules, metrics={"acc": 0.5 + 6e-7}), ours).equal
    # 9e-6 is too much for an accuracy, not for a perplexity.
    moved = [{"acc": 1.0, "perplexity": value} for value in (20.0, 20.0 * (1 + 9e-6))]
    assert parity(*(outcome(modules, metrics=metrics) for metrics in moved)).equal
    with pytest.raises(ValueError, match="no metric in common"):
        parity(outcome(modules, metrics={"f1": 0.5}), ours)
    with pytest.raises(ValueError, match="argument"):
        parity(outcome(modules, prompts=["a"]), ours)


def test_parts_of_a_task_count_together(modules: dict[str, ModuleType]) -> None:
    found = modules["parity"]
    parts = [found.Parity(2, 0, 1, 3e-5, 0, 0.0, 1), found.Parity(6, 1, 0, 1e-5, 4, 2e-7, 1)]
    assert found.together(parts) == found.Parity(8, 1, 1, 3e-5, 4, 2e-7, 2)
    # (2 * .5 + 6 * 1) / 8
    assert found.mean_metrics([2, 6], [{"acc": 0.5}, {"acc": 1.0}]) == {"acc": 0.875}


def test_contexts_come_apart_where_a_sentence_is_begun(modules: dict[str, ModuleType]) -> None:
    split = modules["eval_rows"].split_context
    begun = split({"ctx": "They run. They stop. the people"})
    assert (begun["ctx_a"], begun["ctx_b"]) == ("They run. They stop.", "the people")
    whole = split({"ctx": "They run. They stop."})
    assert (whole["ctx_a"], whole["ctx_b"]) == ("They run. They stop.", "")


def test_mmlu_is_cut_by_subject_and_shows_other_rows(
    modules: dict[str, ModuleType], tmp_path: Path
) -> None:
    names = ["law", "art", "law", "zoo", "bio", "art", "law", "zoo", "bio", "one"] * 4
    rows = [{"subject": name, "question": str(i)} for i, name in enumerate(names)]
    data = tmp_path / "eval-mmlu"
    data.mkdir()
    (data / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = modules["eval_rows"].parts("mmlu", tmp_path, tmp_path, 8)
    # "one" has the fewest rows; two of each subject are asked, behind the five that are shown.
    wanted = [f"alignkit_mmlu_{name}" for name in ("art", "bio", "law", "zoo")]
    assert [part.name for part in made] == wanted
    law = made[2]
    assert law.official == "mmlu/default/mmlu_law.yaml"
    assert (law.shots, law.task) == (5, "mmlu")
    numbers = [str(i) for i, name in enumerate(names) if name == "law"]
    shown = Path(law.examples).read_text(encoding="utf-8").splitlines()
    asked = Path(law.rows).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["question"] for line in shown] == numbers[:5]
    assert [json.loads(line)["question"] for line in asked] == numbers[5:7]


def report(seconds: dict[str, float], memory: float, **changes: Any) -> dict[str, Any]:
    """What a worker prints."""
    plain = {"cpu_seconds": 1.0, "metrics": {"acc": 0.5}, "prompts": ["a"], "texts": []}
    plain |= {"loglikelihoods": [[-1.0]]} | changes
    outcomes = {name: plain | {"seconds": value} for name, value in seconds.items()}
    return {"outcomes": outcomes, "memory_gb": memory, "versions": {}}


def test_the_peer_has_its_fastest_setting_and_least_memory(modules: dict[str, ModuleType]) -> None:
    best = modules["eval_vs_lm_eval"].fastest(
        [report({"a": 5.0, "b": 1.0}, 7.0), report({"a": 3.0, "b": 2.0}, 2.0)]
    )
    assert {name: part["seconds"] for name, part in best["outcomes"].items()} == {"a": 3, "b": 1}
    assert best["memory_gb"] == 2


def test_speedups_are_of_seconds_together(modules: dict[str, ModuleType]) -> None:
    part = modules["eval_work"].Part
    work = modules["eval_work"].EvalWork(
        "m", tuple(part(task, task, task, "", "") for task in ("piqa", "boolq", "gsm8k"))
    )
    ours = report({"piqa": 1.0, "boolq": 3.0, "gsm8k": 6.0}, 1.0)
    peer = report({"piqa": 6.0, "boolq": 6.0, "gsm8k": 8.0}, 4.0)
    result = modules["eval_vs_lm_eval"].compare(work, [(ours, peer)], {})
    assert result["speedup_choice"] == 3  # (6 + 6) / (1 + 3)
    assert result["speedup_all"] == 2  # 20 / 10
    assert result["memory_ratio"] == 0.25
    assert result["equal"] is True
    assert result["tasks"]["piqa"]["speedup"] == 6
    exact = report({"boolq": 9.0}, 4.0, loglikelihoods=[[-1.5]])
    result = modules["eval_vs_lm_eval"].compare(work, [(ours, peer)], exact["outcomes"])
    assert result["equal"] is False
    assert [row["equal"] for row in result["tasks"].values()] == [True, False, True]
    assert result["speedup_all"] == 2, "the exact run is not timed"
    assert "NO" in modules["eval_vs_lm_eval"].table(result)


def test_work_travels_whole(modules: dict[str, ModuleType]) -> None:
    found = modules["eval_work"]
    work = found.EvalWork("m", (found.Part("a", "a", "a", "a.yaml", "rows"),), "bfloat16")
    assert found.EvalWork.from_json(work.to_json()) == work


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "0"], "--limit 0; allowed: 1 or more"),
        (["--gguf", "nowhere.gguf"], "no file nowhere.gguf"),
        (["--tasks", "chess"], "invalid choice: 'chess'"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    modules: dict[str, ModuleType],
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        modules["eval_vs_lm_eval"].arguments(words)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
