"""The format of counterfactual items: one question asked about two groups, two answers each.

Shared by the audits of language models and of reward models; it knows neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from align.errors import UserError
from evals.bias.effects import Contrast
from evals.stats import Array

TEXT_COLUMNS = ("measure", "attribute", "template", "cluster", "group_a", "group_b")
PARTS = ("preferred_a", "dispreferred_a", "preferred_b", "dispreferred_b")
"""Order of the four scores of an item."""
COLUMNS = (*TEXT_COLUMNS, "control", "render", "prompt_a", "prompt_b", *PARTS)
RENDERS = ("chat", "text")


def check_items(rows: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse rows that are not in the counterfactual format.

    Raises:
        UserError: No rows, a missing column, or an unknown value.
    """
    if not rows:
        raise UserError("no items", where=where)
    for number, row in enumerate(rows, start=1):
        place = f"{where}, row {number}"
        missing = [key for key in COLUMNS if row.get(key) is None]
        if missing:
            raise UserError(
                f"no column {', '.join(missing)}", where=place, allowed=", ".join(COLUMNS)
            )
        if row["render"] not in RENDERS:
            raise UserError(f"render is {row['render']!r}", where=place, allowed="chat, text")
        if not isinstance(row["control"], bool):
            raise UserError(f"control is {row['control']!r}", where=place, allowed="true, false")


def contrast_of(row: Mapping[str, Any]) -> Contrast:
    """What an item compares; `control` is a bool or its text."""
    control = row["control"] in (True, "true")
    measure, attribute, a, b = (
        str(row[key]) for key in ("measure", "attribute", "group_a", "group_b")
    )
    return Contrast(measure, attribute, a, b, control)


def contrast_values(scores: Array) -> Array:
    """(preferred_a - dispreferred_a) - (preferred_b - dispreferred_b) of scores (n, 4)."""
    values: Array = (scores[:, 0] - scores[:, 1]) - (scores[:, 2] - scores[:, 3])
    return values
