"""The PPO stage of a run: from its section of the configuration to the policy's adapter."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, TrainerState

from align.artifacts import MetricsLog, StageJob, StageResult, write_json_atomic, write_rows_atomic
from align.callbacks import StageCallback, last_complete_checkpoint
from align.config import PPOStageConfig, RunConfig
from align.data.sources import load_rows
from align.data.splits import split_holdout
from align.errors import UserError
from align.part_files import save_part
from align.ppo.config import PPOConfig
from align.ppo.stopping import GoldStop
from align.ppo.terms import RewardFunction, RewardTerm, name_of, signature_of
from align.ppo.trainer import PPOTrainer
from align.references import relative_model
from align.settings import check_trainer_arguments
from align.shared import SharedBase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EVALUATIONS = "evaluations.jsonl"
"""What the held-out prompts got at every evaluation while training, prompt by prompt."""
SHOWN = ("score/mean", "kl/k1", "response/length")
"""Numbers beside the progress bar."""
OWNED = frozenset(
    {
        "output_dir", "seed", "data_seed", "use_cpu", "bf16", "disable_tqdm", "save_total_limit",
        "learning_rate", "critic_learning_rate", "critic_adapter", "total_episodes",
        "num_ppo_epochs", "num_mini_batches", "per_device_train_batch_size", "max_steps",
        "gradient_accumulation_steps", "max_prompt_length", "response_length", "temperature",
        "kl_coef", "kl_target", "kl_budget", "truncation", "truncation_penalty",
        "checkpoint_updates", "eval_updates", "critic", "ptx_coef", "ptx_max_length",
        "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    }
)  # fmt: skip
"""Arguments of `PPOConfig` that the stage sets itself."""


@dataclass(frozen=True)
class PPOParts:
    """What PPO plays with: the shared base and the rewards, made by the pipeline."""

    shared: SharedBase
    tokenizer: PreTrainedTokenizerBase
    terms: list[RewardTerm]
    gold: RewardFunction | None
    critic_adapter: Path | None


def check_ppo(section: PPOStageConfig) -> None:
    """Check the section's further trainer arguments.

    Raises:
        UserError: for the first that does not fit `PPOConfig`.
    """
    check_trainer_arguments("ppo.trainer", section.trainer, PPOConfig, OWNED)


def check_best(section: PPOStageConfig, parts: PPOParts) -> None:
    """Refuse to choose the best policy by scores whose scale moves.

    Raises:
        UserError: A term's scale is running, and there is no gold reward.
    """
    moving = [
        term.name or name_of(term.function)
        for term in parts.terms
        if term.weight and term.normalise == "running"
    ]
    if section.keep == "best" and parts.gold is None and moving:
        raise UserError(
            f"scores of different updates cannot be compared: {moving[0]} is normalised by running",
            where="ppo.keep",
            allowed="normalise: reference or constants, or keep: last",
        )


def load_prompts(config: RunConfig, job: StageJob) -> tuple[list[Any], list[Any], list[Any]]:
    """Training prompts, held-out prompts and the sources' records."""
    assert config.ppo is not None
    rows, record = load_rows(config.ppo.data, "prompts", job.data)
    if config.ppo.eval_data is not None:
        held, held_record = load_rows(config.ppo.eval_data, "prompts", job.data)
        return rows, held, [record, held_record]
    train, held = split_holdout(rows, config.data.holdout, config.seed)
    return train, held, [record]


