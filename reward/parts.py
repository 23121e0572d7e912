"""What a reward model is made of: a trunk, a head, and the settings stored beside the weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from align.errors import UserError
from align.shared import SharedBase
from align.trunk import last_hidden

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_NAME = "reward_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"


def is_reward_stage(folder: Path) -> bool:
    """Whether a folder is that of a reward stage."""
    return any((folder / part / CONFIG_NAME).is_file() for part in ("adapter", "model"))


class Trunk(Protocol):
    """A language model without its vocabulary head."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states (B, S, H) of ids (B, S) with a mask (B, S)."""
        ...


class AdapterTrunk(NamedTuple):
    """The shared base with one of its adapters in force for the length of a call."""

    shared: SharedBase
    name: str

    @property
    def device(self) -> torch.device:
        """Device of the base."""
        return self.shared.device

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states (B, S, H) under the adapter; the one before returns whatever happens."""
        with self.shared.active(self.name):
            return self.shared.hidden(input_ids, attention_mask)


class ModelTrunk(NamedTuple):
    """The trunk of a classifier that has weights of its own."""

    model: PreTrainedModel

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = self.model.device
        return device

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states (B, S, H)."""
        return last_hidden(self.model, input_ids, attention_mask)


@dataclass(frozen=True)
class RewardSettings:
    """What is stored beside the weights (`reward_config.json`)."""

    mean: float = 0.0
    """Mean score of held-out responses."""
    std: float = 1.0
    """Standard deviation (population) of the same scores: the unit of normalised scores."""
    n: int = 0
    """Number of those responses; 0: not measured."""
    max_length: int | None = None
    """Longest sequence in tokens; of longer ones the beginning is left out."""

    def write(self, folder: Path) -> None:
        """Write the settings into the weights' folder."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True)
        (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the settings.

        Raises:
            UserError: The file is missing or does not hold them.
        """
        path = folder / CONFIG_NAME
        if not path.is_file():
            raise UserError(
                f"no {CONFIG_NAME}", where=str(folder), remedy="train it with `align reward`"
            )
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"not a reward model's settings ({error})", where=str(path)) from error


def right_padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (B, S), 0 on padding, and their mask (B, S), 1 on real tokens."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    columns = torch.arange(int(lengths.max()))
    mask = (columns[None] < lengths[:, None]).long()
    ids = torch.zeros_like(mask)
    ids[mask.bool()] = torch.tensor([token for row in sequences for token in row])
    return ids.to(device), mask.to(device)


def last_score(hidden: Tensor, lengths: Tensor, head: nn.Linear) -> Tensor:
    """Score of right-padded sequences: the head on the hidden state of each last real token.

    Args:
        hidden: (B, S, H).
        lengths: (B,) real tokens of each row, at least 1.
        head: H -> 1, float32.

    Returns:
        (B,) float32.
    """
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    score: Tensor = head(hidden[rows, lengths - 1].float())[:, 0]
    return score


def add_part(shared: SharedBase, folder: Path, name: str) -> tuple[nn.Linear, RewardSettings]:
    """Add a saved adapter and its head to a shared base; the adapter is in force afterwards.

    Raises:
        UserError: There is no adapter, it does not fit, or its head is missing.
    """
    settings, weight = RewardSettings.read(folder), read_head(folder)
    shared.add_adapter(name, folder=folder)
    return shared.add_head(name, weight=weight), settings


def read_head(folder: Path) -> Tensor:
    """Weight (1, H), float32, of the score head saved with an adapter.

    Raises:
        UserError: The weights or the head among them are missing; a reward model without its head
            would score with random numbers.
    """
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise UserError(f"no {WEIGHTS_NAME}", where=str(folder), remedy="train a reward model")
    heads = [v for k, v in load_file(path).items() if k.split(".")[-2:] == ["score", "weight"]]
    if len(heads) != 1:
        raise UserError(
            f"{len(heads)} score heads in the adapter's weights",
            where=str(path),
            allowed="exactly one",
            remedy="train the reward model again",
        )
    weight: Tensor = heads[0].float()
    return weight
