"""What people see of long work: plain lines, a live bar, silence; and the trainer's bridge."""

import io
import re
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from align import progress as module
from align.artifacts import MetricsLog
from align.progress import NullProgress, Progress, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that tests move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def test_plain_lines_come_at_intervals_with_rate_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    time, out = Clock(monkeypatch), io.StringIO()
    with Progress(out=out, interval=5) as progress, progress.task("sft", 100, done=40) as task:
        for _ in range(60):
            time.now += 0.5
            task.advance(loss=1.23456)
        task.show(loss=2.0)
    lines = out.getvalue().splitlines()
    # 60 steps in 30 s: a line every 5 s, that is every 10 steps, and the last one.
    assert lines[0] == "sft 50/100 2/s ETA 0:25 loss 1.235"
    assert lines[-1] == "sft 100/100 2/s ETA 0:00 loss 2"
    assert len(lines) == 7


def test_quiet_prints_warnings_only() -> None:
    out, err = io.StringIO(), io.StringIO()
    with Progress(quiet=True, out=out, err=err) as progress, progress.task("x", 1) as task:
        task.advance()
        progress.note("hello")
        progress.warn("careful")
    assert (out.getvalue(), err.getvalue()) == ("", "warning: careful\n")


def test_null_progress_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with NullProgress() as progress, progress.task("x", 1) as task:
        task.advance()
        progress.note("hello")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_that_a_failure_takes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, err = Terminal(), io.StringIO()
    progress = Progress(out=out, err=err)
    with suppress(RuntimeError), progress, progress.task("sft", 3) as task:
        task.advance(loss=0.5)
        progress.note("[brackets] stay")
        progress.warn("careful")
        raise RuntimeError
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "1/3" in shown
    assert "loss 0.5" in shown
    assert "[brackets] stay" in shown
    assert out.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is visible again
    assert err.getvalue() == "warning: careful\n"


def test_a_finished_bar_leaves_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with Progress(out=out) as progress:
        for name in ("first", "second"):
            with progress.task(name, 2) as task:
                task.advance(2)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert len(re.findall(r"first 2/2 \S+/s ETA 0:00", shown)) == 1
    assert len(re.findall(r"second 2/2 \S+/s ETA 0:00", shown)) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (41, "0:41"), (725, "12:05"), (3723, "1:02:03")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.fixture
def trainer(tmp_path: Path) -> SimpleNamespace:
    """The parts of a trainer that callbacks see, at step 2 of 4."""
    return SimpleNamespace(
        args=SimpleNamespace(output_dir=str(tmp_path)),
        state=SimpleNamespace(global_step=2, max_steps=4, is_world_process_zero=True),
    )


def test_the_bridge_logs_counts_and_marks(
    trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.callbacks import StageCallback

    time = Clock(monkeypatch)
    log, out = MetricsLog(tmp_path / "metrics.jsonl"), io.StringIO()
    for step in (1, 2, 3):
        log.append({"step": step, "loss": 9.0})
    callback = StageCallback("sft", Progress(out=out, interval=0), log)
    state = trainer.state
    callback.on_train_begin(trainer.args, state, None)
    time.now += 4
    state.global_step = 3
    callback.on_step_end(trainer.args, state, None)
    callback.on_log(trainer.args, state, None, logs={"loss": 0.25, "epoch": 1.0})
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    callback.on_save(trainer.args, state, None)
    callback.on_train_end(trainer.args, state, None)
    # Resumed from step 2: line 3 of the killed run is replaced, lines 1 and 2 stay.
    assert log.read() == [
        {"step": 1, "loss": 9.0},
        {"step": 2, "loss": 9.0},
        {"step": 3, "loss": 0.25, "epoch": 1.0},
    ]
    assert (checkpoint / "complete.json").exists()
    # One step in 4 s, though three of four are done.
    assert out.getvalue().splitlines()[-1] == "sft 3/4 0.25/s ETA 0:04 loss 0.25"


def test_a_fresh_start_drops_the_old_log(trainer: Any, tmp_path: Path) -> None:
    from align.callbacks import StageCallback

    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 0, "loss": 9.0})
    trainer.state.global_step = 0
    StageCallback("sft", NullProgress(), log).on_train_begin(trainer.args, trainer.state, None)
    assert log.read() == []


def test_other_processes_of_a_distributed_run_stay_silent(trainer: Any, tmp_path: Path) -> None:
    from align.callbacks import StageCallback

    trainer.state.is_world_process_zero = False
    log, out = MetricsLog(tmp_path / "metrics.jsonl"), io.StringIO()
    callback = StageCallback("sft", Progress(out=out, interval=0), log)
    callback.on_train_begin(trainer.args, trainer.state, None)
    callback.on_step_end(trainer.args, trainer.state, None)
    callback.on_log(trainer.args, trainer.state, None, logs={"loss": 1.0})
    callback.on_save(trainer.args, trainer.state, None)
    callback.on_train_end(trainer.args, trainer.state, None)
    assert (log.read(), out.getvalue()) == ([], "")
    assert list(tmp_path.iterdir()) == []
