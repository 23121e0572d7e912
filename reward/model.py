"""The reward model as a reward function: text in, one score a response out.

There is one way to a score, used in training's own evaluation, in the audit and in PPO: the pair is
encoded by `align.data.encoding` - the tokens it was trained on - and the head reads the trunk's
last hidden state at the last *real* token, found from the sequence's length (a mask rebuilt as
`ids != pad` goes wrong as soon as the text holds a pad token). Batches never change a score.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor, nn

from align.data.encoding import encode_prompt, encode_response, keep_end
from align.errors import UserError
from align.models import (
    ModelReference,
    load_model,
    resolve_reference,
)
from align.shared import SharedBase
from reward.parts import (
    AdapterTrunk,
    RewardSettings,
    Trunk,
    add_part,
    last_score,
    right_padded,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADAPTER_NAME = "reward"
BATCH_TOKENS = 16384
T = TypeVar("T")


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
        if normalised:
            _check_spread(settings)
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
        """Load the LoRA reward model of a finished stage with a base of its own.

        Args:
            stage: Folder of the stage, with its manifest.
            normalised: See the class.
            device: Where to put it; default: the best there is.
            reference: The model below the adapter; default: as the manifest says.

        Raises:
            UserError: The folder holds no reward model or its head is missing.
        """
        own = resolve_reference(str(stage))
        below = reference or replace(own, adapters=own.adapters[:-1])
        loaded = load_model(below, device=device)
        return cls.on(SharedBase(loaded.model), stage, loaded.tokenizer, normalised=normalised)

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
        before = shared.active_adapter
        head, settings = add_part(shared, stage / "adapter", name)
        shared.activate(before)
        return cls(AdapterTrunk(shared, name), head, tokenizer, settings, normalised=normalised)

    def normalising(self) -> Self:
        """The same model, returning normalised scores."""
        other = copy.copy(self)
        _check_spread(self.settings)
        other.normalised = True
        return other

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
        return ids if limit is None else keep_end(self.tokenizer, ids, limit)

    @torch.no_grad()
    def score_ids(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Raw scores of token sequences, in their order."""
        return self.in_batches(sequences, lambda batch: self._score_batch(batch).tolist())

    def in_batches(
        self, sequences: Sequence[Sequence[int]], score: Callable[[list[tuple[int, ...]]], list[T]]
    ) -> list[T]:
        """What `score` says of each sequence, given batches of at most `batch_tokens` tokens.

        Each sequence is computed once, in batches that depend on the set of sequences alone (the
        longest first): neither their order nor a repetition changes the last bit of a score.
        """
        order = sorted(set(map(tuple, sequences)), key=lambda ids: (-len(ids), ids))
        found: dict[tuple[int, ...], T] = {}
        start = 0
        while start < len(order):
            size = max(1, self.batch_tokens // max(1, len(order[start])))
            part = order[start : start + size]
            found |= zip(part, score(part), strict=True)
            start += size
        return [found[tuple(ids)] for ids in sequences]

    def _score_batch(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Raw scores (B,) of one batch."""
        ids, mask = right_padded(sequences, self.trunk.device)
        return last_score(self.trunk.hidden(ids, mask), mask.sum(-1), self.head)


def _check_spread(settings: RewardSettings) -> None:
    if not settings.std > 0:
        raise UserError(f"a spread of {settings.std} cannot normalise", where="reward_config")
