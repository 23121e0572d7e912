"""Encoding, windows and the plan of forward passes, against definitions and brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evals.requests import (
    Request,
    batches,
    chat_request,
    deal,
    merge_prefixes,
    prefix_id,
    text_request,
    windows,
)


def test_trailing_spaces_move_to_the_continuation(tiny_tokenizer: Any) -> None:
    spaced = text_request(tiny_tokenizer, "the soup is ", "good")
    moved = text_request(tiny_tokenizer, "the soup is", " good")
    assert spaced == moved
    text = tiny_tokenizer.decode(list(spaced.continuation))
    assert text == " good"


def test_plain_text_is_the_running_text_cut_in_two(tiny_tokenizer: Any) -> None:
    context, continuation = text_request(tiny_tokenizer, "Answer:", " good and bad")
    running = tiny_tokenizer("Answer: good and bad", add_special_tokens=False)["input_ids"]
    assert list(context + continuation) == running


def test_prompt_of_spaces_alone_keeps_every_token(tiny_tokenizer: Any) -> None:
    context, continuation = text_request(tiny_tokenizer, " ", "good")
    assert context == (tiny_tokenizer.bos_token_id,)
    assert tiny_tokenizer.decode(list(continuation)) == " good"


def test_chat_request_scores_the_end_only_when_asked(tiny_tokenizer: Any) -> None:
    prompt = [{"role": "user", "content": "good?"}]
    open_, closed = (chat_request(tiny_tokenizer, prompt, "bad", end=end) for end in (False, True))
    assert closed.continuation == (*open_.continuation, tiny_tokenizer.eos_token_id)
    assert tiny_tokenizer.decode(list(open_.continuation)) == "bad"
    assert tiny_tokenizer.decode(list(closed.context)) == "<|user|>good?</s><|assistant|>"


def test_prefix_is_bos_else_eos(tiny_tokenizer: Any) -> None:
    class NoBos:
        bos_token_id, eos_token_id = None, 7

    assert prefix_id(tiny_tokenizer) == 1
    assert prefix_id(NoBos()) == 7  # type: ignore[arg-type]


def test_windows_by_hand() -> None:
    # Seven tokens, four inputs a pass: 10-13 from the prefix; 14-16 with context back to 13,
    # filled to four inputs (12, 13, then 14, 15 which are inputs and targets at once).
    parts = list(windows([10, 11, 12, 13, 14, 15, 16], 1, 4))
    assert parts == [Request((1,), (10, 11, 12, 13)), Request((12, 13), (14, 15, 16))]
    inputs = [len(context) + len(continuation) - 1 for context, continuation in parts]
    assert inputs == [4, 4]


@pytest.mark.parametrize("n", [1, 4, 5, 8, 11])
def test_windows_score_every_token_once(n: int) -> None:
    ids = list(range(100, 100 + n))
    parts = list(windows(ids, 1, 4))
    assert [token for part in parts for token in part.continuation] == ids
    assert all(len(c) + len(t) - 1 <= 4 for c, t in parts)


def test_prefixes_share_a_pass() -> None:
    requests = [
        Request((5, 6), (7,)),  # input 5 6
        Request((5, 6), (8,)),  # same input
        Request((5,), (6, 7, 8)),  # input 5 6 7: extends both
        Request((9,), (9,)),
        Request((5, 6), (7,)),  # repeated
    ]
    hosts = {host.ids: set(host.members) for host in merge_prefixes(requests)}
    assert hosts == {(5, 6, 7): {0, 1, 2, 4}, (9,): {3}}


def test_every_request_is_a_prefix_of_its_host() -> None:
    generator = np.random.default_rng(0)
    requests = [
        Request(tuple(generator.integers(0, 3, generator.integers(1, 5)).tolist()), (0, 1))
        for _ in range(200)
    ]
    hosts = merge_prefixes(requests)
    members = sorted(member for host in hosts for member in host.members)
    assert members == list(range(200))
    for host in hosts:
        for member in host.members:
            needed = (requests[member].context + requests[member].continuation)[:-1]
            assert host.ids[: len(needed)] == needed
    # No host is a prefix of another one: nothing is computed twice.
    ids = [host.ids for host in hosts]
    assert not any(a != b and b[: len(a)] == a for a in ids for b in ids)
    assert len(set(ids)) == len(ids)


def test_work_is_dealt_to_the_least_busy_by_hand() -> None:
    # 5 to the first, 3 and 3 to the second (0 < 5, 3 < 5), 2 to the first (5 < 6), 1 to the
    # second (6 < 7).
    assert deal([1, 5, 3, 3, 2], 2) == [[1, 4], [0, 2, 3]]
    assert deal([4, 7], 3) == [[1], [0], []]
    assert deal([4, 7, 7], 1) == [[0, 1, 2]]


def test_batches_by_hand() -> None:
    # Longest first 9 | 5 5 | 4 2 with 10 tokens: 9 alone, 2 x 5 = 10, then 2 x 4 = 8.
    assert batches([5, 9, 2, 5, 4], 10) == [[1], [0, 3], [4, 2]]
    assert batches([50], 10) == [[0]]
    assert batches([], 10) == []
