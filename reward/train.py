"""Stage 3: a reward model from preference pairs (TRL RewardTrainer, Bradley-Terry loss).

Loss = -log sigmoid(s_chosen - s_rejected) + center * (s_chosen + s_rejected)^2. The trunk is the
SFT model's own, in memory, under a new score head N(0, 1 / sqrt(H + 1)) without bias (Stiennon
2020, 2009.01325). Pairs are encoded by `align.data.encoding`, so the scorer of PPO sees the same
tokens; pairs longer than `max_length` are left out and counted.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from trl import RewardConfig as TRLRewardConfig
from trl import RewardTrainer

from align.adapters import peft_settings
from align.artifacts import StageJob, StageResult, write_rows_atomic
from align.config import RewardConfig, RunConfig
from align.data.encoding import encode_prompt, encode_response
from align.errors import UserError
from align.models import load_model, pick_device, relative_model, save_adapter, save_model
from align.shared import initial_head
from align.training import (
    cpu_threads,
    load_split,
    own_randomness,
    run_training,
    trainer_arguments,
)
from reward.evaluate import Pairs, pair_metrics, score_pairs
from reward.model import RewardModel
from reward.parts import ModelTrunk, RewardSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 200
"""Held-out pairs in `samples.jsonl`."""


class Encoded(NamedTuple):
    """Pairs that fit, as rows and as token ids, and the number of those that do not."""

    rows: list[dict[str, Any]]
    ids: list[dict[str, list[int]]]
    left_out: int


class QuietRewardTrainer(RewardTrainer):  # type: ignore[misc]  # trl is untyped
    """TRL's trainer without its call home and without model cards."""

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing."""


def train_reward(config: RunConfig, job: StageJob) -> StageResult:
    """Train the reward model; writes `adapter/` (or `model/`), `samples.jsonl`, `metrics.jsonl`.

    Raises:
        UserError: No pair fits `max_length`, a model without a classifier in transformers, or
            training that diverged.
    """
    section = config.reward
    assert section is not None
    train, held, records = load_split(section, "preferences", config, job)
    reference = job.inputs["base"]
    if section.lora is None:  # all weights train: in float32 under autocast
        reference = replace(reference, dtype="float32")
    with own_randomness(), cpu_threads(config.threads):
        loaded = load_model(reference, device=pick_device(config.device))
        pairs = encode_pairs(loaded.tokenizer, train, section.max_length, "reward.data")
        judged = encode_pairs(loaded.tokenizer, held, section.max_length, "reward.eval_data")
        model = _adapted(build_classifier(loaded.model, config.seed), section, config.seed)
        trainer = _trainer(config, job, model, loaded.tokenizer, pairs)
        run_training(trainer, "reward", job, ("accuracy", "margin"))
        scorer = _save(trainer.model.eval(), loaded.tokenizer, section, job)
        scores = score_pairs(scorer, judged.rows)
    settings = _measured(scorer.settings, scores)
    settings.write(job.folder / _folder(section))
    samples = scores.samples()[:SAMPLES]
    write_rows_atomic(job.folder / "samples.jsonl", samples)
    shutil.rmtree(job.folder / "checkpoints")
    metrics = pair_metrics(scores) | {
        "score_mean": settings.mean,
        "score_std": settings.std,
        "train_pairs": len(pairs.rows),
        "heldout_pairs": len(judged.rows),
        "left_out": pairs.left_out + judged.left_out,
        "steps": trainer.state.global_step,
    }
    own = relative_model(job.inputs["base"], job.folder, ("adapter",))
    return StageResult(metrics, records, own if section.lora else {"base": "model", "adapters": []})


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], longest: int, where: str
) -> Encoded:
    """Both sides of every pair as prompt, response and EOS, at most `longest` tokens each.

    Raises:
        UserError: No pair fits.
    """
    kept, ids = [], []
    for row in rows:
        prompt = encode_prompt(tokenizer, row["prompt"])
        sides = {
            f"{side}_ids": prompt + encode_response(tokenizer, row[side])
            for side in ("chosen", "rejected")
        }
        if max(map(len, sides.values())) <= longest:
            kept.append(row)
            ids.append(sides)
    if not kept:
        raise UserError(
            f"none of {len(rows)} pairs fits {longest} tokens",
            where=where,
            remedy="raise reward.max_length",
        )
    return Encoded(kept, ids, len(rows) - len(kept))


def build_classifier(causal: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A sequence classifier with one label on the causal LM's own trunk (shared, not copied).

    Raises:
        UserError: transformers has no classifier for this architecture.
    """
    config = copy.deepcopy(causal.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise UserError(
            f"no sequence classifier for {config.model_type}", where="reward", allowed="Llama, Qwen"
        ) from error
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise UserError(f"{type(model).__name__} has no linear `score` head", where="reward")
    setattr(model, model.base_model_prefix, causal.base_model)
    weight = initial_head(config.hidden_size, seed)
    model.score = nn.Linear(config.hidden_size, 1, bias=False)
    model.score.weight.data.copy_(weight)
    return model.to(causal.device)


def _adapted(
    model: PreTrainedModel, section: RewardConfig, seed: int
) -> PeftModel | PreTrainedModel:
    """The classifier under a fresh adapter that trains with the head, or with all weights free."""
    if section.lora is None:
        return model.requires_grad_(True)
    torch.manual_seed(seed)
    adapted: PeftModel = get_peft_model(model, peft_settings(section.lora, task_type="SEQ_CLS"))
    # peft names every head that a classifier may have; this one has `score`.
    adapted.peft_config["default"].modules_to_save = ["score"]
    return adapted


def _trainer(
    config: RunConfig,
    job: StageJob,
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Encoded,
) -> RewardTrainer:
    """TRL's trainer on encoded pairs."""
    section = config.reward
    assert section is not None
    own = {
        "center_rewards_coefficient": section.center or None,
        "max_length": None,  # too long pairs are left out before, and counted
        "disable_dropout": False,  # the base's is off already; the adapter's follows `lora`
    }
    arguments = trainer_arguments(TRLRewardConfig, "reward", config, job, own)
    return QuietRewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(pairs.ids),
        processing_class=tokenizer,
    )


