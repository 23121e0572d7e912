"""Log-probabilities of scored tokens, with every shared beginning run once.

Each tree of rows is one sequence (`evals.sharing.Pack`), padded on the right; a mask lets a token
see what its own rows hold. A tree too large for that runs its first segment alone, and the trees
below go on from its keys and values. The vocabulary head runs only at scored positions; log-softmax
is float32, of a model in float64 float64.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evals.heads import Head, split_head
from evals.requests import Ids, Request
from evals.sharing import Pack, Path, pack, together, tokens, trees

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

Stem = list[tuple[Tensor, Tensor]]
"""Keys and values (1, heads, P, D) of each layer."""

# Most logits in memory at once: 2^25 float32 are 128 MB.
_LOGITS = 2**25

# Tokens of a pass from which on a CPU saves nothing by more of them, so that padding is a loss.
_ENOUGH_ON_CPU = 512
# Longest pack: its tokens attend to all of it, which costs more than a pass of its own saves.
_LONGEST = 512


class Wanted(NamedTuple):
    """M scored positions of one pass."""

    places: list[int]
    """Flat places of the positions in the pass's (R, S) tokens, (M,)."""
    targets: list[int]
    """The tokens to be predicted there, (M,)."""
    owners: list[int]
    """The request each belongs to, (M,)."""


def can_share(model: PreTrainedModel) -> bool:
    """Whether rows of one tree can run as one sequence, and go on from others' keys and values.

    Not where layers keep a window or a state instead of all keys, nor where positions cannot be
    given (ALiBi).
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
        self._enough = _ENOUGH_ON_CPU if self.device.type == "cpu" else None

    @torch.no_grad()
    def score(
        self,
        rows: Sequence[Ids],
        paths: Sequence[Path],
        requests: Sequence[Sequence[Request]],
        budget: int,
    ) -> list[list[tuple[float, bool]]]:
        """Log-probability of each row's requests, and whether each of their tokens leads.

        Args:
            rows: Token ids; the inputs of a row's requests are a prefix of it.
            paths: How rows share tokens; neighbours are those of a tree.
            requests: Those of each row.
            budget: Most tokens of a pass, padding included.
        """
        scores = _Scores(paths, requests)
        small: list[int] = []
        for tree in trees(paths):
            if len(tree) > 1 and tokens([paths[index] for index in tree]) > _LONGEST:
                stem = self._stem(rows[tree[0]], tree, scores)
                below = {index: paths[index][1:] for index in tree if len(paths[index]) > 1}
                self._run_all(rows, below, stem, scores, budget)
            else:
                small += tree
        self._run_all(rows, {index: paths[index] for index in small}, None, scores, budget)
        return scores.by_row()

    def _run_all(
        self,
        rows: Sequence[Ids],
        paths: Mapping[int, Path],
        stem: Stem | None,
        scores: _Scores,
        budget: int,
    ) -> None:
        """Run the rows that have a path, each tree as one sequence, in passes of the budget."""
        members = list(paths)
        groups = [[members[i] for i in tree] for tree in trees(list(paths.values()))]
        packs = [pack([rows[i] for i in own], [paths[i] for i in own]) for own in groups]
        for part in together([len(one.ids) for one in packs], budget, self._enough):
            self._run([packs[i] for i in part], [groups[i] for i in part], stem, scores)

    def _stem(self, row: Ids, tree: Sequence[int], scores: _Scores) -> Stem:
        """Run the segment that a tree's rows begin with; return its keys and values by layer."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        node, _, end = scores.paths[tree[0]][0]
        ids = torch.tensor([row[:end]], device=self.device)
        hidden, head = self._head(ids, past_key_values=cache)
        self._note(hidden, head, scores.wanted({node: 0}, tree), scores)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _run(
        self,
        packs: Sequence[Pack],
        groups: Sequence[Sequence[int]],
        stem: Stem | None,
        scores: _Scores,
    ) -> None:
        """Run packs (R, S), and note the scores of each one's rows."""
        width = max(len(one.ids) for one in packs)
        ids = self._padded([one.ids for one in packs], width)
        past: dict[str, Any] = {}
        if stem is not None or not all(one.plain for one in packs):
            known = stem[0][0].shape[-2] if stem is not None else 0
            past["attention_mask"] = self._mask(packs, width, known)
            past["position_ids"] = self._padded([one.positions for one in packs], width)
        if stem is not None:
            past["past_key_values"] = self._grown(stem, len(packs))
        hidden, head = self._head(ids, **past)
        wanted = Wanted([], [], [])
        for number, (one, rows) in enumerate(zip(packs, groups, strict=True)):
            places = {node: place + number * width for node, place in one.places.items()}
            for whole, own in zip(wanted, scores.wanted(places, rows), strict=True):
                whole += own
        self._note(hidden, head, wanted, scores)

    def _grown(self, stem: Stem, rows: int) -> DynamicCache:
        """A cache of several rows that all hold the stem's keys and values; nothing is copied."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in zip(cache.layers, stem, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys = keys.expand(rows, -1, -1, -1)
            layer.values = values.expand(rows, -1, -1, -1)
        return cache

    def _padded(self, rows: Sequence[Sequence[int]], width: int) -> Tensor:
        """Rows as (R, width), padded on the right with zeros."""
        whole = [[*row, *[0] * (width - len(row))] for row in rows]
        return torch.tensor(whole, device=self.device)

    def _mask(self, packs: Sequence[Pack], width: int, known: int) -> Tensor:
        """What is added to attention scores (R, 1, width, known + width): 0 where a token looks.

        A token sees what is known, and in its own segment and those above it all up to its place.
        Padding sees nothing: what is added is finite, so its numbers are too.
        """
        sees = np.zeros((len(packs), width, known + width), dtype=np.bool_)
        for row, one in enumerate(packs):
            lines = np.eye(len(one.above), dtype=np.bool_)
            for segment, above in enumerate(one.above):
                if above >= 0:
                    lines[segment] |= lines[above]
            length = len(one.ids)
            inside = lines[np.ix_(one.segments, one.segments)] & np.tri(length, dtype=np.bool_)
            sees[row, :length, :known] = True
            sees[row, :length, known : known + length] = inside
        dtype = self.model.dtype
        mask = torch.zeros(sees.shape, dtype=dtype)
        return mask.masked_fill_(torch.from_numpy(~sees), torch.finfo(dtype).min)[:, None].to(
            self.device
        )

    def _note(self, hidden: Tensor, head: Head, wanted: Wanted, scores: _Scores) -> None:
        """Add what stands at scored positions of hidden (R, S, H) to the requests' scores."""
        if wanted.owners:
            scores.add(wanted.owners, *self._at(hidden, head, wanted))

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
            logits = head(hidden[part])
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            chosen = logits.gather(-1, goal[:, None]).squeeze(-1)
            most, leader = logits.max(-1)
            # log(sum(exp(x))) in place: a second tensor of this size would cost more than its sums
            total = logits.sub_(most[:, None]).exp_().sum(-1)
            logprobs.append((chosen - most - total.log()).double().cpu())
            best.append((leader == goal).cpu())
        return torch.cat(logprobs).numpy(), torch.cat(best).numpy()


