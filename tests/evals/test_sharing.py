"""Which rows share what, against hand-drawn trees and brute force."""

from __future__ import annotations

import numpy as np

from evals.requests import Ids
from evals.sharing import Level, alone, beginning, cheaper, cut, levels, share, tree_order


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
    assert tree_order([]) == cut([], 10) == []


def test_families_stand_together_longest_first() -> None:
    rows = [(7,) * 30, *family(0, 20, 2, 5), (8,) * 22, *family(100, 30, 2, 9)]
    rows[2] = (*rows[2][:20], 999)  # a member shorter than the row alone of 22
    order = tree_order(share(rows))
    assert sorted(order[:2]) == [4, 5]
    assert order[2:] == [0, 1, 2, 3]


def test_cut_by_hand() -> None:
    # Level 0 holds 10, level 1 a row of 12 a choice: three rows are 36, four 48.
    paths = share(family(0, 10, 4, 2))
    assert cut(paths, 48) == [[0, 1, 2, 3]]
    assert cut(paths, 47) == [[0, 1, 2], [3]]
    assert cut(paths, 5) == [[0], [1], [2], [3]]
    # Contexts of 10 and 20, choices of 12 and 2: the wider of each level, 20 + 12, is held by each
    # of the four rows, although no row is longer than 22.
    mixed = share(family(0, 10, 2, 12) + family(100, 20, 2, 2))
    assert [len(path) for path in mixed] == [1, 1, 2, 2]
    mixed = share(family(0, 12, 2, 12) + family(100, 20, 2, 2))
    assert cut(mixed, 4 * 32) == [[0, 1, 2, 3]]
    assert cut(mixed, 4 * 32 - 1) == [[0, 1, 2], [3]]


def test_a_new_batch_is_as_wide_as_its_own_rows() -> None:
    rows = [(1,) * 30, *[(2 + n, 9) for n in range(5)]]
    assert cut(share(rows), 10) == [[0], [1, 2, 3, 4, 5]]


def test_cut_counts_rows_alone_as_wide_as_the_levels() -> None:
    # 3 rows alone of 30 beside a pair of 20 + 2: 5 x (30 + 2) = 160.
    rows = [*[(900 + n,) * 30 for n in range(3)], *family(0, 20, 2, 2)]
    assert cut(share(rows), 160) == [[0, 1, 2, 3, 4]]
    assert cut(share(rows), 159) == [[0, 1, 2, 3], [4]]


def test_batches_hold_what_their_levels_hold() -> None:
    rows = random_rows(2)
    rows = [rows[index] for index in tree_order(share(rows))]
    paths = share(rows)
    for batch in (part for part in cut(paths, 400) if len(part) > 1):
        passes = levels([rows[i] for i in batch], [paths[i] for i in batch])
        width = 0
        for level in passes:
            width += max(map(len, level.rows))
            assert len(level.rows) * width <= 400
        assert len(batch) * max(len(rows[i]) for i in batch) <= 400


def test_levels_by_hand() -> None:
    rows = [(*range(10), 50), (*range(10), 60, 61), (7,) * 5]
    first, second = levels(rows, share(rows))
    assert first.rows == [tuple(range(10)), (7,) * 5]
    assert first.parents == []
    assert second.rows == [(50,), (60, 61)]
    assert second.parents == [0, 0]


def test_levels_spell_every_row() -> None:
    rows = random_rows(3)
    paths = share(rows)
    passes = levels(rows, paths)

    def spelt(depth: int, place: int) -> Ids:
        level: Level = passes[depth]
        return (*(spelt(depth - 1, level.parents[place]) if depth else ()), *level.rows[place])

    for row, path in zip(rows, paths, strict=True):
        assert spelt(len(path) - 1, passes[len(path) - 1].places[path[-1].node]) == row
    assert sum(len(level.rows) for level in passes) < sum(map(len, paths))


def test_padding_that_eats_the_gain_undoes_the_cut() -> None:
    rows = [*family(0, 12, 2, 12), *family(100, 20, 2, 2)]
    paths = share(rows)
    # 2 contexts x 20 and 4 ends x 12 are 88 tokens, as many as 4 rows x 24 less 8.
    assert cheaper(rows, paths) == paths
    # One row of each family: 2 x 20 + 2 x 12 = 64 tokens instead of 2 x 24 = 48.
    some = [rows[0], rows[2]]
    assert cheaper(some, [paths[0], paths[2]]) == alone(some)
    # One row of a family that was cut apart by the budget needs no second pass.
    assert cheaper(rows[:1], paths[:1]) == alone(rows[:1])


def test_the_beginning_of_all_rows_is_worth_a_pass_from_eight_tokens_on() -> None:
    start = list(range(8))
    assert beginning([[*start, 9], [*start, 10, 11], [*start, 9, 12]]) == 8
    # A token of each row stays, from which its response goes on.
    assert beginning([[*start, 9], [*start, 9, 10]]) == 8
    assert beginning([[*start], [*start, 9]]) == 0, "seven tokens"
    assert beginning([[*start, 9], [1, *start[1:], 9]]) == 0
    assert beginning([[*start, 9]]) == 0, "nobody to share with"


def test_a_full_batch_ends_where_padding_begins() -> None:
    # Lengths 10, 10, 9, 4, 4: the third row pads one token of 29 (3 %), the fourth would pad seven
    # of 33 (21 %).
    rows: list[Ids] = [
        (n, *range(n * 100, n * 100 + size - 1)) for n, size in enumerate((10, 10, 9, 4, 4))
    ]
    assert cut(alone(rows), 1000) == [[0, 1, 2, 3, 4]]
    assert cut(alone(rows), 1000, 29) == [[0, 1, 2], [3, 4]]
    assert cut(alone(rows), 1000, 30) == [[0, 1, 2, 3], [4]], "29 tokens are not enough"
    # A family stays together, however it pads: its context of 20 would run twice.
    one = [*family(0, 20, 2, 9), (*range(20), 700)]
    paths = share([*one, *family(2000, 12, 3, 2)])
    assert cut(paths, 1000, 10) == [[0, 1, 2], [3, 4, 5]]
