"""Stage 3: a reward model from preference pairs (TRL RewardTrainer, Bradley-Terry loss).

Loss = -log sigmoid(s_chosen - s_rejected) + center * (s_chosen + s_rejected)^2. The trunk is the
SFT model's own, in memory, under a new score head N(0, 1 / sqrt(H + 1)) without bias (Stiennon
2020, 2009.01325). Pairs are encoded by `align.data.encoding`, so the scorer of PPO sees the same
tokens; pairs longer than `max_length` are left out and counted.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import trl
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from align.adapters import add_lora, peft_settings, save_adapter
from align.artifacts import StageJob, StageResult, write_rows_atomic
from align.config import RewardConfig, RunConfig
from align.data.encoding import encode_prompt, encode_response
from align.errors import UserError
from align.models import load_model, save_model
from align.references import relative_model
from align.shared import initial_head
from align.training import (
    check_arguments,
    cpu_threads,
    load_split,
    own_randomness,
    run_training,
    trainer_arguments,
    training_reference,
    write_once,
)
from reward.evaluate import Pairs, pair_metrics, score_pairs
from reward.model import RewardModel
from reward.parts import ModelTrunk, RewardSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLES = 200
"""Held-out pairs in `samples.jsonl`."""
TOO_LONG = "longer than max_length"


class Encoded(NamedTuple):
    """Pairs that fit, as rows and as token ids, and the number of those that do not."""

    rows: list[dict[str, Any]]
    ids: list[dict[str, list[int]]]
    left_out: int


class QuietRewardTrainer(trl.RewardTrainer):  # type: ignore[misc]  # trl is untyped
    """TRL's trainer without its call home and without model cards."""

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

    Raises:
        UserError: No pair fits `max_length`, it exceeds the model's context, transformers has no
            classifier for the model, or training diverged.
    """
    section = config.reward
    assert section is not None
    train, held, records = load_split(section, "preferences", config, job)
    reference = job.inputs["base"]
    start = training_reference(reference, config, full=section.lora is None)
    causal, tokenizer, _ = load_model(start, device="cpu")  # the trainer places it
    context = causal.config.max_position_embeddings
    if section.max_length > context:
        raise UserError(
            f"{section.max_length} exceeds the model's context of {context}",
            where="reward.max_length",
        )
    pairs = encode_pairs(tokenizer, train, section.max_length, "reward.data")
    judged = encode_pairs(tokenizer, held, section.max_length, "reward.eval_data")
    records[0]["dropped"] = {**records[0]["dropped"], TOO_LONG: pairs.left_out}
    with own_randomness(), cpu_threads(config.threads):
        model = _adapted(build_classifier(causal, config.seed), section, config.seed)
        trainer = _trainer(config, job, model, tokenizer, pairs)
        run_training(trainer, "reward", job, ("accuracy", "margin"))
        tuned = trainer.accelerator.unwrap_model(trainer.model).eval()
        scores = score_pairs(scorer(tuned, tokenizer), judged.rows)
    settings = measured(scores, context)

    def write() -> None:
        _save(tuned, tokenizer, settings, job)
        write_rows_atomic(job.folder / "samples.jsonl", scores.samples()[:SAMPLES])

    write_once(trainer, write)
    metrics = pair_metrics(scores) | {
        "score_mean": settings.mean,
        "score_std": settings.std,
        "pairs": len(pairs.rows),
        "too_long": pairs.left_out,
        "heldout_pairs": len(judged.rows),
        "heldout_too_long": judged.left_out,
        "steps": trainer.state.global_step,
    }
    made: dict[str, Any] = {"base": "model", "adapters": []}
    if section.lora is not None:
        made = relative_model(reference, job.folder, ("adapter",))
    return StageResult(metrics, records, made)


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = add_lora(model, peft_settings(section.lora, task_type="SEQ_CLS"))
    # peft names every head that a classifier may have; this one has `score`.
    adapted.peft_config["default"].modules_to_save = ["score"]
    return adapted


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
    return QuietRewardTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(pairs.ids),
        processing_class=tokenizer,
    )


def scorer(model: Any, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
    """The trained model (with or without an adapter) as a scorer of raw scores."""
    classifier = model.get_base_model() if isinstance(model, PeftModel) else model
    score = classifier.score
    trained = score.modules_to_save["default"] if isinstance(model, PeftModel) else score
    head = nn.Linear(trained.in_features, 1, bias=False, device=trained.weight.device)
    head.weight.data.copy_(trained.weight.data)
    longest = classifier.config.max_position_embeddings
    return RewardModel(ModelTrunk(classifier), head, tokenizer, RewardSettings(max_length=longest))


def measured(scores: Pairs, max_length: int) -> RewardSettings:
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