class _Scores:
    """Sums of log-probabilities and whether all tokens lead, of the requests of several rows."""

    def __init__(self, paths: Sequence[Path], requests: Sequence[Sequence[Request]]) -> None:
        self.paths, self._requests = paths, requests
        self._ends = [0, *itertools.accumulate(map(len, requests))]
        self._sums = np.zeros(self._ends[-1])
        self._greedy = np.ones(self._ends[-1], dtype=np.bool_)

    def wanted(self, places: Mapping[int, int], rows: Iterable[int]) -> Wanted:
        """Where a pass that holds the nodes in `places` is scored for these rows.

        A continuation may span several segments.
        """
        found = Wanted([], [], [])
        for row in rows:
            for owner, (context, continuation) in enumerate(self._requests[row], self._ends[row]):
                # A token is predicted where the one before it is put in.
                first = len(context) - 1
                for node, start, end in self.paths[row]:
                    begin, stop = max(first, start), min(first + len(continuation), end)
                    if begin < stop and node in places:
                        shift = places[node] - start
                        found.places.extend(range(begin + shift, stop + shift))
                        found.targets.extend(continuation[begin - first : stop - first])
                        found.owners.extend([owner] * (stop - begin))
        return found

    def add(
        self, owners: Sequence[int], logprobs: NDArray[np.float64], leads: NDArray[np.bool_]
    ) -> None:
        """Add log-probabilities (M,) of tokens to their requests, and whether they lead (M,)."""
        np.add.at(self._sums, owners, logprobs)
        np.logical_and.at(self._greedy, owners, leads)

    def by_row(self) -> list[list[tuple[float, bool]]]:
        """The scores of each row's requests."""
        scores = list(zip(self._sums.tolist(), self._greedy.tolist(), strict=True))
        return [scores[a:b] for a, b in itertools.pairwise(self._ends)]
