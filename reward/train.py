"""Stage 3: a reward model from preference pairs (TRL RewardTrainer, Bradley-Terry loss).

Loss = -log sigmoid(s_chosen - s_rejected - margin) + center * (s_chosen + s_rejected)^2, margin 0
where the pairs have no such column. The scorer of PPO sees the tokens of training; pairs longer
than `max_length` are left out and counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import trl
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel

from align.adapters import save_adapter
from align.artifacts import StageJob, StageResult, write_rows_atomic
from align.config import RewardConfig, RunConfig
from align.errors import UserError
from align.grouping import GroupedMicroBatches
from align.models import save_model
from align.references import relative_model
from align.training import (
    check_arguments,
    cpu_threads,
    own_randomness,
    run_training,
    trainer_arguments,
    write_once,
)
from reward.evaluate import Pairs, pair_metrics, score_pairs
from reward.model import RewardModel
from reward.pairs import Encoded, Samples, Work, prepare
from reward.parts import RewardSettings
from reward.start import Start, adapted, share_lower

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 200
"""Held-out pairs in `samples.jsonl`."""


class QuietRewardTrainer(GroupedMicroBatches, trl.RewardTrainer):  # type: ignore[misc]  # untyped
    """TRL's trainer with micro-batches of similar lengths; no call home, no model cards."""

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing."""


def check_reward(config: RunConfig) -> None:
    """Check the section's further trainer arguments.

    Raises:
        UserError: For the first that does not fit `trl.RewardConfig`.
    """
    assert config.reward is not None
    check_arguments(trl.RewardConfig, "reward", config, _own_arguments(config.reward))


def train_reward(config: RunConfig, job: StageJob) -> StageResult:
    """Train the reward model; writes `adapter/` (or `model/`), `samples.jsonl`, `metrics.jsonl`.

    An ensemble has its members in `members/` besides.

    Raises:
        UserError: See `prepare` and `load_start`, or training diverged.
    """
    section = config.reward
    assert section is not None
    work = prepare(config, job)
    if section.ensemble is None:
        metrics = train_one(config, job, work)
    else:
        from reward.members import train_ensemble  # which trains by `train_one`

        metrics = train_ensemble(config, job, work)
    counts = {
        "pairs": len(work.pairs.rows),
        "too_long": work.pairs.left_out,
        "heldout_pairs": len(work.judged.rows),
        "heldout_too_long": work.judged.left_out,
    }
    made: dict[str, Any] = {"base": "model", "adapters": []}
    if section.lora is not None and work.start.causal:
        made = relative_model(job.inputs["base"], job.folder, ("adapter",))
    return StageResult(metrics | counts, work.records, made)


def train_one(
    config: RunConfig, job: StageJob, work: Work, lower: Path | None = None, upper: int = 0
) -> dict[str, Any]:
    """Train one reward model, write it, and return its metrics on the held-out pairs.

    Args:
        config: The run, with the seed of this model.
        job: Where to.
        work: What to train and judge on.
        lower: Folder of an adapter whose lower layers it shares.
        upper: How many upper layers train, where `lower` is given.
    """
    section, start = config.reward, work.start
    assert section is not None
    with own_randomness(), cpu_threads(config.threads):
        model = adapted(start, section, config.seed)
        if lower is not None:
            share_lower(model, lower, upper)
        trainer = _trainer(config, job, model, start.tokenizer, work.pairs)
        run_training(trainer, "reward", job, ("accuracy", "margin"))
        tuned = _finished(trainer.accelerator.unwrap_model(trainer.model).eval(), start)
        scorer = start.scorer(tuned)
        scores = score_pairs(scorer, work.judged.rows)
        settings = measured(reference_scores(scorer, scores, work.samples), start.context)

    def write() -> None:
        write_rows_atomic(job.folder / "samples.jsonl", scores.samples()[:SAMPLES])
        _save(tuned, start.tokenizer, settings, job)

    write_once(trainer, write)
    return pair_metrics(scores) | {
        "score_mean": settings.mean,
        "score_std": settings.std,
        "steps": trainer.state.global_step,
    }


def _finished(model: Any, start: Start) -> PreTrainedModel | PeftModel:
    """What is kept: of a causal LM the adapter, of an encoder the whole model, merged."""
    if start.causal or not isinstance(model, PeftModel):
        return model
    merged: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return merged


def _own_arguments(section: RewardConfig) -> dict[str, Any]:
    """Arguments of `trl.RewardConfig` that the stage sets."""
    return {
        "center_rewards_coefficient": section.center or None,
        "max_length": None,  # too long pairs are left out before, and counted
        "disable_dropout": False,  # the base's is off already; the adapter's follows `lora`
    }


def _trainer(
    config: RunConfig,
    job: StageJob,
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Encoded,
) -> QuietRewardTrainer:
    """TRL's trainer on encoded pairs."""
    assert config.reward is not None
    own = _own_arguments(config.reward)
    arguments = trainer_arguments(trl.RewardConfig, "reward", config, job, own)
    trainer = QuietRewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(pairs.ids),
        processing_class=tokenizer,
    )
    sides = ((row["chosen_ids"], row["rejected_ids"]) for row in pairs.ids)
    trainer.lengths = [max(map(len, pair)) for pair in sides]
    return trainer


def reference_scores(scorer: RewardModel, scores: Pairs, samples: Samples | None) -> list[float]:
    """Scores that fix zero and unit: of the reference samples, else of the held-out responses."""
    return [*scores.chosen, *scores.rejected] if samples is None else scorer(*samples)


def measured(scores: list[float], max_length: int) -> RewardSettings:
    """Mean and spread of reference scores, so that PPO sees scores of mean 0 and std 1.

    Raises:
        UserError: A score is not finite, or all are equal.
    """
    values = torch.tensor(scores, dtype=torch.float64)
    std = float(values.std(correction=0))
    if not torch.isfinite(values).all() or std == 0:
        raise UserError(
            "the scores are not finite or all equal: training diverged",
            where="reward",
            remedy="lower learning_rate or raise warmup",
        )
    return RewardSettings(float(values.mean()), std, len(values), max_length)


def _save(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: RewardSettings,
    job: StageJob,
) -> None:
    """Write what was trained - the adapter with its head, or the whole model - and the settings."""
    if isinstance(model, PeftModel):
        folder = job.folder / "adapter"
        save_adapter(model, "default", folder)
    else:
        folder = job.folder / "model"
        save_model(model, tokenizer, folder)
    settings.write(folder)
