"""Stage 1: a tokenizer and a language model from scratch, on documents packed into blocks.

Every document stands between BOS and EOS; the stream of all is cut into blocks of `max_length`
tokens, and attention may look across documents within a block (as in GPT-2 and nanoGPT). The
weights kept are those with the lowest held-out loss among the checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from align.artifacts import StageJob, StageResult, write_rows_atomic
from align.config import PretrainConfig, RunConfig
from align.data.encoding import decode_response, encode_prompt, truncate_left
from align.errors import UserError
from align.generation import Sampling, generate
from align.models import build_model, save_model
from align.quiet import quiet_transformers
from align.tokenizer import train_tokenizer
from align.training import (
    EarlyStop,
    check_arguments,
    checkpoint_state,
    cpu_threads,
    is_over,
    last_checkpoint,
    load_split,
    own_randomness,
    run_training,
    trainer_arguments,
    write_once,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WATCHED_BLOCKS = 64
"""Held-out blocks evaluated while training; the final loss is over all of them."""
SAMPLES = 8
"""Continuations in `samples.jsonl`."""


class Packed(NamedTuple):
    """Blocks (N, S) of token ids, and how many tokens at the end filled no block."""

    blocks: Tensor
    left_over: int


class Blocks(Dataset[dict[str, Tensor]]):
    """Blocks (N, S) as a dataset that hands out whole batches."""

    def __init__(self, blocks: Tensor) -> None:
        self._blocks = blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """A batch (B, S); the model itself shifts the labels."""
        ids = self._blocks[indices]
        return {"input_ids": ids, "labels": ids}


def check_pretrain(config: RunConfig) -> None:
    """Check the section's further trainer arguments.

    Raises:
        UserError: For the first that does not fit `TrainingArguments`.
    """
    assert config.pretrain is not None
    check_arguments(TrainingArguments, "pretrain", config, _own_arguments(config.pretrain))


def train_pretrain(config: RunConfig, job: StageJob) -> StageResult:
    """Train tokenizer and model; writes `model/`, `samples.jsonl` and `metrics.jsonl`.

    Raises:
        UserError: Blocks longer than the context, too little text, or training that diverged.
    """
    section = config.pretrain
    assert section is not None
    if section.max_length > section.architecture.context:
        raise UserError(
            f"{section.max_length} exceeds the context of {section.architecture.context}",
            where="pretrain.max_length",
        )
    train, held, records = load_split(section, "text", config, job)
    with own_randomness(), cpu_threads(config.threads):
        tokenizer = train_tokenizer(_texts(train), section.architecture.vocab_size)
        blocks = pack_blocks(tokenizer, _texts(train), section.max_length)
        watched = pack_blocks(tokenizer, _texts(held), section.max_length)
        _check_enough(len(blocks.blocks), len(watched.blocks), section)
        trainer = _trainer(config, job, tokenizer, (blocks.blocks, watched.blocks))
        steps = _train(trainer, section.patience, job)
        model = trainer.model.eval()
        final = trainer.evaluate(Blocks(watched.blocks))["eval_loss"]
        samples = continuations(model, tokenizer, held[:SAMPLES], config.seed)

    def write() -> None:
        save_model(model, tokenizer, job.folder / "model")
        write_rows_atomic(job.folder / "samples.jsonl", samples)

    write_once(trainer, write)
    batch = section.batch_size * trainer.args.world_size
    metrics = {
        "heldout_loss": final,
        "heldout_perplexity": math.exp(final),
        "heldout_tokens": watched.blocks.numel(),
        "tokens_seen": section.max_length * blocks_seen(steps, len(blocks.blocks), batch),
        "tokens_left_over": blocks.left_over,
        "steps": steps,
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
    }
    return StageResult(metrics, records, {"base": "model", "adapters": []})


def pack_blocks(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int) -> Packed:
    """Documents as BOS, tokens, EOS, one after the other, cut into blocks (N, length)."""
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    stream = [
        token
        for ids in encoded["input_ids"]
        for token in (tokenizer.bos_token_id, *ids, tokenizer.eos_token_id)
    ]
    whole = len(stream) // length * length
    return Packed(torch.tensor(stream[:whole]).reshape(-1, length), len(stream) - whole)


def blocks_seen(steps: int, blocks: int, batch: int) -> int:
    """Blocks of so many steps; the last step of an epoch may see fewer than the others."""
    epochs, rest = divmod(steps, math.ceil(blocks / batch))
    return epochs * blocks + rest * batch


def continuations(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[dict[str, Any]],
    seed: int,
) -> list[dict[str, str]]:
    """Sampled continuations of the first third of some texts, beside the rest of the text."""
    texts = [row["text"] for row in rows]
    context = model.config.max_position_embeddings
    ids = [encode_prompt(tokenizer, text) for text in texts]
    starts = [truncate_left(row[: 1 + len(row) // 3], context // 2) for row in ids]
    stops = frozenset({tokenizer.eos_token_id})
    sampling = Sampling(
        context - max(map(len, starts)), stops, pad_id=tokenizer.pad_token_id, static=False
    )
    drawn = generate(model, starts, sampling, torch.Generator().manual_seed(seed))
    return [
        {
            "prompt": decode_response(tokenizer, start),
            "response": decode_response(tokenizer, response.ids),
            "reference": text,
        }
        for start, response, text in zip(starts, drawn, texts, strict=True)
    ]


def _texts(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in rows]


def _check_enough(blocks: int, watched: int, section: PretrainConfig) -> None:
    """Refuse text that fills no batch, or no held-out block."""
    if blocks < section.batch_size or not watched:
        raise UserError(
            f"the text fills {blocks} blocks of {section.max_length} tokens, and {watched} "
            "held out",
            where="pretrain.data",
            allowed=f"at least batch_size ({section.batch_size}) and 1",
            remedy="give more text or shorter blocks",
        )


def _own_arguments(section: PretrainConfig) -> dict[str, Any]:
    """Arguments of `TrainingArguments` that the stage sets."""
    return {
        "eval_strategy": "steps",
        "eval_steps": section.checkpoint_steps,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "load_best_model_at_end": False,
        "prediction_loss_only": True,
        "dataloader_drop_last": False,  # it would leave held-out blocks out, too
    }


def _trainer(
    config: RunConfig,
    job: StageJob,
    tokenizer: PreTrainedTokenizerBase,
    blocks: tuple[Tensor, Tensor],
) -> Trainer:
    """The trainer of a fresh model on (training, held-out) blocks."""
    section = config.pretrain
    assert section is not None
    own = _own_arguments(section)
    arguments = trainer_arguments(TrainingArguments, "pretrain", config, job, own)
    return Trainer(
        model=build_model(section.architecture, tokenizer, config.seed),
        args=arguments,
        data_collator=_as_it_is,
        train_dataset=Blocks(blocks[0]),
        eval_dataset=Blocks(blocks[1][:WATCHED_BLOCKS]),
        callbacks=[EarlyStop(section.patience)],
    )


def _as_it_is(batch: Any) -> Any:
    """The batch that the dataset has already made."""
    return batch


def _train(trainer: Trainer, patience: int | None, job: StageJob) -> int:
    """Train to the end, put the best weights into the model; returns the steps made.

    Raises:
        UserError: No evaluation gave a finite loss.
    """
    last = last_checkpoint(trainer)
    # A run killed between its early stop and its end must not train on.
    if last is None or not is_over(checkpoint_state(last)["log_history"], patience):
        run_training(trainer, "pretrain", job, ("eval_loss",))
        last = last_checkpoint(trainer)
    assert last is not None  # the trainer saves at its last step
    state = checkpoint_state(last)
    best = last.with_name(f"checkpoint-{state['best_global_step']}")
    if not state["best_global_step"]:
        raise UserError(
            "the held-out loss was never finite",
            where="pretrain",
            remedy="lower learning_rate or raise warmup",
        )
    _load_weights(trainer, best)
    return int(state["global_step"])


def _load_weights(trainer: Trainer, checkpoint: Path) -> None:
    """Copy a checkpoint's weights into the trainer's model."""
    with quiet_transformers():
        saved = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    trainer.model.load_state_dict(saved.state_dict())
