"""Progress of long work: a live bar on a terminal, plain lines off it, nothing when quiet.

Bars, notes and plain lines go to standard output; warnings go to standard error, which is left
to warnings and errors alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Number = float | int
INTERVAL = 5.0
"""Seconds between two plain lines of one task."""


class Task:
    """One piece of work with a known number of steps; made by `Progress.task`."""

    def __init__(
        self, name: str, total: int, done: int, show: Callable[[Task, bool], None]
    ) -> None:
        self.name, self.total, self.done = name, total, done
        self.numbers: dict[str, Number] = {}
        self.bar: TaskID | None = None
        self._show = show
        self._start, self._first = time.monotonic(), done

    def advance(self, n: int = 1, **numbers: Number) -> None:
        """Count `n` steps; `numbers` replace those shown under the same names."""
        self.done += n
        self.show(**numbers)

    def show(self, **numbers: Number) -> None:
        """Replace shown numbers without counting a step."""
        self.numbers.update(numbers)
        self._show(self, False)

    @property
    def rate(self) -> float:
        """Steps a second since the task began; a resumed task does not count earlier steps."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def details(self) -> str:
        """Rate, time left and the numbers, as `3.2/s ETA 0:41 loss 1.234`."""
        words = [f"{self.rate:.3g}/s"]
        if self.done > self._first:
            words.append(f"ETA {clock((self.total - self.done) / self.rate)}")
        words += [f"{name} {value:.4g}" for name, value in self.numbers.items()]
        return " ".join(words)


class Progress:
    """Reports to people. Use it as a context manager so that a failure leaves no bar behind."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
        interval: float = INTERVAL,
    ) -> None:
        self.quiet = quiet
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._interval = interval
        self._printed: dict[str, float] = {}
        self._bars: RichProgress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Task]:
        """Show a task of `total` steps, `done` of which an earlier process made."""
        task = Task(name, total, done, self._show)
        live = self._live()
        if live is not None:
            task.bar = live.add_task(name, total=total, completed=done, details="")
        self._printed[name] = time.monotonic()
        yield task
        self._show(task, True)
        if live is not None and task.bar is not None:
            live.remove_task(task.bar)

    def note(self, text: str) -> None:
        """Say something worth keeping; dropped when quiet."""
        if not self.quiet:
            self._line(text)

    def warn(self, text: str) -> None:
        """Warn on standard error, quiet or not."""
        if self._bars is not None:
            self._bars.stop()
        self._err.write(f"warning: {text}\n")
        self._err.flush()
        if self._bars is not None:
            self._bars.start()

    def close(self) -> None:
        """Take the live bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _live(self) -> RichProgress | None:
        """The bars of a terminal, made on first use; None elsewhere."""
        if self.quiet or not self._out.isatty():
            return None
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[details]}"),
                console=Console(file=self._out),
            )
            self._bars.start()
        return self._bars

    def _show(self, task: Task, finished: bool) -> None:
        """Bring the bar up to date, or print a line if the last one is old enough."""
        now = time.monotonic()
        if self._bars is not None and task.bar is not None:
            self._bars.update(task.bar, completed=task.done, details=task.details())
            if finished:
                self._line(self._plain(task))
        elif not self.quiet and (finished or now - self._printed[task.name] >= self._interval):
            self._printed[task.name] = now
            self._line(self._plain(task))

    def _plain(self, task: Task) -> str:
        """One log line of a task."""
        return f"{task.name} {task.done}/{task.total} {task.details()}"

    def _line(self, text: str) -> None:
        """Print above the bars, or plainly."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            self._out.write(text + "\n")
            self._out.flush()


class NullProgress(Progress):
    """Prints nothing but warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)


def clock(seconds: float) -> str:
    """Duration as `0:41`, `12:05` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
