"""What pretraining, SFT and reward training share: rows, trainer arguments, exact resumption.

A stage that is killed and run again goes on from its last complete checkpoint and ends with the
same bytes as one that was not killed: seeds, data order, optimizer, schedule and random states are
the trainer's, and every log falls due at a checkpoint, so that none straddles one.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from transformers import PrinterCallback, TrainerCallback

from align.artifacts import MetricsLog, StageJob
from align.callbacks import StageCallback, last_complete_checkpoint
from align.config import PretrainConfig, RunConfig, SFTConfig, TrainConfig
from align.models import pick_device, pick_dtype
from align.quiet import quiet_transformers
from align.references import ModelReference
from align.settings import check_trainer_arguments

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from align.data.formats import Kind

Arguments = TypeVar("Arguments")
LOGS = 10
"""Log lines between two checkpoints, about."""


class SplitRows(NamedTuple):
    """Rows to train on, rows held out, and the sources' records for the manifest."""

    train: list[dict[str, Any]]
    held: list[dict[str, Any]]
    records: list[dict[str, Any]]


def load_split(section: TrainConfig, kind: Kind, config: RunConfig, job: StageJob) -> SplitRows:
    """Read a stage's data; without `eval_data` a seeded share of it is held out.

    Canaries are planted among the rows to train on.

    Raises:
        UserError: A source cannot be read, or it has too few rows to hold any out.
    """
    from align.data.canaries import plant
    from align.data.sources import load_rows
    from align.data.splits import split_holdout

    rows, record = load_rows(section.data, kind, job.data)
    if section.eval_data is not None:
        held, held_record = load_rows(section.eval_data, kind, job.data)
        train, records = list(rows), [record, held_record]
    else:
        train, held = split_holdout(rows, config.data.holdout, config.seed)
        records = [record]
    if isinstance(section, PretrainConfig | SFTConfig) and section.canaries is not None:
        planted = plant(train, section.canaries, config.seed, kind)
        record["canaries"] = len(planted) - len(train)
        train = planted
    return SplitRows(train, held, records)


def training_reference(
    reference: ModelReference, config: RunConfig, *, full: bool
) -> ModelReference:
    """The model to train in its number format: float32 where its own weights train."""
    dtype = pick_dtype(config.dtype, pick_device(config.device))
    return replace(reference, dtype="float32" if full else str(dtype).removeprefix("torch."))


def trainer_arguments(
    kind: type[Arguments], name: str, config: RunConfig, job: StageJob, own: Mapping[str, Any]
) -> Arguments:
    """Arguments of a trainer for one section of the run.

    Args:
        kind: Dataclass of the trainer's arguments.
        name: The section; its `trainer` mapping may set what the stage leaves alone.
        config: The run.
        job: The stage's folder.
        own: Arguments that the stage itself sets.

    Raises:
        UserError: An unknown or mistyped argument, or one that the stage sets.
    """
    check_arguments(kind, name, config, own)
    section: TrainConfig = getattr(config, name)
    fixed = {**_fixed_arguments(section, config, job.folder), **own}
    given = {**_default_arguments(section), **fixed, **section.trainer}
    if "activation_checkpointing" in {field.name for field in fields(kind)}:  # type: ignore[arg-type]
        # its name from transformers 5.2x on; the old one would be ignored or warn
        given.setdefault("activation_checkpointing", given.pop("gradient_checkpointing"))
    return kind(**given)


def check_arguments(kind: type, name: str, config: RunConfig, own: Collection[str]) -> None:
    """Check a section's `trainer` mapping: see `trainer_arguments`, which calls this, too.

    Raises:
        UserError: An unknown or mistyped argument, or one that the stage sets.
    """
    section: TrainConfig = getattr(config, name)
    fixed = _fixed_arguments(section, config, Path())
    check_trainer_arguments(f"{name}.trainer", section.trainer, kind, {*fixed, *own})


