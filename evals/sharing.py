"""Which tokens several rows share, and the passes that run each of them once.

Rows that begin alike form a tree: the few-shot examples of all questions, below them the context
of one question, below that its choices. A level of the tree is one forward pass on the keys and
values of the level above. Everything here is integers; `evals.passes` runs the levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, zip_longest
from typing import NamedTuple

from evals.requests import Ids

# Shorter shared parts cost more as a pass of their own than they save.
_SHORTEST = 8
# Least part of a family's tokens that a pass of its own must save.
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


class Level(NamedTuple):
    """One forward pass: R rows of new tokens, each after a row of the level above."""

    rows: list[Ids]
    parents: list[int]
    """The row of the level above that each row goes on from, (R,); empty at the first level."""
    places: dict[int, int]
    """Row of each node."""


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


class _Filling(NamedTuple):
    """A batch as it grows, row by row in `tree_order`."""

    rows: int
    last: Path
    widths: list[int]
    """Of each level, that of its longest segment."""
    segments: list[int]
    """Different ones of each level."""
    tokens: int
    """Of all different segments, without padding."""

    @property
    def run(self) -> int:
        """Tokens that are run, padding included."""
        return sum(width * count for width, count in zip(self.widths, self.segments, strict=True))

    def grown(self, path: Path) -> _Filling:
        """The batch with a row more."""
        own = [segment.end - segment.start for segment in path]
        new = [pair[0] != pair[1] for pair in zip_longest(path, self.last[: len(path)])]
        return _Filling(
            self.rows + 1,
            path,
            [max(pair) for pair in zip_longest(self.widths, own, fillvalue=0)],
            [a + b for a, b in zip_longest(self.segments, new, fillvalue=0)],
            self.tokens + sum(size for size, is_new in zip(own, new, strict=True) if is_new),
        )


def cut(paths: Sequence[Path], budget: int, enough: int | None = None) -> list[list[int]]:
    """Batches of neighbours of at most `budget` tokens in memory, padding and cache included.

    Every row counts as wide as the levels together, which is what those of the last level hold. A
    row over the budget is a batch of its own. A batch of `enough` tokens (the budget by default)
    also ends before a family that would make more than `_PADDING` of it padding.
    """
    enough = budget if enough is None else enough
    plan: list[list[int]] = []
    batch = empty = _Filling(0, (), [], [], 0)
    for index, path in enumerate(paths):
        grown = batch.grown(path)
        fits = grown.rows * sum(grown.widths) <= budget
        related = path[0] in batch.last
        padded = grown.run > (1 + _PADDING) * grown.tokens
        if plan and fits and (related or batch.tokens < enough or not padded):
            plan[-1].append(index)
            batch = grown
        else:
            plan.append([index])
            batch = empty.grown(path)
    return plan


def cheaper(rows: Sequence[Ids], paths: Sequence[Path]) -> Sequence[Path]:
    """The paths, or every row for itself where that runs no more tokens, padding included."""
    whole = alone(rows)
    return min(whole, paths, key=lambda cuts: _tokens(levels(rows, cuts)))


def _tokens(passes: Sequence[Level]) -> int:
    """Tokens that passes run, padding included."""
    return sum(len(level.rows) * max(map(len, level.rows)) for level in passes)


def levels(rows: Sequence[Ids], paths: Sequence[Path]) -> list[Level]:
    """The passes of a batch, from the first tokens on."""
    found: list[Level] = []
    for depth in range(max(map(len, paths))):
        level = Level([], [], {})
        for row, path in zip(rows, paths, strict=True):
            if len(path) <= depth or path[depth].node in level.places:
                continue
            node, start, end = path[depth]
            level.places[node] = len(level.rows)
            level.rows.append(row[start:end])
            if depth:
                level.parents.append(found[-1].places[path[depth - 1].node])
        found.append(level)
    return found
