"""The pipeline's order: what is checked before anything runs, and what is loaded for it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align import pipeline
from align.artifacts import StageJob, StageResult
from align.config import RunConfig
from align.errors import UserError
from align.inputs import stage_record
from align.progress import NullProgress
from align.stages import STAGES
from align.team import Team

LORA = {"base": "org/name", "adapters": []}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "pandas", "sklearn", "matplotlib"}


def source(world: str) -> dict[str, Any]:
    return {"world": world, "limit": 20}


def document(**trainers: dict[str, Any]) -> dict[str, Any]:
    """A run of all training stages; each takes a `trainer` mapping from `trainers`."""
    sections: dict[str, Any] = {
        "pretrain": {"data": source("text")},
        "sft": {"data": source("instructions")},
        "reward": {"data": source("preferences")},
        "ppo": {"data": source("prompts")},
    }
    for name, given in trainers.items():
        sections[name]["trainer"] = given
    if "pretrain" not in trainers:
        sections["pretrain"] = None
        sections["model"] = {"base": "org/name"}
    return {"name": "tiny", "device": "cpu", **sections}


@pytest.fixture
def ran(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that ran; they make nothing but a manifest."""
    names: list[str] = []

    def fake(name: str) -> Any:
        def run(config: RunConfig, job: StageJob) -> StageResult:
            names.append(name)
            return StageResult({}, model=LORA)

        return run

    stages = tuple(replace(stage, run=fake(stage.name)) for stage in STAGES)
    monkeypatch.setattr(pipeline, "STAGES", stages)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return names


def run(settings: dict[str, Any], until: str | None = None) -> None:
    config = RunConfig.model_validate(settings)
    pipeline.run_pipeline(config, until=until, command="", progress=NullProgress())


@pytest.mark.parametrize("until", [None, "first"])
@pytest.mark.parametrize("name", ["pretrain", "sft", "reward", "ppo"])
@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"adam_beta": 0.9}, r"adam_beta: unknown argument; allowed: adam_beta"),
        ({"adam_beta2": "0.9"}, r'adam_beta2: "0\.9" \(text\); allowed: float'),
        ({"output_dir": "x"}, r"output_dir: is set by the stage itself"),
    ],
)
def test_trainer_arguments_are_checked_before_any_stage_runs(
    ran: list[str], name: str, given: dict[str, Any], complaint: str, until: str | None
) -> None:
    first = "pretrain" if name == "pretrain" else "sft"
    with pytest.raises(UserError, match=rf"^{name}\.trainer\.{complaint}"):
        run(document(**{name: given}), until and first)
    assert ran == []


def test_reward_functions_are_checked_before_any_stage_runs(ran: list[str]) -> None:
    settings = document()
    settings["ppo"]["rewards"] = [{"function": "reward_model"}, {"function": "length_penalty"}]
    with pytest.raises(UserError, match=r"^ppo\.rewards\.1\.options: option 'target' is missing"):
        run(settings)
    assert ran == []


def test_a_run_without_a_reward_model_trains_none(ran: list[str]) -> None:
    settings = document()
    del settings["reward"]
    settings["ppo"]["rewards"] = [{"function": "refusal", "weight": -1}]
    run(settings)
    assert ran == ["sft", "ppo"]


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize("name", ["ppo", "evals"])
def test_a_changed_reward_function_makes_ppo_and_evaluation_stale(
    workplace: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.inputs.references", lambda *_: {})  # no stage has run
    module, words = workplace / "my_rewards.py", workplace / "words.txt"
    module.write_text("def one(completions, **_): return [1.0] * len(completions)\n")
    words.write_text("darn\n")
    options = {"file": "words.txt"}
    settings = document() | {"reward": None, "sft": None, "evals": {"tasks": {}}}
    settings["ppo"]["rewards"] = [
        {"function": "my_rewards:one"},
        {"function": "profanity_penalty", "options": options},
    ]
    config = RunConfig.model_validate(settings)
    stage = next(stage for stage in STAGES if stage.name == name)

    def inputs() -> dict[str, str]:
        found = stage_record(config, workplace / "none", stage, "").inputs
        return {k: v["hash"] for k, v in found.items() if k.startswith("ppo.rewards")}

    before = inputs()
    assert set(before) == {"ppo.rewards.0", "ppo.rewards.1.file"}
    module.write_text("def one(completions, **_): return [2.0] * len(completions)\n")
    after = inputs()
    assert before["ppo.rewards.0"] != after["ppo.rewards.0"]
    words.write_text("heck\n")
    assert inputs()["ppo.rewards.1.file"] != after["ppo.rewards.1.file"]


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("pretrain", "eval_steps"),
        ("sft", "assistant_only_loss"),
        ("reward", "center_rewards_coefficient"),
        ("ppo", "kl_coef"),
    ],
)
def test_what_only_this_stage_sets_is_refused_too(ran: list[str], name: str, own: str) -> None:
    with pytest.raises(UserError, match=rf"^{name}\.trainer\.{own}: is set by the stage itself"):
        run(document(**{name: {own: 1}}))
    assert ran == []