def _fixed_arguments(section: TrainConfig, config: RunConfig, folder: Path) -> dict[str, Any]:
    """Arguments that have a key of ours, or that exact resumption depends on."""
    device = pick_device(config.device)
    return {
        "output_dir": str(folder / "checkpoints"),
        "seed": config.seed,
        "data_seed": config.seed,
        "use_cpu": device == "cpu",
        "bf16": pick_dtype(config.dtype, device) == torch.bfloat16,
        "fp16": False,
        "num_train_epochs": section.epochs,
        "learning_rate": section.learning_rate,
        "per_device_train_batch_size": section.batch_size // section.gradient_accumulation,
        "gradient_accumulation_steps": section.gradient_accumulation,
        # transformers takes 1 and more as a number of steps
        "warmup_steps": min(section.warmup, 0.999999),
        "weight_decay": section.weight_decay,
        "max_grad_norm": section.max_grad_norm,
        "save_strategy": "steps",
        "save_steps": section.checkpoint_steps,
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": log_steps(section.checkpoint_steps),
        "ignore_data_skip": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "push_to_hub": False,
    }


def _default_arguments(section: TrainConfig) -> dict[str, Any]:
    """Arguments that `trainer` may change; named so that no trainer's own default decides."""
    return {
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch_fused",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "eval_strategy": "no",
        "per_device_eval_batch_size": 2 * section.batch_size // section.gradient_accumulation,
        "gradient_checkpointing": False,
        "ddp_find_unused_parameters": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "logging_nan_inf_filter": False,
        "report_to": "none",
    }


def log_steps(checkpoint_steps: int) -> int:
    """Steps between log lines: they divide `checkpoint_steps` into `LOGS` parts or a few more."""
    most = max(1, checkpoint_steps // LOGS)
    return next(n for n in range(most, 0, -1) if checkpoint_steps % n == 0)


def run_training(trainer: Trainer, name: str, job: StageJob, shown: Sequence[str] = ()) -> None:
    """Train from the last complete checkpoint, or from the start; random states stay the caller's.

    Args:
        trainer: A trainer whose arguments come from `trainer_arguments`.
        name: What the progress bar says.
        job: The stage's folder and progress.
        shown: Names of logged numbers beside `loss` that the bar shows.
    """
    log = MetricsLog(job.folder / "metrics.jsonl")
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StageCallback(name, job.progress, log, ("loss", *shown)))
    last = last_checkpoint(trainer)
    if last is not None:
        job.progress.note(f"{name}: going on from {last.name}")
    with quiet_transformers():
        trainer.train(resume_from_checkpoint=str(last) if last else None)


def last_checkpoint(trainer: Trainer) -> Path | None:
    """The last complete checkpoint; one process at a time looks, as incomplete ones are deleted."""
    with trainer.args.main_process_first():
        return last_complete_checkpoint(Path(trainer.args.output_dir))


def write_once(trainer: Trainer, write: Callable[[], None]) -> None:
    """Let the main process write a stage's outputs and drop its checkpoints; the others wait."""
    if trainer.is_world_process_zero():
        write()
        shutil.rmtree(trainer.args.output_dir)
    trainer.accelerator.wait_for_everyone()


@contextmanager
def own_randomness() -> Iterator[None]:
    """Give the caller's global random states back after a block: trainers seed all of them."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - saved, not drawn from
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Compute with so many CPU threads for a block; None: as many as there are cores."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class EarlyStop(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Stops after `patience` evaluations without a lower loss; it keeps no state of its own."""

    def __init__(self, patience: int | None) -> None:
        self._patience = patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Judge the history, which already holds this evaluation."""
        if is_over(state.log_history, self._patience):
            control.should_training_stop = True


def is_over(history: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Whether the last `patience` evaluations all missed the lowest loss before them."""
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    losses = [loss if math.isfinite(loss) else math.inf for loss in losses]
    if patience is None or not losses:
        return False
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def checkpoint_state(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state as a checkpoint holds it."""
    state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    return state
