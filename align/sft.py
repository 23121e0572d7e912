"""Stage 2: supervised fine-tuning on dialogues with TRL's SFTTrainer, loss on the answers only.

Dialogues reach the trainer as token ids and labels from `align.data.encoding`, so that SFT sees
what PPO will sample and what evaluation will score. Dialogues that are too long are left out and
counted, never cut: a cut answer would teach the model not to stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import trl
from datasets import Dataset
from peft import PeftModel
from torch import Tensor

from align.adapters import add_lora, peft_settings, save_adapter
from align.artifacts import StageJob, StageResult, write_rows_atomic
from align.config import LoraConfig, RunConfig, SFTConfig
from align.data.encoding import decode_response, encode_conversation, encode_prompt
from align.errors import UserError
from align.generation import Sampling, generate
from align.grouping import GroupedMicroBatches
from align.models import LoadedModel, load_model, save_model
from align.references import relative_model
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

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that does not count in the loss."""
SAMPLES = 8
"""Answers in `samples.jsonl`."""
SAMPLE_TOKENS = 64
"""Longest of them."""
TOO_LONG = "longer than max_length"


class Encoded(NamedTuple):
    """Dialogues as token ids and labels of the same length, and how many were too long."""

    ids: list[list[int]]
    labels: list[list[int]]
    too_long: int


class HeldOut(NamedTuple):
    """Mean loss (nats a token) and token accuracy over the answers of held-out dialogues."""

    loss: float
    accuracy: float
    tokens: int


class QuietSFTTrainer(GroupedMicroBatches, trl.SFTTrainer):  # type: ignore[misc]  # TRL is untyped
    """TRL's trainer with micro-batches of similar lengths; no call home, no model card."""

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write nothing."""


def check_sft(config: RunConfig) -> None:
    """Check the section's further trainer arguments.

    Raises:
        UserError: For the first that does not fit `trl.SFTConfig`.
    """
    assert config.sft is not None
    check_arguments(trl.SFTConfig, "sft", config, _own_arguments(config.sft))


def train_sft(config: RunConfig, job: StageJob) -> StageResult:
    """Fine-tune; writes `adapter/` (`model/` without LoRA), `samples.jsonl`, `metrics.jsonl`.

    Raises:
        UserError: Data or arguments that do not fit, or no dialogue short enough.
    """
    section = config.sft
    assert section is not None
    train, held, records = load_split(section, "instructions", config, job)
    reference = job.inputs["base"]
    start = training_reference(reference, config, full=section.lora is None)
    model, tokenizer, _ = load_model(start, device="cpu")  # the trainer places it
    _check_context(section.max_length, model)
    taught, tested = (encode_dialogues(tokenizer, part, section) for part in (train, held))
    records[0]["dropped"] = {**records[0]["dropped"], TOO_LONG: taught.too_long}
    with own_randomness(), cpu_threads(config.threads):
        adapted = with_adapter(model, section.lora, config.seed)
        trainer = _trainer(config, job, LoadedModel(adapted, tokenizer, start), (taught, tested))
        run_training(trainer, "sft", job, ("mean_token_accuracy",))
        tuned = trainer.accelerator.unwrap_model(trainer.model).eval()
        batch = trainer.args.per_device_eval_batch_size
        result = heldout(tuned, tested, tokenizer.pad_token_id, batch)
        samples = answers(tuned, tokenizer, held[:SAMPLES])
        steps = trainer.state.global_step

    def write() -> None:
        _save(tuned, tokenizer, job.folder)
        write_rows_atomic(job.folder / "samples.jsonl", samples)

    write_once(trainer, write)
    metrics = {
        "heldout_loss": result.loss,
        "heldout_token_accuracy": result.accuracy,
        "heldout_tokens": result.tokens,
        "heldout_too_long": tested.too_long,
        "dialogues": len(taught.ids),
        "too_long": taught.too_long,
        "steps": steps,
        "trainable_parameters": sum(p.numel() for p in tuned.parameters() if p.requires_grad),
    }
    made = {"base": "model", "adapters": []}
    if section.lora is not None:
        made = relative_model(reference, job.folder, ("adapter",))
    return StageResult(metrics, records, made)


def _check_context(max_length: int, model: PreTrainedModel) -> None:
    """Refuse dialogues that the model has no positions for."""
    context = model.config.max_position_embeddings
    if max_length > context:
        raise UserError(f"{max_length} exceeds the context of {context}", where="sft.max_length")


def encode_dialogues(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]], section: SFTConfig
) -> Encoded:
    """Encode dialogues; a label is the token itself in an answer, else `IGNORED`.

    Raises:
        UserError: No dialogue is short enough.
    """
    encoded = [encode_conversation(tokenizer, row["messages"]) for row in rows]
    kept = [dialogue for dialogue in encoded if len(dialogue.ids) <= section.max_length]
    if not kept:
        raise UserError(
            f"none of {len(rows)} dialogues has at most {section.max_length} tokens",
            where="sft.max_length",
        )
    labels = [
        [token if said else IGNORED for token, said in zip(ids, mask, strict=True)]
        for ids, mask in kept
    ]
    return Encoded([dialogue.ids for dialogue in kept], labels, len(rows) - len(kept))


def with_adapter(
    model: PreTrainedModel, lora: LoraConfig | None, seed: int
) -> PreTrainedModel | PeftModel:
    """The model with a fresh adapter (A seeded, B zero); itself where all weights train."""
    if lora is None:
        return model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return add_lora(model, peft_settings(lora))


@torch.no_grad()
def heldout(
    model: PreTrainedModel | PeftModel, rows: Encoded, pad_id: int, batch_size: int
) -> HeldOut:
    """Sum over every answer token of every row, so that no row's length or batch matters.

    loss = -sum(log p(token)) / tokens; accuracy = share of tokens that are the most likely one.
    """
    loss, correct, tokens = 0.0, 0, 0
    for ids, mask, labels in _batches(rows, pad_id, batch_size):
        place = model.device
        logits = model(input_ids=ids.to(place), attention_mask=mask.to(place)).logits
        said = labels[:, 1:].to(place)
        counts = said != IGNORED
        chosen = logits[:, :-1][counts].float()
        target = said[counts]
        loss += float(torch.nn.functional.cross_entropy(chosen, target, reduction="sum"))
        correct += int((chosen.argmax(-1) == target).sum())
        tokens += len(target)
    return HeldOut(loss / tokens, correct / tokens, tokens)


def answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Greedy answers to the last turn of dialogues, beside the given ones."""
    dialogues = [row["messages"] for row in rows]
    ends = [max(i for i, m in enumerate(d) if m["role"] == "assistant") for d in dialogues]
    prompts = [dialogue[:end] for dialogue, end in zip(dialogues, ends, strict=True)]
    stops = frozenset({tokenizer.eos_token_id})
    sampling = Sampling(
        SAMPLE_TOKENS, stops, temperature=0.0, pad_id=tokenizer.pad_token_id, static=False
    )
    drawn = generate(model, [encode_prompt(tokenizer, prompt) for prompt in prompts], sampling)
    return [
        {
            "prompt": prompt,
            "response": decode_response(tokenizer, response.ids),
            "reference": dialogue[end]["content"],
        }
        for prompt, response, dialogue, end in zip(prompts, drawn, dialogues, ends, strict=True)
    ]


