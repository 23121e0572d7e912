"""Several reward models as one: LoRA members that differ in the upper layers of one base.

A policy finds responses that one reward model scores too high by chance; models trained apart agree
less there (Coste 2023, 2310.02743; Zhai 2023, 2401.00243). Each member's score is first normalised
by its own constants, as the scales of reward models are arbitrary. Departure from both papers: the
members share the layers below, so that k of them cost little more than one (`reward.upper`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from align.adapters import WEIGHTS
from align.errors import UserError
from align.files import write_json_atomic
from align.shared import SharedBase
from evals.stats import Array
from reward.model import ADAPTER_NAME, RewardModel
from reward.parts import AdapterTrunk, RewardSettings, add_part, last_score, right_padded
from reward.upper import blocks_of, forked, lower_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MEMBERS, CONFIG_NAME = "members", "ensemble.json"


@dataclass(frozen=True)
class EnsembleSettings:
    """What is stored beside the members (`members/ensemble.json`)."""

    k: int
    """Number of members."""
    upper: int
    """Upper layers in which they differ."""
    combine: str
    """mean, min or mean_minus_std."""
    coefficient: float
    """Weight of the standard deviation in mean_minus_std."""

    def write(self, stage: Path) -> None:
        """Write the settings; a stage with them is a finished ensemble."""
        write_json_atomic(stage / MEMBERS / CONFIG_NAME, asdict(self))

    @classmethod
    def read(cls, stage: Path) -> Self:
        """Read the settings.

        Raises:
            UserError: The file does not hold them.
        """
        path = stage / MEMBERS / CONFIG_NAME
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"not an ensemble's settings ({error})", where=str(path)) from error


def is_ensemble(stage: Path) -> bool:
    """Whether a reward stage has members."""
    return (stage / MEMBERS / CONFIG_NAME).is_file()


def combined(scores: Array, how: str, coefficient: float = 1.0) -> Array:
    """One score from the members'.

    Args:
        scores: (k, n), each row on the same scale.
        how: mean; min, the lowest (Coste 2023, eq. 2); mean_minus_std, mean - coefficient * std
            with the standard deviation over the members themselves (divided by k).
        coefficient: See above.

    Returns:
        (n,).
    """
    if how == "min":
        return np.asarray(scores.min(0))
    mean: Array = scores.mean(0)
    return mean if how == "mean" else mean - coefficient * scores.std(0)


class RewardEnsemble(RewardModel):
    """Scores responses by several members in one pass; else like `RewardModel`.

    The raw score combines the members' normalised ones; `settings` normalises it again. `spread` is
    the standard deviation over the members for each response of the last call.
    """

    __name__ = "reward_ensemble"

    def __init__(
        self,
        trunk: AdapterTrunk,
        members: Sequence[tuple[nn.Linear, RewardSettings]],
        tokenizer: PreTrainedTokenizerBase,
        settings: RewardSettings,
        ensemble: EnsembleSettings,
    ) -> None:
        super().__init__(trunk, members[0][0], tokenizer, settings)
        self.shared, self.name = trunk.shared, trunk.name
        self.heads = [head for head, _ in members]
        self.zero = np.array([own.mean for _, own in members])[:, None]
        self.unit = np.array([own.std for _, own in members])[:, None]
        self.ensemble = ensemble
        self.spread: list[float] = []

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
        """Add all members to a base that is already in memory; see `RewardModel.on`.

        Raises:
            UserError: A member is missing or differs from the first below the upper layers.
        """
        settings = RewardSettings.read(stage / MEMBERS)
        model = cls.of(shared, stage, tokenizer, EnsembleSettings.read(stage), settings, name)
        return model.normalising() if normalised else model

    @classmethod
    def of(
        cls,
        shared: SharedBase,
        stage: Path,
        tokenizer: PreTrainedTokenizerBase,
        ensemble: EnsembleSettings,
        settings: RewardSettings,
        name: str = ADAPTER_NAME,
    ) -> Self:
        """The members of a stage, combined by the given settings; see `on`."""
        folders = [stage / MEMBERS / str(i) / "adapter" for i in range(ensemble.k)]
        before = shared.active_adapter
        members = [add_part(shared, folder, f"{name}{i}") for i, folder in enumerate(folders)]
        shared.activate(before)
        _check_agreement(shared, folders, ensemble.upper)
        return cls(AdapterTrunk(shared, name), members, tokenizer, settings, ensemble)

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float]:
        """Combined scores of completions, in their order; keeps the members' `spread`."""
        members = self.member_scores(prompts, completions)
        self.spread = members.std(0).tolist()
        scores = combined(members, self.ensemble.combine, self.ensemble.coefficient)
        if self.normalised:
            scores = (scores - self.settings.mean) / self.settings.std
        return [float(score) for score in scores]

    def member_scores(self, prompts: Sequence[Any], completions: Sequence[Any]) -> Array:
        """Scores (k, n) of n completions, each member's normalised by its own constants."""
        pairs = zip(prompts, completions, strict=True)
        rows = self._member_scores([self.encode(*pair) for pair in pairs])
        return self._on_one_scale(rows)

    @torch.no_grad()
    def _member_scores(self, sequences: Sequence[Sequence[int]]) -> Array:
        """Raw scores (k, n) of the members."""
        found = self.in_batches(sequences, lambda batch: self._score_members(batch).tolist())
        return np.array(found, dtype=np.float64).reshape(-1, self.ensemble.k).T

    def _score_members(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Raw scores (B, k) of one batch, the layers below the upper ones computed once."""
        names = [f"{self.name}{i}" for i in range(self.ensemble.k)]
        shared = self.shared
        with (
            shared.active(names[0]),
            forked(blocks_of(shared.base), self.ensemble.upper, names, shared.activate),
        ):
            ids, mask = right_padded(sequences, shared.device)
            parts = shared.hidden(ids, mask).chunk(self.ensemble.k)
        lengths = mask.sum(-1)
        each = [last_score(part, lengths, h) for part, h in zip(parts, self.heads, strict=True)]
        return torch.stack(each, -1)

    def _score_batch(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Raw combined scores (B,) of one batch."""
        members = self._on_one_scale(self._score_members(sequences).double().cpu().numpy().T)
        how, coefficient = self.ensemble.combine, self.ensemble.coefficient
        return torch.from_numpy(combined(members, how, coefficient))

    def _on_one_scale(self, scores: Array) -> Array:
        """Raw scores (k, n), each member's normalised by its own constants."""
        normalised: Array = (scores - self.zero) / self.unit
        return normalised


def _check_agreement(shared: SharedBase, folders: Sequence[Path], upper: int) -> None:
    """Refuse members that are not the same adapter below their upper layers."""
    first, *others = (lower_weights(shared.base, folder / WEIGHTS, upper) for folder in folders)
    for folder, own in zip(folders[1:], others, strict=True):
        if own.keys() != first.keys() or any(not torch.equal(own[k], first[k]) for k in first):
            raise UserError(
                f"differs from the first member below the last {upper} layers",
                where=str(folder),
                remedy="train the ensemble again",
            )
