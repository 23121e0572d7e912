"""Which tokens several rows share, and how each of them runs once.

Rows that begin alike form a tree: the few-shot examples of all questions, below them the context
of one question, below that its choices. A tree is packed into one sequence, every segment once; in
it a token sees its own segment and those above. Everything here is integers; `evals.passes` runs
the packs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from evals.requests import Ids

# Shorter shared parts are not worth a segment of their own.
_SHORTEST = 8
# Least part of a family's tokens that a segment of its own must save.
_SAVED = 0.25
# Padding of a pass that is full enough, as a part of its tokens.
_PADDING = 0.0625


class Segment(NamedTuple):
    """Tokens `start` to `end` of a row; rows that share them have the same `node`."""

    node: int
    start: int
    end: int


Path = tuple[Segment, ...]
"""A row cut into segments, one a level."""


class Pack(NamedTuple):
    """A tree of rows as one sequence of L tokens; a segment stands where a row first needs it."""

    ids: list[int]
    """(L,)."""
    positions: list[int]
    """Of each token in its row, (L,)."""
    segments: list[int]
    """Number of each token's segment in the pack, (L,)."""
    above: list[int]
    """The segment before each segment in its rows; -1 for the first one."""
    places: dict[int, int]
    """Place of each node's first token."""

    @property
    def plain(self) -> bool:
        """Whether it is one row, which needs no mask but the causal one."""
        return self.above == list(range(-1, len(self.above) - 1))


def alone(rows: Sequence[Ids]) -> list[Path]:
    """Every row for itself, in one level."""
    return [(Segment(number, 0, len(row)),) for number, row in enumerate(rows)]


def share(rows: Sequence[Ids]) -> list[Path]:
    """Cut rows, none of which is a prefix of another, where it saves enough tokens.

    n rows that agree in p tokens beyond an earlier cut need (n - 1) p tokens less. It is cut if
    p >= `_SHORTEST` and that is at least `_SAVED` of what the rows have beyond the earlier cut.
    """
    paths: list[Path] = [()] * len(rows)
    nodes = 0
    whole = sorted(range(len(rows)), key=rows.__getitem__)
    # Rows in lexicographic order, tokens in which they agree, tokens up to the last cut.
    waiting = [(whole, 0, 0)] if rows else []
    while waiting:
        group, common, start = waiting.pop()
        common = _agree(rows[group[0]], rows[group[-1]], common)
        saved = (len(group) - 1) * (common - start)
        alone_cost = sum(len(rows[index]) - start for index in group)
        last = len(group) == 1
        if last or (common - start >= _SHORTEST and saved >= _SAVED * alone_cost):
            for index in group:
                paths[index] += (Segment(nodes, start, common),)
            nodes += 1
            start = common
        if not last:
            waiting += [(part, common, start) for part in _branches(rows, group, common)]
    return paths


def _branches(rows: Sequence[Ids], group: Sequence[int], place: int) -> list[list[int]]:
    """A sorted group apart by the token at a place."""
    return [list(part) for _, part in groupby(group, key=lambda index: rows[index][place])]


def _agree(first: Ids, last: Ids, known: int) -> int:
    """Length of the common prefix of two rows, at least `known`."""
    end = min(len(first), len(last))
    return next((i for i in range(known, end) if first[i] != last[i]), end)


def beginning(rows: Sequence[Sequence[int]]) -> int:
    """Leading tokens that all rows share, where a pass of their own is worth it; never a whole row.

    A response to every row goes on from there, so that all of them must share it.
    """
    whole = sorted(map(tuple, rows))
    shared = min(_agree(whole[0], whole[-1], 0), min(map(len, rows)) - 1)
    return shared if len(rows) > 1 and shared >= _SHORTEST else 0


def tree_order(paths: Sequence[Path]) -> list[int]:
    """Rows that share stand together; longest first among families and inside each."""
    longest: dict[int, int] = {}
    for path in paths:
        for segment in path:
            longest[segment.node] = max(longest.get(segment.node, 0), path[-1].end)
    keys = [tuple((-longest[segment.node], segment.node) for segment in path) for path in paths]
    return sorted(range(len(paths)), key=keys.__getitem__)


def trees(paths: Sequence[Path]) -> list[list[int]]:
    """Indices of neighbours that share their first segment."""
    return [list(part) for _, part in groupby(range(len(paths)), key=lambda i: paths[i][0])]


def cut(paths: Sequence[Path], budget: int) -> list[list[int]]:
    """Batches of neighbours of at most `budget` tokens, shared ones counted once.

    A tree over the budget is cut into batches of its own; a row over it is one.
    """
    plan: list[list[int]] = []
    left = 0
    for tree in trees(paths):
        size = tokens([paths[index] for index in tree])
        if size <= left:
            plan[-1] += tree
        else:
            plan += _parts(tree, paths, budget)
        left = max(0, (left if size <= left else budget) - size)
    return plan


def _parts(tree: Sequence[int], paths: Sequence[Path], budget: int) -> list[list[int]]:
    """The rows of a tree in batches, each with all that its rows share."""
    plan: list[list[int]] = []
    held: set[Segment] = set()
    for index in tree:
        grown = held.union(paths[index])
        if not plan or _length(grown) > budget:
            plan.append([])
            grown = set(paths[index])
        plan[-1].append(index)
        held = grown
    return plan


def tokens(paths: Sequence[Path]) -> int:
    """Tokens of rows, shared ones counted once."""
    return _length({segment for path in paths for segment in path})


def _length(segments: set[Segment]) -> int:
    return sum(end - start for _, start, end in segments)


def pack(rows: Sequence[Ids], paths: Sequence[Path]) -> Pack:
    """Rows of one tree as one sequence; paths may begin after the start of the rows."""
    found = Pack([], [], [], [], {})
    numbers: dict[int, int] = {}
    for row, path in zip(rows, paths, strict=True):
        above = -1
        for node, start, end in path:
            if node not in numbers:
                numbers[node] = len(numbers)
                found.places[node] = len(found.ids)
                found.ids.extend(row[start:end])
                found.positions.extend(range(start, end))
                found.segments.extend([numbers[node]] * (end - start))
                found.above.append(above)
            above = numbers[node]
    return found


def together(lengths: Sequence[int], budget: int, enough: int | None) -> list[list[int]]:
    """Indices of sequences in passes, longest first, of at most `budget` tokens with padding.

    A pass of `enough` tokens (None: never) also ends where more than `_PADDING` of it would be
    padding. A sequence over the budget is a pass of its own.
    """
    plan: list[list[int]] = []
    real = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if plan:
            run = (len(plan[-1]) + 1) * lengths[plan[-1][0]]
            full = enough is not None and real >= enough
            padded = run > (1 + _PADDING) * (real + lengths[index])
        if not plan or run > budget or (full and padded):
            plan.append([])
            real = 0
        plan[-1].append(index)
        real += lengths[index]
    return plan
