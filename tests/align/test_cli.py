"""The command line: arguments to function, result to exit code, one line a mistake."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from align import cli, doctor
from align.errors import UserError

RUN = "name: tiny\nmodel: {base: org/name}\nsft: {data: {world: instructions, limit: 9}}\n"
GATE = "report.gate=[{task: t, metric: m, at_least: 1}]"


class Pipeline(ModuleType):
    """Stands for `align.pipeline`: records calls, answers with an exit code or an exception."""

    def __init__(self) -> None:
        super().__init__("align.pipeline")
        self.calls: list[dict[str, Any]] = []
        self.answer: str | BaseException | None = None

    def run_pipeline(self, config: Any, **given: Any) -> SimpleNamespace:
        self.calls.append({"config": config, **given})
        if isinstance(self.answer, BaseException):
            raise self.answer
        report = Path("report.html") if self.answer else None
        return SimpleNamespace(verdict=self.answer, report=report)

    def rebuild_report(self, folder: Path, config: Any) -> tuple[Path, str]:
        self.calls.append({"config": config})
        return folder / "report" / "index.html", "fail"


@pytest.fixture
def pipeline(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A working directory with run.yaml, and a recorded pipeline."""
    Path("run.yaml").write_text(RUN)
    fake = Pipeline()
    monkeypatch.setitem(sys.modules, "align.pipeline", fake)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return fake


@pytest.mark.parametrize(
    ("command", "until"),
    [
        ("run", None),
        ("pretrain", "pretrain"),
        ("sft", "sft"),
        ("reward", "reward"),
        ("ppo", "ppo"),
        ("eval", "evals"),
    ],
)
def test_each_stage_command_runs_up_to_its_stage(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, command: str, until: str | None
) -> None:
    arguments = [command, "run.yaml", "sft.epochs=2", "--quiet", "seed=4"]
    monkeypatch.setattr(sys, "argv", ["align", *arguments])
    assert cli.main(arguments) == 0
    call = pipeline.calls[0]
    assert (call["config"].sft.epochs, call["config"].seed, call["until"]) == (2.0, 4, until)
    assert (call["command"], call["progress"].quiet) == (f"align {' '.join(arguments)}", True)


@pytest.mark.parametrize(
    ("verdict", "code"), [("pass", 0), ("fail", 1), ("insufficient evidence", 3), (None, 0)]
)
def test_the_gates_verdict_is_the_exit_code(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], verdict: str | None, code: int
) -> None:
    pipeline.answer = verdict
    assert cli.main(["run", "run.yaml", GATE]) == code
    said = f"gate: {verdict}; report: report.html\n" if verdict else ""
    assert capsys.readouterr() == (said, "")


def test_a_run_without_requirements_is_done(pipeline: Pipeline) -> None:
    pipeline.answer = "insufficient evidence"
    assert cli.main(["run", "run.yaml"]) == 0


def test_a_users_mistake_is_one_line_and_exit_2(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.answer = UserError("row has\nno text", where="a.jsonl:3")
    assert cli.main(["run", "run.yaml"]) == 2
    assert capsys.readouterr() == ("", "error: a.jsonl:3: row has no text\n")


def test_an_interrupt_says_how_to_go_on(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.answer = KeyboardInterrupt()
    assert cli.main(["run", "run.yaml"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted; the same command resumes"


def test_our_own_bugs_are_not_hidden(pipeline: Pipeline) -> None:
    pipeline.answer = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        cli.main(["run", "run.yaml"])


@pytest.mark.parametrize("source", ["run.yaml", "runs/tiny"])
def test_report_takes_a_configuration_or_a_folder(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    Path("runs/tiny").mkdir(parents=True)
    Path("runs/tiny/config.yaml").write_text(RUN)
    assert cli.main(["report", source, GATE]) == 1
    assert capsys.readouterr().out == "gate: fail; report: runs/tiny/report/index.html\n"
    assert pipeline.calls[0]["config"].report.gate[0].metric == "m"


def test_report_needs_a_run(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "."]) == 2
    assert "no run in this folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nix"], "No such command 'nix'"),
        (["run"], "Missing argument"),
        (["run", "run.yaml", "--nix"], "No such option"),
        (["chat", "m", "--temperature", "99"], "'--temperature'"),
        (["chat", "m", "--max-tokens", "1e99"], "'--max-tokens'"),
        (["chat", "m", "--seed", "-1"], "'--seed'"),
        (["doctor", "now"], "unexpected extra argument"),
        (["export", "a"], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert expected in err
    assert (out, err.count("\n")) == ("", 1)
    assert pipeline.calls == []


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "Commands:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "alignkit 0.1.0\n"


@pytest.mark.parametrize(("base", "offline"), [("org/name", None), ("./model", "1")])
def test_runs_without_hub_ids_are_offline_and_nobody_calls_home(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, base: str, offline: str | None
) -> None:
    Path("model").mkdir()
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    cli.main(["run", "run.yaml", f"model.base={base}"])
    assert os.environ.get("HF_HUB_OFFLINE") == offline
    assert os.environ.get("HF_DATASETS_OFFLINE") == offline
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "0"  # the user's word stands


def test_help_loads_no_library_that_takes_time() -> None:
    # what makes it slow is what it imports; a clock would measure the machine
    code = (
        "import sys; from align.cli import main; main(['--help']); "
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas', 'numpy', 'pydantic', "
        "'omegaconf', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_doctor_compares_with_the_pinned_versions(project: Path) -> None:
    lines = (project / "constraints.txt").read_text(encoding="utf-8").split()
    pins = dict(line.split("==") for line in lines)
    assert {name: pins[name] for name in doctor.TESTED} == doctor.TESTED


def test_doctor_says_what_is_there(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("configs").mkdir()
    Path("configs/a.yaml").write_text("# Hardware: 2 cores, 4 GB\nname: a\n")
    monkeypatch.setattr(doctor, "TESTED", {"pytest": "0.1", "no-such-package": "3"})
    monkeypatch.setattr(doctor, "memory_bytes", lambda: 8 * 2**30)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"pytest         {pytest.__version__} (tested: 0.1)\n" in out
    assert "no-such-package not installed (tested: 3)\n" in out
    assert "memory         8.0 GiB\n" in out
    # Half of 8 GiB is 4.295e9 bytes: 1.07e9 numbers of 4 bytes, 2.15e9 of 2.
    assert "1.1 billion parameters in float32 or 2.1 billion parameters in bfloat16" in out
    assert "run            configs/a.yaml  Hardware: 2 cores, 4 GB\n" in out


def test_memory_heeds_a_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(doctor, "Path", lambda _: limit)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert doctor.memory_bytes() == machine
    limit.write_text("max\n")
    assert doctor.memory_bytes() == machine
    limit.write_text("1048576\n")
    assert doctor.memory_bytes() == 1048576
