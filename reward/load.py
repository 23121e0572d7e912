"""Load the reward model of a stage or an exported one, whatever it is: LoRA, whole, ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from align.errors import UserError
from align.models import load_tokenizer, pick_device
from align.quiet import quiet_transformers
from align.references import ModelReference
from reward.encoder import EncoderReward, load_encoder_tokenizer
from reward.ensemble import RewardEnsemble, is_ensemble
from reward.model import RewardModel
from reward.parts import ModelTrunk, RewardSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from align.shared import SharedBase


def load_reward(
    stage: Path,
    *,
    normalised: bool = False,
    device: str | None = None,
    reference: ModelReference | None = None,
) -> RewardModel:
    """Load a reward model with a base of its own.

    Args:
        stage: Folder of a finished reward stage, or an exported reward model.
        normalised: Return (score - mean) / std instead of the raw score.
        device: Where to put it; default: the best there is.
        reference: The model below an adapter; default: as the manifest says.

    Raises:
        UserError: The folder holds no reward model, or a part of it is missing.
    """
    for folder in (stage, stage / "model"):
        if (folder / "config.json").is_file():
            model = _load_whole(folder, device)
            return model.normalising() if normalised else model
    kind = RewardEnsemble if is_ensemble(stage) else RewardModel
    return kind.load(stage, normalised=normalised, device=device, reference=reference)


def reward_on(
    shared: SharedBase, stage: Path, tokenizer: PreTrainedTokenizerBase, *, normalised: bool
) -> RewardModel:
    """Add a LoRA reward model or ensemble to a base in memory; see `RewardModel.on`."""
    kind = RewardEnsemble if is_ensemble(stage) else RewardModel
    return kind.on(shared, stage, tokenizer, normalised=normalised)


def _load_whole(folder: Path, device: str | None) -> RewardModel:
    """Load a classifier: trained without an adapter, an encoder, or exported."""
    settings = RewardSettings.read(folder)
    with quiet_transformers():
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    if info["missing_keys"]:
        raise UserError(
            f"weights missing: {', '.join(sorted(info['missing_keys'])[:3])}",
            where=str(folder),
            remedy="train the reward model again",
        )
    model = model.to(device or pick_device()).eval()
    if not isinstance(getattr(model, "score", None), nn.Linear):
        return EncoderReward(model, load_encoder_tokenizer(str(folder), {}), settings)
    tokenizer = load_tokenizer(ModelReference(str(folder)))
    return RewardModel(ModelTrunk(model), model.score, tokenizer, settings)
