"""Log-probabilities of scored tokens, with every shared beginning run once.

Rows are padded on the right. At the first level causal attention never looks there; below it the
padding of earlier levels stands between a row's tokens in the cache, so a mask hides it and
positions count real tokens only. The vocabulary head runs only at scored positions; log-softmax
is float32 whatever the model's type.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evals.heads import Head, Headed, split_head
from evals.requests import Ids, Request
from evals.sharing import Level, Path, cheaper, levels

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Most logits in memory at once: 2^25 float32 are 128 MB.
_LOGITS = 2**25


class Wanted(NamedTuple):
    """M scored positions of one level."""

    places: list[int]
    """Flat places of the positions in the level's (R, S) tokens, (M,)."""
    targets: list[int]
    """The tokens to be predicted there, (M,)."""
    owners: list[int]
    """The request each belongs to, (M,)."""


def can_share(model: PreTrainedModel) -> bool:
    """Whether new tokens can go on from padded keys and values.

    Not where layers keep a window or a state instead of all keys, because padding fills those, nor
    where positions cannot be given (ALiBi).
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    taken = inspect.signature(type(model.base_model).forward).parameters.keys()
    if not {"position_ids", "past_key_values", "attention_mask"} <= taken:
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


class Passes:
    """Forward passes of one model.

    Args:
        model: Causal LM in evaluation mode.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.device = model, model.device
        self.shares = can_share(model)
        self._head = split_head(model)

    @torch.no_grad()
    def score(
        self, rows: Sequence[Ids], paths: Sequence[Path], requests: Sequence[Sequence[Request]]
    ) -> list[list[tuple[float, bool]]]:
        """Log-probability of each row's requests, and whether each of their tokens leads.

        Args:
            rows: Token ids; the inputs of a row's requests are a prefix of it.
            paths: How rows share tokens.
            requests: Those of each row.
        """
        paths = cheaper(rows, paths)
        passes = levels(rows, paths)
        wanted = _wanted(passes, paths, requests)
        ends = [0, *itertools.accumulate(map(len, requests))]
        sums, greedy = np.zeros(ends[-1]), np.ones(ends[-1], dtype=np.bool_)
        for level, (hidden, head) in zip(wanted, self._run(passes), strict=True):
            if level.owners:
                logprobs, best = self._at(hidden, head, level)
                np.add.at(sums, level.owners, logprobs)
                np.logical_and.at(greedy, level.owners, best)
        scores = list(zip(sums.tolist(), greedy.tolist(), strict=True))
        return [scores[a:b] for a, b in itertools.pairwise(ends)]

    def _run(self, passes: Sequence[Level]) -> Iterator[Headed]:
        """Hidden states (R, S, H) of each level, and the head for them."""
        if len(passes) == 1:
            yield self._head(self._padded(passes[0].rows)[0])
            return
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        ids, mask = self._padded(passes[0].rows)
        yield self._head(ids, past_key_values=cache)
        for level in passes[1:]:
            parents = torch.tensor(level.parents, device=self.device)
            cache.batch_select_indices(parents)
            ids, own = self._padded(level.rows)
            past = mask[parents]
            mask = torch.cat([past, own], dim=1)
            # Padding repeats the last position: one past the model's length may have no embedding.
            positions = past.sum(-1, keepdim=True) + own.cumsum(-1) - 1
            yield self._head(
                ids, attention_mask=mask, position_ids=positions, past_key_values=cache
            )

    def _padded(self, rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """Ids (R, S) and mask (R, S) int64 of rows, padded on the right with any token."""
        width = max(map(len, rows))
        ids = [[*row, *[0] * (width - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _at(
        self, hidden: Tensor, head: Head, wanted: Wanted
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Log-probabilities (M,) of targets at places of hidden (R, S, H), and if they lead.

        Logits exist for `_LOGITS` entries at a time.
        """
        place = torch.tensor(wanted.places, device=self.device)
        target = torch.tensor(wanted.targets, device=self.device)
        hidden = hidden.flatten(0, 1)
        step = max(1, _LOGITS // self.model.config.get_text_config().vocab_size)
        logprobs, best = [], []
        for part, goal in zip(place.split(step), target.split(step), strict=True):
            logits = head(hidden[part]).float()
            chosen = logits.gather(-1, goal[:, None]).squeeze(-1)
            logprobs.append((chosen - logits.logsumexp(-1)).double().cpu())
            best.append((logits.argmax(-1) == goal).cpu())
        return torch.cat(logprobs).numpy(), torch.cat(best).numpy()


def _wanted(
    passes: Sequence[Level], paths: Sequence[Path], requests: Sequence[Sequence[Request]]
) -> list[Wanted]:
    """Where each level is scored; a continuation may span several levels."""
    widths = [max(map(len, level.rows)) for level in passes]
    found = [Wanted([], [], []) for _ in passes]
    owned = ((path, request) for path, own in zip(paths, requests, strict=True) for request in own)
    for owner, (path, (context, continuation)) in enumerate(owned):
        # A token is predicted where the one before it is put in.
        first = len(context) - 1
        for depth, (node, start, end) in enumerate(path):
            begin, stop = max(first, start), min(first + len(continuation), end)
            if begin < stop:
                shift = passes[depth].places[node] * widths[depth] - start
                found[depth].places.extend(range(begin + shift, stop + shift))
                found[depth].targets.extend(continuation[begin - first : stop - first])
                found[depth].owners.extend([owner] * (stop - begin))
    return found
