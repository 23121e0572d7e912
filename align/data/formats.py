"""Turn rows of public data sets into the row formats of the stages.

The format of a source is recognised by the fields of its first row; every later row must have the
same ones. `FORMATS` lists what is accepted for each kind, and errors quote that list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from align.data import conversions
from align.data.labels import labelled
from align.data.readers import Row, near
from align.errors import UserError

Kind = Literal["text", "instructions", "preferences", "prompts", "table"]


class Format(NamedTuple):
    """One accepted shape of a row: its required fields and how it is converted."""

    fields: tuple[str, ...]
    convert: Callable[[Row], Row]


class Converter:
    """Converts the rows of one source, in order.

    Args:
        kind: What the stage needs.
        columns: Our field name -> the column's name in the source.
        words: Of prompts that are texts, keep only so many first words.
    """

    def __init__(self, kind: Kind, columns: dict[str, str], words: int | None = None) -> None:
        self.kind, self.columns, self.words = kind, columns, words
        if words is not None and kind != "prompts":
            raise UserError(
                f"`words` is read for prompts only, not for {kind}", remedy="leave it out"
            )
        self._format: Format | None = None

    def __call__(self, row: Row) -> Row:
        """Convert one row.

        Raises:
            UserError: A fault in the row; the caller adds file and line.
            Unusable: The row is left out, with the reason.
        """
        row = rename(row, self.columns) if self.columns else row
        if self.kind == "table":
            return row
        if self._format is None:
            self._format = recognise(row, self.kind)
        for field in self._format.fields:
            if field not in row:
                raise UserError(
                    f"field '{field}' is missing; {_found(row)}",
                    allowed=f"{' + '.join(self._format.fields)}, as in the first row",
                    remedy=near(field, row),
                )
        converted = self._format.convert(row)
        return converted if self.words is None else conversions.first_words(converted, self.words)


def rename(row: Row, columns: dict[str, str]) -> Row:
    """Give columns our names; a column that is not named keeps its own.

    Raises:
        UserError: The row has no such column.
    """
    for ours, theirs in columns.items():
        if theirs not in row:
            raise UserError(
                f"column '{theirs}' (for '{ours}') is missing; {_found(row)}",
                remedy=near(theirs, row),
            )
    renamed = {ours: row[theirs] for ours, theirs in columns.items()}
    taken = {*columns.values(), *renamed}
    return renamed | {name: value for name, value in row.items() if name not in taken}


def recognise(row: Row, kind: Kind) -> Format:
    """The first format of a kind whose fields a row has.

    Raises:
        UserError: None fits; lists the fields found and those accepted.
    """
    formats = FORMATS[kind]
    for candidate in formats:
        if all(field in row for field in candidate.fields):
            return candidate
    accepted = " | ".join(" + ".join(candidate.fields) for candidate in formats)
    known = {field for candidate in formats for field in candidate.fields}
    hints = {name: near(name, known) for name in map(str, row)}
    hint = next((f"'{name}': {text}" for name, text in hints.items() if text), "")
    raise UserError(
        f"no {kind} format has these fields; {_found(row)}",
        allowed=accepted,
        remedy=hint or "name the columns with `columns`",
    )


def _found(row: Row) -> str:
    """The fields of a row, for errors."""
    names = [f"'{name}'" for name in row]
    return "found: " + (", ".join(names[:20]) or "no fields") + ("..." if len(names) > 20 else "")


FORMATS: dict[Kind, tuple[Format, ...]] = {
    "text": (
        Format(("text",), conversions.plain_text),
        Format(("content",), conversions.plain_text),
        Format(("messages",), conversions.joined_text),
    ),
    "instructions": (
        Format(("messages",), conversions.dialogue),
        Format(("conversations",), conversions.dialogue),
        Format(("prompt", "completion"), conversions.completion),
        Format(("prompt", "response"), conversions.completion),
        Format(("instruction", "output"), conversions.answered),
        Format(("instruction", "response"), conversions.answered),
        Format(("question", "answer"), conversions.answered),
        Format(("question", "response"), conversions.answered),
    ),
    "preferences": (
        Format(("prompt", "chosen", "rejected"), conversions.preference),
        Format(("chosen", "rejected"), conversions.preference),
        Format(("instruction", "output_1", "output_2", "preference"), conversions.judged),
        Format(("input", "output_1", "output_2", "label"), conversions.judged),
        Format(("instruction", "response1", "response2", "annotator1"), conversions.judged),
        Format(("text", "label"), labelled),
    ),
    "prompts": (
        Format(("chosen", "rejected"), conversions.prompt_of_preference),
        Format(("prompt",), conversions.prompt),
        Format(("messages",), conversions.prompt_of_dialogue),
        Format(("conversations",), conversions.prompt_of_dialogue),
        Format(("instruction",), conversions.prompt_of_question),
        Format(("question",), conversions.prompt_of_question),
        Format(("text",), conversions.prompt_of_text),
    ),
}

TEXT_FIELDS = frozenset(
    {field for formats in FORMATS.values() for entry in formats for field in entry.fields}
    | {"input", "context", "system", "source", "target", "sentence", "id"}
) - {"label"}
"""Columns that stay text even where a file without types (CSV) holds only digits in them."""


def infer_numbers(rows: list[Row]) -> None:
    """Turn columns whose every value is a number as text into numbers, in place (CSV has no types).

    A column is whole or decimal as a whole; one empty or other value leaves it text, and so does a
    leading zero, which marks a code.
    """
    for name in rows[0] if rows else ():
        values = [row.get(name) for row in rows]
        for shape, number in ((_WHOLE, int), (_DECIMAL, float)):
            if name not in TEXT_FIELDS and all(_is(shape, value) for value in values):
                for row in rows:
                    row[name] = number(row[name])
                break


_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,17})(\.\d+)?([eE][-+]?\d{1,3})?")


def _is(shape: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and shape.fullmatch(value) is not None
