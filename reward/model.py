"""The reward model as a reward function: text in, one score a response out.

There is one way to a score, used in training's own evaluation, in the audit and in PPO: the pair is
encoded by `align.data.encoding` - the tokens it was trained on - and the head reads the trunk's
last hidden state at the last *real* token, found from the sequence's length (a mask rebuilt as
`ids != pad` goes wrong as soon as the text holds a pad token). Batches never change a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from align.data.encoding import encode_prompt, encode_response, truncate_left
from align.errors import UserError
from align.models import (
    ModelReference,
    load_model,
    load_tokenizer,
    pick_device,
    resolve_reference,
)
from align.quiet import quiet_transformers
from align.shared import SharedBase
from reward.parts import (
    AdapterTrunk,
    ModelTrunk,
    RewardSettings,
    Trunk,
    last_score,
    read_head,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADAPTER_NAME = "reward"
BATCH_TOKENS = 16384


class RewardModel:
    """Scores responses; call it like any reward function of TRL.

    Args:
        trunk: The language model below the head.
        head: H -> 1, float32.
        tokenizer: The tokenizer the model was trained with.
        settings: Normalisation constants and the longest sequence.
        normalised: Return (score - mean) / std instead of the raw score.
    """

    __name__ = "reward_model"

    def __init__(
        self,
        trunk: Trunk,
        head: nn.Linear,
        tokenizer: PreTrainedTokenizerBase,
        settings: RewardSettings,
        *,
        normalised: bool = False,
    ) -> None:
        if normalised and not settings.std > 0:
            raise UserError(f"a spread of {settings.std} cannot normalise", where="reward_config")
        self.trunk, self.head, self.tokenizer = trunk, head, tokenizer
        self.settings, self.normalised = settings, normalised
        self.batch_tokens = BATCH_TOKENS

    @classmethod
    def load(
        cls,
        stage: Path,
        *,
        normalised: bool = False,
        device: str | None = None,
        reference: ModelReference | None = None,
    ) -> Self:
        """Load the reward model of a finished stage with a base of its own.

        Args:
            stage: Folder of the stage, with its manifest.
            normalised: See the class.
            device: Where to put it; default: the best there is.
            reference: The model below the adapter; default: as the manifest says.

        Raises:
            UserError: The folder holds no reward model or its head is missing.
        """
        own = resolve_reference(str(stage))
        if (stage / "model").is_dir():
            return cls._load_full(stage / "model", normalised=normalised, device=device)
        below = reference or replace(own, adapters=own.adapters[:-1])
        loaded = load_model(below, device=device)
        return cls.on(SharedBase(loaded.model), stage, loaded.tokenizer, normalised=normalised)

    @classmethod
    def _load_full(cls, folder: Path, *, normalised: bool, device: str | None) -> Self:
        """Load a reward model that was trained without an adapter."""
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
        tokenizer = load_tokenizer(ModelReference(str(folder)))
        return cls(ModelTrunk(model), model.score, tokenizer, settings, normalised=normalised)

    @classmethod
    def on(
        cls,
        shared: SharedBase,
        stage: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = ADAPTER_NAME,
        normalised: bool = False,
    ) -> Self:
        """Add a LoRA reward model to a base that is already in memory, as PPO does.

        Args:
            shared: The merged model the reward model was trained on.
            stage: Folder of the reward stage.
            tokenizer: The base's tokenizer.
            name: Name of the adapter and the head on the shared base.
            normalised: See the class.

        Raises:
            UserError: There is no adapter, it does not fit, or its head is missing.
        """
        folder = stage / "adapter"
        settings, weight = RewardSettings.read(folder), read_head(folder)
        before = shared.active_adapter
        shared.add_adapter(name, folder=folder)
        head = shared.add_head(name, weight=weight)
        shared.activate(before)
        return cls(AdapterTrunk(shared, name), head, tokenizer, settings, normalised=normalised)

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float]:
        """Scores of completions (strings or lists with an assistant's message), in their order."""
        pairs = zip(prompts, completions, strict=True)
        scores = self.score_ids([self.encode(*pair) for pair in pairs])
        if self.normalised:
            return [(score - self.settings.mean) / self.settings.std for score in scores]
        return scores

    def encode(self, prompt: Any, completion: Any) -> list[int]:
        """Token ids of prompt, response and EOS, exactly as in training."""
        ids = encode_prompt(self.tokenizer, prompt) + encode_response(self.tokenizer, completion)
        limit = self.settings.max_length
        return ids if limit is None else truncate_left(ids, limit)

    @torch.no_grad()
    def score_ids(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Raw scores of token sequences, in their order.

        Each sequence is computed once, in batches that depend on the set of sequences alone (the
        longest first): neither their order nor a repetition changes the last bit of a score.
        """
        order = sorted(set(map(tuple, sequences)), key=lambda ids: (-len(ids), ids))
        scores: dict[tuple[int, ...], float] = {}
        start = 0
        while start < len(order):
            size = max(1, self.batch_tokens // max(1, len(order[start])))
            part = order[start : start + size]
            scores |= zip(part, self._score_batch(part), strict=True)
            start += size
        return [scores[tuple(ids)] for ids in sequences]

    def _score_batch(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Scores of one padded batch."""
        lengths = torch.tensor([len(ids) for ids in sequences])
        columns = torch.arange(int(lengths.max()))
        mask = (columns[None] < lengths[:, None]).long()
        ids = torch.zeros_like(mask)
        ids[mask.bool()] = torch.tensor([token for row in sequences for token in row])
        device = self.trunk.device
        hidden = self.trunk.hidden(ids.to(device), mask.to(device))
        return last_score(hidden, lengths.to(device), self.head).tolist()
