"""Questions made from a row's columns, shared by the tasks that ask something."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.data.encoding import encode_prompt
from align.errors import UserError
from evals.perturb import perturbed
from evals.requests import Request, chat_request, text_request
from evals.task import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Question:
    """A template with {column} placeholders, asked through the chat template or as plain text."""

    task: str
    """Name of the task, for messages."""
    template: str
    chat: bool
    perturbation: str | None = None
    """How its columns are perturbed (`evals.perturb`)."""

    def __post_init__(self) -> None:
        """Check the template.

        Raises:
            UserError: It is no format string, or a placeholder is not a plain column name.
        """
        where = f"evals.tasks.{self.task}.prompt"
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(self.template)]
        except ValueError as error:
            raise UserError(
                f"{self.template!r}: {error}", where=where, remedy="write {{ for a brace"
            ) from error
        for field in fields:
            if field is not None and not field.isidentifier():
                raise UserError(
                    f"placeholder {{{field}}} is no column name", where=where, allowed="{column}"
                )

    def text(self, row: Row, number: int) -> str:
        """The question about a row (the `number`-th, from 1).

        Raises:
            UserError: The row lacks a column.
        """
        values = self._values(row, number)
        if self.perturbation is not None:
            values |= perturbed(row, values, self.perturbation)
        return self.template.format(**values)

    def content(self, row: Row, number: int) -> str:
        """The row's own text in the question, without the template's.

        Raises:
            UserError: The row lacks a column.
        """
        return " ".join(str(value) for value in self._values(row, number).values())

    def _values(self, row: Row, number: int) -> dict[str, Any]:
        """Value of each placeholder."""
        names = [name for _, name, _, _ in string.Formatter().parse(self.template) if name]
        return {name: column(row, name, self.task, number) for name in names}

    def request(self, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Request:
        """Score an answer, without EOS.

        In plain text one space stands between them unless there is white space already.
        """
        if self.chat:
            return chat_request(tokenizer, user_turn(prompt), answer, end=False)
        gap = "" if not prompt or prompt[-1:].isspace() or answer[:1].isspace() else " "
        return text_request(tokenizer, prompt, gap + answer)

    def ids(self, tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
        """Ids to generate from; plain text without its trailing spaces, which belong to answers."""
        return encode_prompt(tokenizer, user_turn(prompt) if self.chat else prompt.rstrip(" "))


def user_turn(text: str) -> list[dict[str, str]]:
    """A conversation of one question."""
    return [{"role": "user", "content": text}]


def column(row: Row, name: str, task: str, number: int) -> Any:
    """The value of a column.

    Raises:
        UserError: It is missing or null, naming task, column and row.
    """
    if row.get(name) is None:
        raise UserError(
            f"no column {name!r}",
            where=f"task {task}, row {number}",
            allowed=", ".join(row),
            remedy="correct the prompt or target, or rename with data.columns",
        )
    return row[name]


def require_items(rows: Sequence[Row], task: str) -> None:
    """An empty set of items is an error."""
    if not rows:
        raise UserError("no items", where=f"task {task}")


def require_scored(places: Sequence[int], missing: dict[str, int], task: str) -> None:
    """A task of which no item could be scored is an error."""
    if not places:
        raise UserError(f"no item could be scored ({missing})", where=f"task {task}")
