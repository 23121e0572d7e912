"""A penalty on judging or answering differently when a group in the prompt is swapped.

    penalty = -|s(prompt, response) - s(prompt', response')|

The primed texts have the group swapped: in the prompt alone (does the *judge* treat the same answer
differently?), or in both, as a pair (does the score move when the whole case moves?). A prompt that
holds nothing to swap is left out (None); the policy cannot cause that, as prompts are given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from align.errors import UserError
from reward.functions import Completion, RewardFunction, signed

Swap = Callable[[str], str]


def counterfactual_penalty(
    of: RewardFunction,
    words: Mapping[str, str] | None = None,
    column: str | None = None,
    swap: Literal["prompt", "pair"] = "prompt",
) -> RewardFunction:
    """Minus the absolute difference of scores between a prompt and its counterfactual.

    Args:
        of: The function whose score should not move; its unit is the penalty's.
        words: Swapped both ways as whole words, in the case they stand in (`{he: she}`).
        column: Instead: holds the counterfactual prompt of each row, or null. Needs `swap: prompt`.
        swap: The `prompt` alone, or the `pair` of prompt and response.

    Raises:
        UserError: Not exactly one of `words` and `column`, words that contradict each other, or a
            count of tokens where the response is swapped, which has none.
    """
    where = "counterfactual_penalty"
    if (words is None) == (column is None):
        raise UserError("give exactly one of `words` and `column`", where=where)
    if column is not None and swap == "pair":
        raise UserError("`column` holds prompts only", where=where, allowed="swap: prompt")
    if swap == "pair" and getattr(of, "counts_tokens", False):
        raise UserError(
            "`of` counts tokens, and those of a swapped response are not known",
            where=where,
            allowed="swap: prompt; or count words or characters",
        )
    replaced = word_swap(words) if words is not None else None

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        if replaced is not None:
            others: Sequence[Any] = [_swapped(prompt, replaced) for prompt in prompts]
        else:
            others = _column(columns, str(column))
        rows = [
            row
            for row, (prompt, other) in enumerate(zip(prompts, others, strict=True))
            if other is not None and other != prompt
        ]
        kept: list[float | None] = [None] * len(prompts)
        if not rows:
            return kept
        same = [completions[row] for row in rows]
        answers = [_swapped(c, replaced) for c in same] if swap == "pair" and replaced else same
        part = {name: [values[row] for row in rows] for name, values in columns.items()}
        if swap == "pair":  # the tokens of a swapped response are not known
            part.pop("completion_ids", None)
        before = of(prompts=[prompts[row] for row in rows], completions=same, **part)
        after = of(prompts=[others[row] for row in rows], completions=answers, **part)
        for row, s, s_swapped in zip(rows, before, after, strict=True):
            if s is not None and s_swapped is not None:
                kept[row] = -abs(s - s_swapped)
        return kept

    judged = getattr(of, "signature", getattr(of, "__name__", type(of).__name__))
    by = column if words is None else "+".join(f"{a}/{b}" for a, b in words.items())
    return signed(reward, "counterfactual_penalty", of=f"({judged})", by=by, swap=swap)


def word_swap(words: Mapping[str, str]) -> Swap:
    """A function that swaps words in a text: all at once, whole words, keeping capitals.

    Raises:
        UserError: A word stands on two sides, so that swapping twice would not give the text back.
    """
    sides = [word.casefold() for pair in words.items() for word in pair]
    if len(set(sides)) < len(sides) or not all(sides) or not sides:
        raise UserError(
            f"{dict(words)}",
            where="counterfactual_penalty.words",
            allowed="pairs in which every word stands once",
        )
    both = [*words.items(), *((b, a) for a, b in words.items())]
    table = {one.casefold(): other for one, other in both}
    longest = sorted(table, key=len, reverse=True)
    found = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)
    return lambda text: found.sub(lambda match: _like(match[0], table[match[0].casefold()]), text)


def _like(word: str, other: str) -> str:
    """The other word in the capitals of the first."""
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other


def _swapped(text: Any, swap: Swap | None) -> Any:
    """A text or the messages of a conversation with words swapped."""
    assert swap is not None
    if isinstance(text, str):
        return swap(text)
    return [{**turn, "content": swap(turn["content"])} for turn in text]


def _column(columns: Mapping[str, Any], name: str) -> Sequence[Any]:
    """The counterfactual prompts.

    Raises:
        UserError: The rows have no such column.
    """
    if name not in columns:
        raise UserError(
            f"the prompts have no column {name!r}",
            where="reward function counterfactual_penalty",
            allowed=", ".join(sorted(columns)) or "rows with further columns",
        )
    found: Sequence[Any] = columns[name]
    return found
