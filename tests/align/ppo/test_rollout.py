"""Rollouts (docs/ppo.md item 2): masks from lengths, padding, micro-batches."""

import pytest
import torch

from align.generation import Response
from align.ppo.rollout import Rollout, start_rollout

EOS, PAD = 1, 0
CPU = torch.device("cpu")
PROMPTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]
RESPONSES = [
    Response([12, 13, EOS], [-1.0, -2.0, -3.0], finished=True),
    Response([14, 15, 16, 17, 18], [-0.1, -0.2, -0.3, -0.4, -0.5], finished=False),
    Response([EOS], [-4.0], finished=True),
]


def rollout_of(pad: int = PAD) -> Rollout:
    return start_rollout(PROMPTS, RESPONSES, pad, CPU)


@pytest.mark.parametrize("pad", [PAD, EOS])
def test_the_mask_comes_from_lengths(pad: int) -> None:
    # Item 2: also where pad equals EOS, so that `ids != pad` would cut the EOS off.
    rollout = rollout_of(pad)
    assert rollout.prompt_ids.tolist() == [
        [pad, pad, 3, 4, 5],
        [pad, pad, pad, pad, 6],
        [7, 8, 9, 10, 11],
    ]
    assert rollout.prompt_mask.sum(1).tolist() == [3, 1, 5]
    assert rollout.prompt_mask.dtype == torch.bool
    assert rollout.response_ids.tolist() == [
        [12, 13, EOS, pad, pad],
        [14, 15, 16, 17, 18],
        [EOS, pad, pad, pad, pad],
    ]
    assert rollout.mask.tolist() == [
        [True, True, True, False, False],
        [True] * 5,
        [True, False, False, False, False],
    ]
    assert rollout.finished.tolist() == [True, False, True]
    torch.testing.assert_close(
        rollout.sampler_logprobs,
        torch.tensor([[-1.0, -2, -3, 0, 0], [-0.1, -0.2, -0.3, -0.4, -0.5], [-4, 0, 0, 0, 0]]),
    )
    assert rollout.values.shape == (3, 6)
    assert len(rollout) == 3


def test_a_pad_token_that_was_sampled_counts() -> None:
    rollout = start_rollout([[3]], [Response([PAD, 5], [0.0, 0.0], False)], PAD, CPU)
    assert rollout.mask.tolist() == [[True, True]]


def test_measured_parts_do_not_share_memory() -> None:
    rollout = rollout_of()
    rollout.logprobs[0, 0] = 7.0
    assert rollout.reference[0, 0].item() == rollout.advantages[0, 0].item() == 0.0


def test_rows_are_cut_to_what_they_need() -> None:
    whole = rollout_of()
    part = whole.rows(torch.tensor([2, 0]))
    assert part.prompt_ids.tolist() == [[7, 8, 9, 10, 11], [PAD, PAD, 3, 4, 5]]
    assert part.response_ids.tolist() == [[EOS, PAD, PAD], [12, 13, EOS]]
    assert part.mask.tolist() == [[True, False, False], [True, True, True]]
    assert part.sampler_logprobs.tolist() == [[-4.0, 0.0, 0.0], [-1.0, -2.0, -3.0]]
    assert part.finished.tolist() == [True, True]
    one = whole.rows(torch.tensor([1]))
    assert one.prompt_ids.tolist() == [[6]]
    assert one.prompt_mask.tolist() == [[True]]
    assert one.response_ids.tolist() == [[14, 15, 16, 17, 18]]
    assert whole.prompt_ids.shape == (3, 5)


def test_micro_batches_hold_rows_of_like_length() -> None:
    # Prompt plus response: 6, 6 and 6 tokens; the stable order keeps rows of equal length.
    assert [index.tolist() for index in rollout_of().by_length(2)] == [[0, 1], [2]]
    longer = start_rollout(
        [[3], [3, 4, 5], [6]], [*RESPONSES[2:], *RESPONSES[1:2], *RESPONSES[:1]], PAD, CPU
    )
    # 2, 8 and 4 tokens: the longest first
    assert [index.tolist() for index in longer.by_length(1)] == [[1], [2], [0]]


def test_what_the_sampler_read_is_padded_like_its_tokens() -> None:
    responses = [
        Response([5, EOS], [0.0, 0.0], True, [0.5, -1.5]),
        Response([6], [0.0], False, [2]),
    ]
    rollout = start_rollout([[3], [4]], responses, PAD, CPU)
    assert rollout.sampler_values.tolist() == [[0.5, -1.5], [2.0, 0.0]]
