"""Which rows share what, against hand-drawn trees and brute force."""

from __future__ import annotations

import numpy as np

from evals.requests import Ids
from evals.sharing import (
    beginning,
    cut,
    pack,
    share,
    together,
    tokens,
    tree_order,
    trees,
)


def ends(rows: list[Ids]) -> list[list[int]]:
    """Where each row is cut."""
    return [[segment.end for segment in path] for path in share(rows)]


def family(start: int, context: int, choices: int, length: int) -> list[Ids]:
    """Rows that agree in `context` tokens and end in `length` of their own."""
    shared = tuple(range(start, start + context))
    return [(*shared, *[start + 500 + choice] * length) for choice in range(choices)]


def random_rows(seed: int, n: int = 120) -> list[Ids]:
    """Rows of a random tree of two tokens' depth and random ends, none a prefix of another."""
    generator = np.random.default_rng(seed)
    stems = [tuple(generator.integers(0, 9, generator.integers(8, 40)).tolist()) for _ in range(6)]
    rows = set()
    for number in range(n):
        stem: Ids = ()
        for _ in range(generator.integers(0, 4)):
            stem += stems[generator.integers(0, len(stems))]
        tail = generator.integers(0, 9, generator.integers(0, 12)).tolist()
        rows.add((*stem, *tail, 1000 + number))
    return sorted(rows, key=hash)


def test_choices_of_a_question_are_cut_at_the_context() -> None:
    rows = [*family(0, 10, 4, 3), tuple(range(200, 209))]
    assert ends(rows) == [[10, 13]] * 4 + [[9]]
    paths = share(rows)
    assert len({path[0] for path in paths[:4]}) == 1
    assert len({path[-1].node for path in paths}) == 5


def test_few_shot_examples_are_a_level_above_the_questions() -> None:
    shots = tuple(range(900, 940))
    rows = [(*shots, *row) for start in (0, 100) for row in family(start, 12, 3, 2)]
    assert ends(rows) == [[40, 52, 54]] * 6
    # The path of a row's own tokens is never shared.
    assert len({path[1].node for path in share(rows)}) == 2


def test_a_cut_must_save_a_quarter_of_the_tokens() -> None:
    # Two rows of n tokens that agree in 8: one pass of 8 is saved of 2 n; a quarter up to n = 16.
    assert ends(family(0, 8, 2, 8)) == [[8, 16]] * 2
    assert ends(family(0, 8, 2, 9)) == [[17]] * 2
    # Of 8 rows of 16 that agree in 7, 7 x 7 of 128 would be saved, but 7 tokens are too few.
    assert ends(family(0, 7, 8, 9)) == [[16]] * 8


def test_beginnings_of_everything_are_not_cut_for_little() -> None:
    # BOS and a header of 9 tokens before 40 each: 9 (n - 1) of 49 n is below a quarter.
    header = tuple(range(900, 909))
    rows = [(*header, *[start] * 40) for start in range(50)]
    assert ends(rows) == [[49]] * 50


def test_shared_tokens_are_equal_and_none_is_lost() -> None:
    rows = random_rows(0)
    paths = share(rows)
    content: dict[int, Ids] = {}
    for row, path in zip(rows, paths, strict=True):
        assert [segment.start for segment in path] == [0, *[s.end for s in path[:-1]]]
        assert path[-1].end == len(row)
        for node, _, end in path:
            assert content.setdefault(node, row[:end]) == row[:end]
    assert len(set(content.values())) == len(content)
    assert max(map(len, paths)) > 2


def test_cuts_do_not_depend_on_the_order_of_rows() -> None:
    rows = random_rows(1)
    order = np.random.default_rng(1).permutation(len(rows))
    paths, shuffled = share(rows), share([rows[index] for index in order])
    assert shuffled == [paths[index] for index in order]


def test_no_rows_share_nothing() -> None:
    assert share([]) == []
    assert tree_order([]) == cut([], 10) == trees([]) == []


def test_families_stand_together_longest_first() -> None:
    rows = [(7,) * 30, *family(0, 20, 2, 5), (8,) * 22, *family(100, 30, 2, 9)]
    rows[2] = (*rows[2][:20], 999)  # a member shorter than the row alone of 22
    order = tree_order(share(rows))
    assert sorted(order[:2]) == [4, 5]
    assert order[2:] == [0, 1, 2, 3]


def test_families_of_equal_length_do_not_mix() -> None:
    first, second = family(0, 20, 3, 5), family(100, 20, 3, 5)
    rows = [row for pair in zip(first, second, strict=True) for row in pair]
    order = tree_order(share(rows))
    assert {tuple(sorted(order[:3])), tuple(sorted(order[3:]))} == {(0, 2, 4), (1, 3, 5)}