def train_ppo(config: RunConfig, job: StageJob, parts: PPOParts) -> StageResult:
    """Train the policy; resumes from the last complete checkpoint in the stage's folder."""
    section = config.ppo
    assert section is not None
    check_ppo(section)
    check_best(section, parts)
    train, held, records = load_prompts(config, job)
    texts = None
    if section.ptx is not None:
        texts, record = load_rows(section.ptx.data, "text", job.data)
        records.append(record)
    log, checkpoints = MetricsLog(job.folder / "metrics.jsonl"), job.folder / "checkpoints"
    resume = last_complete_checkpoint(checkpoints)
    trainer = PPOTrainer(
        model=parts.shared,
        reward_funcs=parts.terms,
        args=ppo_arguments(config, checkpoints, parts.critic_adapter, gold=parts.gold is not None),
        train_dataset=train,
        eval_dataset=held,
        processing_class=parts.tokenizer,
        peft_config=section.lora,
        callbacks=[StageCallback("4-ppo", job.progress, log, SHOWN)],
        gold_func=parts.gold,
        ptx_dataset=texts,
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.prompts.dropped:
        job.progress.note(f"left out {trainer.prompts.dropped} prompts that are too long")
    trainer.args.eval_on_start = section.eval_updates is not None and resume is None
    _train(trainer, resume, section.gold_patience)
    return _finish(config, job, trainer, records)


def _train(trainer: PPOTrainer, resume: Path | None, patience: int | None) -> None:
    """Train, unless a run that was killed after the gold reward stopped it is resumed."""
    if patience is not None:
        stop = GoldStop(trainer.memory, patience)
        if resume is not None:
            trainer._load_from_checkpoint(str(resume))
            if stop.due:
                trainer.state = TrainerState.load_from_json(str(resume / "trainer_state.json"))
                if trainer.args.load_best_model_at_end:
                    trainer._load_best_model()
                return
        trainer.add_callback(stop)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def ppo_arguments(config: RunConfig, folder: Path, critic: Path | None, *, gold: bool) -> PPOConfig:
    """`PPOConfig` of a run; `gold`: whether a gold reward is watched."""
    from align.models import pick_device

    section = config.ppo
    assert section is not None
    updates = max(section.episodes // section.batch_size, 1)
    unit = section.mini_batches * section.micro_batch_size
    return PPOConfig(
        output_dir=str(folder),
        seed=config.seed,
        use_cpu=pick_device(config.device) == "cpu",
        disable_tqdm=True,
        save_total_limit=2,
        learning_rate=section.learning_rate,
        critic_learning_rate=section.critic_learning_rate,
        critic=section.critic,
        critic_adapter=str(critic) if critic else None,
        total_episodes=updates * section.batch_size,
        num_ppo_epochs=section.ppo_epochs,
        num_mini_batches=section.mini_batches,
        per_device_train_batch_size=section.micro_batch_size,
        gradient_accumulation_steps=section.batch_size // unit,
        max_prompt_length=section.max_prompt_length,
        response_length=section.response_length,
        temperature=section.temperature,
        kl_coef=section.kl_coef,
        kl_target=section.kl_target,
        kl_budget=section.kl_budget,
        truncation=section.truncation,
        truncation_penalty=section.truncation_penalty,
        checkpoint_updates=section.checkpoint_updates,
        eval_updates=section.eval_updates,
        **_text_arguments(section),
        **_best_arguments(section, gold=gold),
        **section.trainer,
    )


def _text_arguments(section: PPOStageConfig) -> dict[str, Any]:
    """Arguments of the PTX loss."""
    if section.ptx is None:
        return {}
    return {"ptx_coef": section.ptx.coef, "ptx_max_length": section.ptx.max_length}


def _best_arguments(section: PPOStageConfig, *, gold: bool) -> dict[str, Any]:
    """Arguments that keep the best evaluated policy."""
    if section.keep == "last":
        return {}
    return {
        "load_best_model_at_end": True,
        "metric_for_best_model": "gold" if gold else "score",
        "greater_is_better": True,
    }


def _finish(
    config: RunConfig, job: StageJob, trainer: PPOTrainer, records: list[Any]
) -> StageResult:
    """Write the adapters, samples and KL budget; drop the checkpoints."""
    folder = job.folder
    assert config.ppo is not None
    kind = "adapter" if config.ppo.lora is not None else "model"
    save_part(trainer.shared, "policy", folder / kind)
    save_part(trainer.shared, "critic", folder / "critic")
    if kind == "model":
        trainer.tokenizer.save_pretrained(folder / kind)
    evaluated = list(trainer.memory.evaluated)
    metrics = trainer.evaluate()
    if evaluated:
        write_rows_atomic(folder / EVALUATIONS, [entry._asdict() for entry in evaluated])
    write_rows_atomic(folder / "samples.jsonl", trainer.samples)
    found = {
        "kl_budget": config.ppo.kl_budget,
        "eval": metrics,
        "warnings": trainer.memory.alarms,
        "rewards": [signature_of(term) for term in trainer.terms],
        "scales": {name: scale.state() for name, scale in trainer.memory.terms.items()},
    }
    write_json_atomic(folder / "ppo.json", found)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return StageResult(
        metrics={**metrics, "kl_budget": config.ppo.kl_budget, "beta": trainer.memory.kl.beta},
        data=records,
        model=relative_model(job.inputs["policy"], folder, ("adapter",))
        if kind == "adapter"
        else {"base": kind, "adapters": []},
    )
