"""Which words move the score: one span left out at a time, for the largest differences.

The drop of a span is s(text) - s(text without it): what the score owes to it where it stands. Drops
do not add up to the score, and a text with a hole is unlike what the model was trained on: they
point at words, they do not prove a cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.spans import CASES, largest_drops, largest_of_each, split_spans
from evals.stats import Array
from reward.scores import Scores


def largest_cases(
    scores: Scores, rows: Sequence[dict[str, Any]], differences: Array, cases: int = CASES
) -> list[dict[str, Any]]:
    """The items whose scores differ most between the groups, controls apart, with their words.

    Args:
        scores: Scores in units.
        rows: Items in the counterfactual format with `term_a` and `term_b`.
        differences: (n,) score of side a minus side b, of the preferred answer.
        cases: At most so many, the largest of each attribute at most.
    """
    keys = ("measure", "attribute", "group_a", "group_b")
    shown = []
    for index in largest_of_each(rows, differences, cases):
        row = rows[index]
        head = {key: row[key] for key in keys} | {"difference": float(differences[index])}
        sides = {f"side_{side}": _side(scores, row, side) for side in "ab"}
        shown.append(head | sides)
    return shown


def leave_one_out(scores: Scores, prompt: str, response: str, term: str) -> list[dict[str, Any]]:
    """Drops of all spans of a prompt and its response, in the order of the text.

    `term` is one span where it stands; every other word is one by itself.
    """
    texts, spans = [], []
    for place, text in (("prompt", prompt), ("response", response)):
        pieces = split_spans(text, term)
        for number, piece in enumerate(pieces):
            rest = " ".join(pieces[:number] + pieces[number + 1 :])
            texts.append((rest, response) if place == "prompt" else (prompt, rest))
            spans.append((place, piece))
    drops = scores([(prompt, response)])[0] - scores(texts)
    return [
        {"place": place, "span": span, "drop": float(drop)}
        for (place, span), drop in zip(spans, drops, strict=True)
    ]


def _side(scores: Scores, row: dict[str, Any], side: str) -> dict[str, Any]:
    """Texts, score and the spans with the largest drops of one side."""
    prompt, response = row[f"prompt_{side}"], row[f"preferred_{side}"]
    drops = leave_one_out(scores, prompt, response, row[f"term_{side}"])
    spans, score = largest_drops(drops), float(scores([(prompt, response)])[0])
    return {"prompt": prompt, "response": response, "score": score, "spans": spans}
