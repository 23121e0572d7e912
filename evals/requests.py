"""Scoring requests as token ids: pairs, rolling windows, and the plan of forward passes.

Everything here is lists of integers; the engine does the arithmetic. Encoding follows the trained
format (`align.data.encoding`) for conversations, and lm-evaluation-harness for plain text, whose
numbers it must reproduce.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from align.data.encoding import Message, encode_prompt, encode_response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]


class Request(NamedTuple):
    """Score `continuation` given `context`, both token ids."""

    context: Ids
    continuation: Ids


class Host(NamedTuple):
    """One sequence to run, and the requests whose inputs are a prefix of it."""

    ids: Ids
    members: tuple[int, ...]


def prefix_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What stands before the first token of a document: BOS, else EOS."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return int(bos if bos is not None else eos)


def chat_request(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], response: str, *, end: bool
) -> Request:
    """A response to a conversation; with `end` its EOS is scored too."""
    ids = encode_response(tokenizer, response)
    return Request(tuple(encode_prompt(tokenizer, prompt)), tuple(ids if end else ids[:-1]))


def text_request(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> Request:
    """A continuation of plain text, encoded together as lm-evaluation-harness does.

    Trailing spaces of the prompt move to the continuation; the text is encoded whole and cut after
    as many tokens as the prompt alone has, so that tokens merge as they would in running text.
    """
    kept = prompt.rstrip()
    context = encode_prompt(tokenizer, kept)
    if not kept:
        ids = tokenizer(prompt + response, add_special_tokens=False)["input_ids"]
        return Request(tuple(context), tuple(ids))
    whole = encode_prompt(tokenizer, prompt + response)
    return Request(tuple(context), tuple(whole[len(context) :]))


def windows(ids: Sequence[int], prefix: int, length: int) -> Iterator[Request]:
    """Cut a document into requests that score every token once.

    Each window scores the next `length` tokens from one token of context, the first from `prefix`;
    the last, shorter one fills its context up to `length` inputs with what came before
    (lm-evaluation-harness, get_rolling_token_windows with context_len=1).
    """
    whole = (prefix, *ids)
    for start in range(0, len(ids), length):
        end = min(start + length, len(ids))
        first = max(0, end - length) if start else 0
        yield Request(whole[first : start + 1], whole[start + 1 : end + 1])


def merge_prefixes(requests: Sequence[Request]) -> list[Host]:
    """Run a sequence once for all requests whose inputs are a prefix of it.

    The last token of a continuation is predicted and never put in. Repeated requests, choices of
    one token and answers that begin alike need no forward pass of their own.
    """
    inputs = [(request.context + request.continuation)[:-1] for request in requests]
    hosts: list[Host] = []
    members: list[int] = []
    host: Ids = ()
    # In lexicographic order a prefix stands right before its extensions.
    for index in sorted(range(len(inputs)), key=inputs.__getitem__, reverse=True):
        if host[: len(inputs[index])] != inputs[index]:
            if members:
                hosts.append(Host(host, tuple(members)))
            host, members = inputs[index], []
        members.append(index)
    if members:
        hosts.append(Host(host, tuple(members)))
    return hosts


def deal(costs: Sequence[int], count: int) -> list[list[int]]:
    """Places of pieces of work for `count` processes: the dearest first, to the least busy."""
    shares: list[list[int]] = [[] for _ in range(count)]
    busy = [0] * count
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        least = busy.index(min(busy))
        shares[least].append(place)
        busy[least] += costs[place]
    return [sorted(share) for share in shares]


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches, longest first, of at most `budget` tokens with padding included.

    A single sequence over the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    plan: list[list[int]] = []
    for index in order:
        if plan and (len(plan[-1]) + 1) * lengths[plan[-1][0]] <= budget:
            plan[-1].append(index)
        else:
            plan.append([index])
    return plan