def _folder(section: RewardConfig) -> str:
    return "adapter" if section.lora else "model"


def _save(
    model: Any, tokenizer: PreTrainedTokenizerBase, section: RewardConfig, job: StageJob
) -> RewardModel:
    """Write the weights, and return the trained model as a scorer."""
    folder = job.folder / _folder(section)
    if section.lora:
        save_adapter(model, "default", folder)
        model = model.get_base_model()
    else:
        save_model(model, tokenizer, folder)
    settings = RewardSettings(max_length=model.config.max_position_embeddings)
    return RewardModel(ModelTrunk(model), _plain_head(model.score), tokenizer, settings)


def _plain_head(score: nn.Module) -> nn.Linear:
    """The trained head, out of peft's wrapper, in float32."""
    trained = getattr(score, "modules_to_save", {"default": score})["default"]
    head = nn.Linear(trained.in_features, 1, bias=False, device=trained.weight.device)
    head.weight.data.copy_(trained.weight.data)
    return head


def _measured(settings: RewardSettings, scores: Pairs) -> RewardSettings:
    """Mean and spread of the held-out scores, so that PPO sees scores of mean 0 and std 1.

    Raises:
        UserError: A score is not finite, or all are equal.
    """
    values = torch.tensor([*scores.chosen, *scores.rejected], dtype=torch.float64)
    std = float(values.std(correction=0))
    if not torch.isfinite(values).all() or std == 0:
        raise UserError(
            "the scores are not finite or all equal: training diverged",
            where="reward",
            remedy="lower learning_rate or raise warmup",
        )
    return replace(settings, mean=float(values.mean()), std=std, n=len(values))