def test_cut_by_hand() -> None:
    # A context of 10 and four ends of 2: 18 tokens; a part of three rows holds 10 + 3 x 2.
    paths = share(family(0, 10, 4, 2))
    assert cut(paths, 18) == [[0, 1, 2, 3]]
    assert cut(paths, 17) == [[0, 1, 2], [3]]
    assert cut(paths, 5) == [[0], [1], [2], [3]]
    # Trees of 12 + 2 x 12 = 36 and 20 + 2 x 2 = 24 tokens are not cut while they fit alone.
    two = share(family(0, 12, 2, 12) + family(100, 20, 2, 2))
    assert cut(two, 60) == [[0, 1, 2, 3]]
    assert cut(two, 59) == [[0, 1], [2, 3]]
    assert trees(two) == [[0, 1], [2, 3]]


def test_what_follows_a_tree_over_the_budget_is_a_batch_of_its_own() -> None:
    rows = [(1,) * 30, *[(2 + n, 9) for n in range(5)]]
    assert cut(share(rows), 10) == [[0], [1, 2, 3, 4, 5]]


def test_batches_hold_every_row_once_and_their_budget() -> None:
    rows = random_rows(2)
    rows = [rows[index] for index in tree_order(share(rows))]
    paths = share(rows)
    plan = cut(paths, 400)
    assert [index for batch in plan for index in batch] == list(range(len(rows)))
    assert len(plan) < 20
    for batch in plan:
        nodes = {segment for index in batch for segment in paths[index]}
        held = sum(end - start for _, start, end in nodes)
        assert held == tokens([paths[i] for i in batch])
        assert held <= 400 or len(batch) == 1


def test_a_pack_by_hand() -> None:
    rows = [(*range(10), 50), (*range(10), 60, 61)]
    whole = pack(rows, share(rows))
    assert whole.ids == [*range(10), 50, 60, 61]
    assert whole.positions == [*range(10), 10, 10, 11]
    assert whole.segments == [0] * 10 + [1, 2, 2]
    assert whole.above == [-1, 0, 0]
    assert sorted(whole.places.values()) == [0, 10, 11]
    assert not whole.plain
    below = pack(rows, [path[1:] for path in share(rows)])
    assert (below.ids, below.positions, below.above) == ([50, 60, 61], [10, 10, 11], [-1, -1])
    assert not below.plain
    one = pack(rows[:1], share(rows)[:1])
    assert (one.ids, one.above) == ([*range(10), 50], [-1, 0])
    assert one.plain


def test_packs_spell_every_row() -> None:
    rows = random_rows(3)
    order = tree_order(share(rows))
    rows = [rows[index] for index in order]
    paths = share(rows)
    length = 0
    for tree in trees(paths):
        found = pack([rows[i] for i in tree], [paths[i] for i in tree])
        length += len(found.ids)
        for index in tree:
            spelt: list[tuple[int, int]] = []
            above = -1
            for node, start, end in paths[index]:
                place = found.places[node]
                part = slice(place, place + end - start)
                assert set(found.segments[part]) == {found.segments[place]}
                assert found.above[found.segments[place]] == above
                above = found.segments[place]
                spelt += zip(found.positions[part], found.ids[part], strict=True)
            assert spelt == list(enumerate(rows[index]))
    assert length == tokens(paths) < sum(map(len, rows))


def test_the_beginning_of_all_rows_is_worth_a_pass_from_eight_tokens_on() -> None:
    start = list(range(8))
    assert beginning([[*start, 9], [*start, 10, 11], [*start, 9, 12]]) == 8
    # A token of each row stays, from which its response goes on.
    assert beginning([[*start, 9], [*start, 9, 10]]) == 8
    assert beginning([[*start], [*start, 9]]) == 0, "seven tokens"
    assert beginning([[*start, 9], [1, *start[1:], 9]]) == 0
    assert beginning([[*start, 9]]) == 0, "nobody to share with"


def test_a_full_pass_ends_where_padding_begins() -> None:
    # Lengths 10, 10, 9, 4, 4: the third pads one token of 30 (3 % of 29), the fourth would pad
    # seven of 40 (21 % of 33).
    lengths = [10, 10, 9, 4, 4]
    assert together(lengths, 1000, None) == [[0, 1, 2, 3, 4]]
    assert together(lengths, 1000, 29) == [[0, 1, 2], [3, 4]]
    assert together(lengths, 1000, 30) == [[0, 1, 2, 3], [4]], "29 tokens are not enough"


def test_passes_hold_their_budget_with_padding_longest_first() -> None:
    assert together([10, 10, 9, 4, 4], 20, None) == [[0, 1], [2, 3], [4]]
    assert together([4, 10, 9], 30, None) == [[1, 2, 0]]
    assert together([4, 10, 9], 29, None) == [[1, 2], [0]]
    assert together([2, 30, 2], 10, None) == [[1], [0, 2]], "one over the budget runs alone"
    assert together([], 10, None) == []
