"""Labelled texts as preference pairs: a text labelled 1 is preferred to one labelled 0.

A reward model trained on such pairs ranks texts by the label, as a classifier does: the chance that
a random text of label 1 scores above a random one of label 0 is the area under the ROC curve.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from align.data.readers import Row, describe
from align.errors import UserError


def labelled(row: Row) -> Row:
    """A text and its label.

    Raises:
        UserError: The text is no string, or the label neither 0 nor 1.
    """
    text, label = row["text"], row["label"]
    if not isinstance(text, str):
        raise UserError(f"field 'text' holds {describe(text)}", allowed="a string")
    if str(label) not in ("0", "1"):
        raise UserError(f"field 'label' is {label!r}", allowed="0 (rejected) or 1 (chosen)")
    return {"text": text, "label": int(label)}


def is_labelled(rows: Sequence[Row]) -> bool:
    """Whether these preferences are labelled texts."""
    return bool(rows) and "label" in rows[0] and "chosen" not in rows[0]


def pair_labels(rows: Iterable[Row], seed: int) -> list[Row]:
    """Pairs (prompt "", chosen, rejected) of texts with unlike labels, each used once at most.

    Args:
        rows: Texts and labels.
        seed: Which texts meet, and which of the commoner label are left over.

    Raises:
        UserError: One of the labels does not occur.
    """
    sides: tuple[list[str], list[str]] = ([], [])
    for row in rows:
        sides[row["label"]].append(row["text"])
    for label, texts in enumerate(sides):
        if not texts:
            raise UserError(f"no text is labelled {label}", allowed="texts of both labels")
    generator = random.Random(seed)
    for texts in sides:
        generator.shuffle(texts)
    pairs = zip(sides[1], sides[0], strict=False)
    return [{"prompt": "", "chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
