"""What a definition makes of a row: question, choices, right answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from align.errors import UserError
from evals.schema import Definition
from evals.task import Row
from evals.templates import is_template, render_text, render_value


@dataclass(frozen=True)
class Document:
    """One item, rendered."""

    text: str
    """The question."""
    choices: tuple[str, ...]
    """Answers to choose from; none for a task without them."""
    gold: tuple[int, ...]
    """Indices of the right choices; none for a task without choices."""
    targets: tuple[str, ...]
    """Right answers as texts, the first one stands in examples."""


def render_document(definition: Definition, row: Row, where: str) -> Document:
    """Render a row.

    Args:
        definition: The task.
        row: Columns of the item.
        where: Task and row, for messages.

    Raises:
        UserError: A column is missing, a template fails, or there is no such choice.
    """
    text = render_text(definition.doc_to_text, row, f"{where}, doc_to_text")
    place = f"{where}, doc_to_target"
    source = definition.doc_to_target
    if definition.output_type == "multiple_choice":
        choices = _choices(definition.doc_to_choice, row, f"{where}, doc_to_choice")
        target = source if isinstance(source, int) else _target(source, row, place)
        gold = _gold(target, choices, place)
        return Document(text, choices, gold, tuple(choices[index] for index in gold))
    if definition.output_type == "generate_until":
        return Document(text, (), (), _targets(str(source), row, place))
    return Document(text, (), (), (render_text(str(source), row, place),))


def _target(source: str, row: Row, where: str) -> Any:
    """The value of a column; what a template renders to, where it is a list or an integer.

    Any other rendered text stays a text, as in lm-evaluation-harness.
    """
    value = render_value(source, row, where)
    if is_template(source) and not isinstance(value, list | int):
        return render_text(source, row, where)
    return value


def _targets(source: str, row: Row, where: str) -> tuple[str, ...]:
    """Reference answers: a list gives several; any other text stays as it is."""
    value = render_value(source, row, where)
    if not isinstance(value, list):
        return (render_text(source, row, where),)
    if not value:
        raise UserError("no reference answer", where=where, allowed="one or more texts")
    return tuple(map(str, value))


def _choices(source: Any, row: Row, where: str) -> tuple[str, ...]:
    """The choices of a row.

    Raises:
        UserError: They are no list of two or more.
    """
    if isinstance(source, tuple):
        return source
    value = render_value(source, row, where)
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise UserError(f"choices are {value!r}", where=where, allowed="a list of two or more")
    return tuple(map(str, value))


def _gold(target: Any, choices: Sequence[str], where: str) -> tuple[int, ...]:
    """Indices of the right choices, which stand there as texts or as indices.

    A text that is a choice is that choice; only another one is read as an index.

    Raises:
        UserError: There is no such choice, or none is right.
    """
    found = []
    for value in target if isinstance(target, list) else [target]:
        if isinstance(value, str | bool) and str(value) in choices:
            found.append(list(choices).index(str(value)))
        elif str(value).isdecimal() or isinstance(value, bool):
            found.append(int(value))
        else:
            raise UserError(f"{value!r} is no choice", where=where, allowed=_allowed(choices))
    if not found or max(found) >= len(choices):
        raise UserError(f"{target!r} is no choice", where=where, allowed=_allowed(choices))
    return tuple(dict.fromkeys(found))


def _allowed(choices: Sequence[str]) -> str:
    """What would be right."""
    return f"0 to {len(choices) - 1}, or one of {', '.join(choices)}"
