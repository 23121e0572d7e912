"""Scripted rewards on the text of a response, with the convention of TRL's reward functions.

A reward function is called with the prompts, the completions and every further column of the rows,
and returns one number a completion: `f(prompts, completions, **columns) -> list[float | None]`.
Completions are strings, or lists of messages whose last one is the assistant's. Here stand makers:
each takes options and returns such a function, with a name for logs and a signature for records.
A penalty is at most 0, so every weight can be positive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from align.errors import UserError

Completion = str | Sequence[Mapping[str, str]]
RewardFunction = Callable[..., Sequence[float | None]]
Unit = Literal["words", "characters", "tokens"]
Place = Literal["anywhere", "start", "whole"]


def completion_text(completion: Completion) -> str:
    """The text of a completion: itself, or the content of its last message."""
    if isinstance(completion, str):
        return completion
    return completion[-1]["content"]


def signed(function: Callable[..., Any], name: str, **details: Any) -> RewardFunction:
    """Give a function its name in logs and a signature: name|option:value|..., as sacrebleu's."""
    parts = [f"{key}:{value}" for key, value in details.items()]
    function.__name__ = function.__qualname__ = name
    function.signature = "|".join([name, *parts])  # type: ignore[attr-defined]
    return function


def text_reward(
    name: str, score: Callable[[str], float], said: str = "", **details: Any
) -> RewardFunction:
    """Lift a function of the response's text to the convention.

    Args:
        name: In logs.
        score: Text -> score.
        said: Name in the signature; default: `name`.
        details: Options for the signature.
    """

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float]:
        return [score(completion_text(completion)) for completion in completions]

    function = signed(reward, said or name, **details)
    function.__name__ = name
    return function


def length_penalty(target: int, unit: Unit = "words") -> RewardFunction:
    """Minus the relative distance to a length: -|length - target| / target, at most 0.

    Args:
        target: Wanted length.
        unit: What is counted; `tokens` are those that the policy sampled, its EOS included.
    """
    _require(target > 0, "length_penalty.target", target, "at least 1")
    return _length_reward(
        f"length_penalty_{target}",
        lambda length: -abs(length - target) / target,
        unit,
        signed_as="length_penalty",
        target=target,
    )


def overlong_penalty(limit: int, margin: int, unit: Unit = "words") -> RewardFunction:
    """Soft penalty of long responses, -1 to 0 (DAPO, 2503.14476, eq. 13).

        0                                 length <= limit - margin
        (limit - margin - length) / margin    in between
        -1                                length > limit

    The paper counts tokens.

    Args:
        limit: Longest length.
        margin: Length before the limit over which the penalty grows.
        unit: See `length_penalty`.
    """
    _require(0 < margin <= limit, "overlong_penalty.margin", margin, f"1 to the limit ({limit})")

    def score(length: int) -> float:
        over = length - (limit - margin)
        return -min(max(over / margin, 0.0), 1.0)

    return _length_reward("overlong_penalty", score, unit, limit=limit, margin=margin)


def token_count(word: str) -> RewardFunction:
    """How often `word` occurs among the blank-separated words, compared without case."""
    wanted = word.casefold()

    def score(text: str) -> float:
        return float(text.casefold().split().count(wanted))

    return text_reward(f"token_count_{wanted}", score, "token_count", word=wanted)


def repetition_penalty(n: int = 3) -> RewardFunction:
    """Minus the share of word n-grams that occurred earlier in the same text, from -1 to 0."""
    _require(n > 0, "repetition_penalty.n", n, "at least 1")

    def score(text: str) -> float:
        words = text.split()
        grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
        if not grams:
            return 0.0
        return len(set(grams)) / len(grams) - 1.0

    return text_reward(f"repetition_penalty_{n}", score, "repetition_penalty", n=n)


def pattern(regex: str, place: Place = "anywhere") -> RewardFunction:
    """1 where a regular expression of Python's `re` matches the response, else 0.

    Args:
        regex: Such as `(?s)<think>.*</think>.*` for a format.
        place: Anywhere, at the start, or the whole response.

    Raises:
        UserError: It is no regular expression.
    """
    try:
        compiled = re.compile(regex)
    except re.error as error:
        raise UserError(
            f"{regex!r}: {error}", where="pattern.regex", allowed="a regular expression"
        ) from error
    match = {"anywhere": compiled.search, "start": compiled.match, "whole": compiled.fullmatch}
    found = match[place]
    return text_reward(
        "pattern", lambda text: float(found(text) is not None), regex=regex, place=place
    )


def refusal() -> RewardFunction:
    """1 where the response opens like a refusal, else 0; the rule of the task `xstest`.

    A rule on words, not a judgement (`evals.answers.refuses`).
    """
    from evals.answers import refuses

    return text_reward("refusal", lambda text: float(refuses(text)))


def _length_reward(
    name: str, score: Callable[[int], float], unit: Unit, signed_as: str = "", **details: Any
) -> RewardFunction:
    """A function of the response's length."""

    def reward(
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: Any,
    ) -> list[float]:
        if unit != "tokens":
            texts = map(completion_text, completions)
            return [score(len(text.split() if unit == "words" else text)) for text in texts]
        if completion_ids is None:
            raise UserError(
                "the responses' tokens are not known here",
                where=f"reward function {name}",
                remedy="count words or characters",
            )
        return [score(len(ids)) for ids in completion_ids]

    function = signed(reward, signed_as or name, **details, unit=unit)
    function.__name__ = name
    function.counts_tokens = unit == "tokens"  # type: ignore[attr-defined]
    return function


def _require(fits: bool, where: str, value: object, allowed: str) -> None:
    if not fits:
        raise UserError(f"{value!r}", where=where, allowed=allowed)
