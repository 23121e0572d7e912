"""Any sequence classifier as a reward: the probability it gives a label to the response.

Sentiment, toxicity, regard or topic: whatever label the model has. It reads the response alone,
so the prompt is not judged; for reward models that read both see `reward.model` and `align.ppo`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from align.complaints import nearest
from align.errors import UserError
from reward.functions import Completion, RewardFunction, completion_text, signed


def classifier(model: str, label: str, batch_size: int = 32) -> RewardFunction:
    """Probability of a label, from 0 to 1: softmax, or sigmoid where labels do not exclude others.

    The model is loaded on first use, in float32, on the GPU if there is one. Texts beyond its
    longest input are cut.

    Args:
        model: Folder or hub id of a transformers sequence classifier in safetensors.
        label: One of the names in its `id2label`, compared without case.
        batch_size: Responses a pass.

    Raises:
        UserError: No such folder, or - on first use - no such label or weights.
    """
    path = Path(model)
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError("no config.json: no model", where=f"classifier.model: {model}")
    if not path.is_dir() and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model):
        raise UserError(
            f"no such model: {model!r}",
            where="classifier.model",
            allowed="a folder of transformers, or a hub id",
        )

    @cache
    def loaded() -> Any:
        return _load(model, label)

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float]:
        texts = [completion_text(completion) for completion in completions]
        parts = range(0, len(texts), batch_size)
        return [p for first in parts for p in loaded()(texts[first : first + batch_size])]

    return signed(reward, f"classifier_{label.casefold()}", model=_identity(path), label=label)


def _identity(path: Path) -> str:
    """What pins the model: the start of its hash, or the hub id."""
    from align.artifacts import path_hash

    return f"{path.name}@{path_hash(path)[:12]}" if path.is_dir() else str(path)


def _load(name: str, label: str) -> Any:
    """The function that maps texts to probabilities of the label."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from align.models import pick_device
    from align.quiet import quiet_transformers

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    where = f"classifier {name}"
    if info["missing_keys"]:
        raise UserError(f"weights missing: {sorted(info['missing_keys'])[0]}", where=where)
    names = {text.casefold(): int(place) for place, text in model.config.id2label.items()}
    if label.casefold() not in names:
        raise UserError(f"no label {label!r}", where=where, allowed=nearest(label, names))
    place = names[label.casefold()]
    model = model.to(pick_device()).eval()
    apart = model.config.problem_type == "multi_label_classification" or len(names) == 1
    longest = min(tokenizer.model_max_length, model.config.max_position_embeddings)

    @torch.no_grad()
    def probabilities(texts: list[str]) -> list[float]:
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        logits = model(**batch.to(model.device)).logits.float()
        share = logits.sigmoid() if apart else logits.softmax(-1)
        found: list[float] = share[:, place].tolist()
        return found

    return probabilities
