"""Prompts, their schedule and the random streams (docs/ppo.md items 19, 23)."""

from itertools import product

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from align.errors import UserError
from align.ppo.prompts import PromptSet, scheduled_indices, stream


def test_prompts_keep_their_columns_and_long_ones_are_counted(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    # a is the fourth word of the vocabulary: id 3.
    rows = [
        {"prompt": "a b", "gold": 1, "tag": "x"},
        {"prompt": "a b c d", "gold": 2, "tag": "y"},
        {"prompt": "c", "gold": 3, "tag": "z"},
        {"prompt": "a b c", "gold": 4, "tag": "u"},
    ]
    prompts = PromptSet(rows, tokenizer, max_length=3)
    assert len(prompts) == 3
    assert prompts.dropped == 1
    batch = prompts.batch([2, 0, 2])
    assert batch.prompts == ["a b c", "a b", "a b c"]
    assert batch.ids == [[3, 4, 5], [3, 4], [3, 4, 5]]
    assert batch.columns == {"gold": [4, 1, 4], "tag": ["u", "x", "u"]}
    assert len(batch) == 3


def test_a_row_without_prompt_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"row 1 has no `prompt` \(it has \['text'\]\)"):
        PromptSet([{"prompt": "a"}, {"text": "b"}], tokenizer, 9)


def test_no_prompt_short_enough_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="at most 1 tokens"):
        PromptSet([{"prompt": "a b"}], tokenizer, 1)


def test_every_prompt_comes_once_before_any_comes_again() -> None:
    drawn = scheduled_indices(7, 0, 7 * 5, seed=3)
    rounds = [drawn[start : start + 7] for start in range(0, 35, 7)]
    assert all(sorted(one) == list(range(7)) for one in rounds)
    assert len({tuple(one) for one in rounds}) == 5  # reshuffled every time


@pytest.mark.parametrize(("size", "batch"), [(7, 3), (5, 5), (3, 8), (1, 4)])
def test_the_schedule_needs_no_state(size: int, batch: int) -> None:
    # Item 23: any entry point gives the same continuation.
    whole = scheduled_indices(size, 0, batch * 6, seed=1)
    parts = [scheduled_indices(size, start, batch, seed=1) for start in range(0, batch * 6, batch)]
    assert [index for part in parts for index in part] == whole
    assert scheduled_indices(size, 0, 0, seed=1) == []


def test_the_schedule_depends_on_the_seed() -> None:
    assert scheduled_indices(50, 0, 50, seed=1) != scheduled_indices(50, 0, 50, seed=2)


def test_streams_depend_on_every_number_and_its_place() -> None:
    # Item 19: purpose, rank, update and epoch each give another stream.
    places = [p for n in (1, 2, 3) for p in product(range(4), repeat=n)]
    firsts = {
        tuple(torch.rand(2, generator=stream(seed, *place)).tolist())
        for seed in (0, 1)
        for place in places
    }
    assert len(firsts) == 2 * len(places)


def test_a_stream_starts_anew_each_time() -> None:
    first = torch.rand(5, generator=stream(1, 2, 3))
    assert torch.equal(torch.rand(5, generator=stream(1, 2, 3)), first)


def test_streams_of_neighbouring_places_are_uncorrelated() -> None:
    # 200 streams of 500 draws: every pair of neighbours' correlation within 5 / sqrt(500).
    draws = torch.stack([torch.rand(500, generator=stream(7, update)) for update in range(200)])
    centred = draws - draws.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True)
    correlations = (unit[1:] * unit[:-1]).sum(1)
    assert correlations.abs().max().item() < 5 / 500**0.5
