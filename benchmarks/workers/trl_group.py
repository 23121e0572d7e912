"""One run of TRL's RLOO or GRPO: `python -m workers.trl_group WORK` prints one JSON line.

Runs in our own environment. `extra` must hold `method` ("rloo" or "grpo"); the rest goes to the
trainer's configuration. An update is one batch of responses and `epochs` passes over it; a prompt
gets `num_generations` responses. A response cut off without EOS costs what it costs our PPO; the
scores reported are without that.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, set_seed
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from workers.measure import (
    Recorder,
    as_text,
    device_of,
    id_tokenizer,
    load_policy,
    load_prompts,
    report,
)
from workers.scores import ScoreFunction, held_scores, score_function
from workers.work import Work

METHODS = {"rloo": (RLOOConfig, RLOOTrainer), "grpo": (GRPOConfig, GRPOTrainer)}


def trainer_arguments(work: Work, extra: dict[str, Any]) -> dict[str, Any]:
    """Arguments of TRL's configuration that mean the same as ours."""
    own = {
        "seed": work.seed,
        "use_cpu": device_of(work) == "cpu",
        "bf16": work.dtype == "autocast",
        "per_device_train_batch_size": work.micro_batch,
        "gradient_accumulation_steps": work.batch // (work.micro_batch * work.mini_batches),
        "generation_batch_size": work.batch,
        "num_generations": 4,
        "num_iterations": work.epochs,
        "max_steps": work.updates * work.epochs * work.mini_batches,
        "max_completion_length": work.response_length,
        "temperature": work.temperature,
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "linear",
        "adam_epsilon": 1e-5,
        "beta": work.kl_coef,
        "logging_steps": work.epochs * work.mini_batches,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
    }
    return own | extra


def cut_penalty(work: Work) -> ScoreFunction:
    """-1 for a response of all T tokens without EOS, else 0."""

    def cut(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return [-1.0 if work.eos not in ids else 0.0 for ids in completion_ids]

    return cut


def train(work: Work, folder: str) -> tuple[Recorder, dict[str, list[float]]]:
    """Train, and return what was recorded and the scores on held-out prompts."""
    set_seed(work.seed)
    extra = dict(work.extra)
    config, trainer_type = METHODS[extra.pop("method")]
    policy = load_policy(work)
    vocabulary = policy.config.vocab_size
    policy.generation_config.eos_token_id = work.eos
    score = score_function(work, vocabulary)
    recorder = Recorder(f"rewards/{score.__name__}/mean", lambda _: {})
    trainer = trainer_type(
        model=policy,
        reward_funcs=[score, *([] if work.eos is None else [cut_penalty(work)])],
        args=config(output_dir=folder, **trainer_arguments(work, extra)),
        train_dataset=Dataset.from_dict(
            {"prompt": [as_text(ids) for ids in load_prompts(work.prompts)]}
        ),
        processing_class=id_tokenizer(vocabulary, pad_id=0, eos_id=work.eos),
        peft_config=LoraConfig(
            r=work.lora_r,
            lora_alpha=work.lora_alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[recorder],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    with torch.no_grad():
        return recorder, held_scores(trainer.model, work, vocabulary)


if __name__ == "__main__":
    the_work = Work.from_json(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        recorded, scores = train(the_work, scratch)
    print(report(the_work, recorded, "trl", scores))
