"""Which tokens several rows share, and the passes that run each of them once.

Rows that begin alike form a tree: the few-shot examples of all questions, below them the context
of one question, below that its choices. A level of the tree is one forward pass on the keys and
values of the level above. Everything here is integers; `evals.passes` runs the levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

from evals.requests import Ids

# Shorter shared parts cost more as a pass of their own than they save.
_SHORTEST = 8
# Least part of a family's tokens that a pass of its own must save.
_SAVED = 0.25


class Segment(NamedTuple):
    """Tokens `start` to `end` of a row; rows that share them have the same `node`."""

    node: int
    start: int
    end: int


Path = tuple[Segment, ...]
"""A row cut into segments, one a level."""
Shape = list[tuple[int, int]]
"""Rows and padded width of each level of a batch."""


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


def tree_order(paths: Sequence[Path]) -> list[int]:
    """Rows that share stand together; longest first among families and inside each."""
    longest: dict[int, int] = {}
    for path in paths:
        for segment in path:
            longest[segment.node] = max(longest.get(segment.node, 0), path[-1].end)
    keys = [tuple((-longest[segment.node], segment.node) for segment in path) for path in paths]
    return sorted(range(len(paths)), key=keys.__getitem__)


def cut(paths: Sequence[Path], budget: int) -> list[list[int]]:
    """Batches of neighbours of at most `budget` tokens in memory, padding and cache included.

    A row over the budget is a batch of its own.
    """
    plan: list[list[int]] = []
    nodes: set[int] = set()
    shape: Shape = []
    longest = 0
    for index, path in enumerate(paths):
        grown, longest = _grown(shape, path, nodes), max(longest, path[-1].end)
        # `cheaper` may still run every row for itself.
        if plan and max(_held(grown), (len(plan[-1]) + 1) * longest) <= budget:
            plan[-1].append(index)
        else:
            plan.append([index])
            nodes.clear()
            grown, longest = _grown([], path, nodes), path[-1].end
        shape = grown
        nodes.update(segment.node for segment in path)
    return plan


def cheaper(rows: Sequence[Ids], paths: Sequence[Path]) -> Sequence[Path]:
    """The paths, or every row for itself where that runs no more tokens, padding included."""
    nodes: set[int] = set()
    shape: Shape = []
    for path in paths:
        shape = _grown(shape, path, nodes)
        nodes.update(segment.node for segment in path)
    shared = sum(count * width for count, width in shape)
    return paths if shared < len(rows) * max(map(len, rows)) else alone(rows)


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


def _grown(shape: Shape, path: Path, nodes: set[int]) -> Shape:
    """The shape with one row more; `nodes` are those it holds."""
    grown = shape + [(0, 0)] * (len(path) - len(shape))
    for depth, (node, start, end) in enumerate(path):
        count, width = grown[depth]
        grown[depth] = (count + (node not in nodes), max(width, end - start))
    return grown


def _held(shape: Shape) -> int:
    """Most tokens in memory: every row of a level keeps what stands before it."""
    reach = accumulate(width for _, width in shape)
    return max(count * width for (count, _), width in zip(shape, reach, strict=True))