def test_arguments_that_fit_run(ran: list[str]) -> None:
    fitting = {"adam_beta2": 0.98}
    run(document(sft=fitting, reward=fitting, ppo=fitting))
    assert ran == ["sft", "reward", "ppo"]


def test_only_sections_with_arguments_and_a_stage_to_run_are_checked(
    ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    stages = tuple(
        replace(stage, check=lambda _, name=stage.name: checked.append(name))
        for stage in pipeline.STAGES
    )
    monkeypatch.setattr(pipeline, "STAGES", stages)
    run(document(sft={"adam_beta2": 0.98}, ppo={"adam_beta2": 0.98}), "sft")
    assert checked == ["sft", "ppo"]
    checked.clear()
    run(document(sft={"adam_beta2": 0.98}, reward={"adam_beta2": 0.98}))  # sft is up to date
    assert (checked, ran) == (["reward"], ["sft", "reward", "ppo"])


def test_a_finished_run_loads_no_library_of_training(ran: list[str]) -> None:
    # what would make it slow is what it imports; a clock would measure the machine
    Path("run.yaml").write_text(json.dumps(document(sft={"adam_beta2": 0.98})), "utf-8")
    code = (
        "import sys; from align.cli import main; code = main(['ppo', 'run.yaml']); "
        f"print(code, sorted({HEAVY!r} & set(sys.modules)))"
    )
    run(document(sft={"adam_beta2": 0.98}))
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        *(f"{name}: up to date" for name in ("2-sft", "3-reward", "4-ppo")),
        "0 []",
    ]


class Member(Team):
    """A process whose partner gives what `heard` holds; `said` is what it gives itself."""

    def __init__(self, rank: int, heard: Any = None) -> None:
        super().__init__(rank, 2)
        object.__setattr__(self, "heard", heard)
        object.__setattr__(self, "said", [])

    def exchange(self, mine: Any) -> list[Any]:
        self.said.append(mine)
        return [mine, self.heard] if self.main else [self.heard, mine]


def run_as(team: Team, until: str | None = None, **changes: Any) -> None:
    evals = {"tasks": {}, "prompts": 0}
    config = RunConfig.model_validate(document() | {"evals": evals} | changes)
    pipeline.run_pipeline(config, until=until, command="", progress=NullProgress(), team=team)


def test_several_processes_refuse_to_train(ran: list[str]) -> None:
    team = Member(0)
    message = r"2-sft: this stage has to run \(not complete: no manifest\), but 2 processes only"
    with pytest.raises(UserError, match=message):
        run_as(team, "evals")
    assert (ran, team.said) == ([], [])


def test_the_main_process_calls_the_others_to_its_evaluation(
    ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(document())
    team = Member(0)
    run_as(team, "evals")
    assert ran == ["sft", "reward", "ppo", "evals"]
    assert team.said == [Path("runs/tiny/.5-evals.partial")]
    done = Member(0)
    run_as(done, "evals")
    assert (ran[4:], done.said) == ([], [None])


def test_another_process_joins_the_evaluation_and_writes_nothing(
    ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[StageJob] = []

    def evaluate(config: RunConfig, job: StageJob) -> StageResult:
        jobs.append(job)
        return StageResult({})

    run(document())
    stages = (*pipeline.STAGES[:-1], replace(pipeline.STAGES[-1], run=evaluate))
    monkeypatch.setattr(pipeline, "STAGES", stages)
    files = sorted(Path().rglob("*"))
    idle = Member(1, None)
    run_as(idle)
    assert jobs == []
    team = Member(1, Path("there"))
    run_as(team)
    (job,) = jobs
    assert (job.folder, job.team) == (Path("there"), team)
    assert sorted(job.inputs) == ["base", "ppo", "reward", "sft"]
    assert team.said == [None]
    assert sorted(Path().rglob("*")) == files


def test_threads_reach_a_torch_that_is_imported(
    ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    run_as(Member(1), threads=3)
    assert (os.environ["OMP_NUM_THREADS"], chosen) == ("3", [3])
    run(document() | {"threads": 2})
    assert (os.environ["OMP_NUM_THREADS"], chosen) == ("2", [3])