def _batches(
    rows: Encoded, pad_id: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(B, S) ids, attention mask and labels, padded on the right; rows of like length together."""
    order = sorted(range(len(rows.ids)), key=lambda i: len(rows.ids[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(rows.ids[i]) for i in chosen)
        ids = torch.full((len(chosen), width), pad_id)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORED)
        for row, i in enumerate(chosen):
            length = len(rows.ids[i])
            ids[row, :length] = torch.tensor(rows.ids[i])
            labels[row, :length] = torch.tensor(rows.labels[i])
            mask[row, :length] = 1
        yield ids, mask, labels


def _own_arguments(section: SFTConfig) -> dict[str, Any]:
    """Arguments of `trl.SFTConfig` that the stage sets: no default that changes numbers is left."""
    return {
        "max_length": section.max_length,
        "packing": section.packing,
        "packing_strategy": "bfd",
        "padding_free": False,
        "eval_packing": False,
        "pad_to_multiple_of": None,
        "shuffle_dataset": False,
        "completion_only_loss": False,
        "assistant_only_loss": False,  # the labels already say so
        "dataset_kwargs": {"skip_prepare_dataset": not section.packing},
    }


def _trainer(
    config: RunConfig, job: StageJob, loaded: LoadedModel, rows: tuple[Encoded, Encoded]
) -> QuietSFTTrainer:
    """TRL's trainer on (training, held-out) dialogues."""
    assert config.sft is not None
    own = _own_arguments(config.sft)
    taught, tested = (
        Dataset.from_dict({"input_ids": part.ids, "labels": part.labels}) for part in rows
    )
    trainer = QuietSFTTrainer(
        model=loaded.model,
        args=trainer_arguments(trl.SFTConfig, "sft", config, job, own),
        train_dataset=taught,
        eval_dataset=tested,  # read only where `trainer` sets eval_strategy
        processing_class=loaded.tokenizer,
    )
    if not config.sft.packing:
        trainer.lengths = list(map(len, rows[0].ids))
    return trainer


def _save(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write what was trained: the adapter, or the whole model."""
    if isinstance(model, PeftModel):
        save_adapter(model, "default", folder / "adapter")
    else:
        save_model(model, tokenizer, folder / "model")
