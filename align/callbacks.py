"""Bridge from `transformers.Trainer` to our progress bar, metrics log and checkpoint marker."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.artifacts import MetricsLog
from align.checkpoints import last_complete_checkpoint, mark_complete
from align.progress import Progress, Task

__all__ = ["StageCallback", "last_complete_checkpoint"]


class StageCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Shows a stage's steps, logs its metrics and marks its checkpoints complete.

    Add it as the last callback, so that the marker is written after everything else. Keep at
    least two checkpoints (`save_total_limit=2`): the trainer deletes an old one before the new
    one is marked.

    Args:
        name: What the bar says.
        progress: Where to show it.
        log: The stage's `metrics.jsonl`.
        shown: Names of the logged numbers that the bar shows.
    """

    def __init__(
        self, name: str, progress: Progress, log: MetricsLog, shown: tuple[str, ...] = ("loss",)
    ) -> None:
        self._name, self._progress, self._log, self._shown = name, progress, log, shown
        self._stack = ExitStack()
        self._task: Task | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the bar; drop what a killed run logged after the checkpoint it resumes from."""
        if not state.is_world_process_zero:
            return
        # Step k is logged before checkpoint k is saved, and is not logged again on resuming.
        self._log.truncate(state.global_step + 1 if state.global_step else 0)
        self._task = self._stack.enter_context(
            self._progress.task(self._name, state.max_steps, done=state.global_step)
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count a step."""
        if self._task is not None:
            self._task.advance(state.global_step - self._task.done)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Append the logged numbers with their step."""
        if self._task is None or not logs:
            return
        self._log.append({"step": state.global_step, **logs})
        self._task.show(**{name: logs[name] for name in self._shown if name in logs})

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint that has just been written as complete."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            mark_complete(folder, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close the bar."""
        self._stack.close()
        self._task = None
