"""How a definition's questions reach the model: description, examples, chat template.

In plain text the parts are joined as lm-evaluation-harness joins them. Through the chat template
the description is the system message, examples are earlier turns, and answers stand without the
delimiter. Departure: examples are drawn for each item by its content and the seed, so that they
do not depend on the order or number of items; an item is never among its own examples.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from align.data.encoding import encode_prompt
from align.errors import UserError
from align.files import json_hash
from evals.documents import Document, render_document
from evals.perturb import perturbed
from evals.requests import Request, chat_request, text_request
from evals.schema import Definition
from evals.task import Row
from evals.templates import is_template, render_text, template_columns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Asking:
    """How a task of a run asks."""

    task: str
    """Name of the task in the run, for messages."""
    definition: Definition
    shots: int = 0
    """Examples before each question."""
    chat: bool = False
    """Through the chat template; false: as plain text."""
    system: str | None = None
    """System message, before the description (chat)."""
    seed: int = 0
    """Of the examples' draw and of sampled responses."""
    examples: tuple[Row, ...] | None = None
    """Rows that examples are drawn from; None: the task's own rows."""
    perturbation: str | None = None
    """How the questions, not the examples, are perturbed (`evals.perturb`)."""

    def documents(self, rows: Sequence[Row]) -> list[Document]:
        """Every row, rendered.

        Raises:
            UserError: See `render_document`.
        """
        return [
            self._document(row, f"task {self.task}, row {number}")
            for number, row in enumerate(rows, start=1)
        ]

    def _document(self, row: Row, where: str) -> Document:
        """A row, rendered; where it is perturbed, choices and targets are the row's own."""
        document = render_document(self.definition, row, where)
        if self.perturbation is None:
            return document
        changed = {**row, **perturbed(row, question_columns(self.definition), self.perturbation)}
        text = render_text(self.definition.doc_to_text, changed, f"{where}, doc_to_text")
        return replace(document, text=text)

    def prompts(self, rows: Sequence[Row], documents: Sequence[Document]) -> list[Prompt]:
        """What the model is given, for each row.

        Raises:
            UserError: There are too few examples, or one cannot be rendered.
        """
        pool = Pool.of(rows if self.examples is None else self.examples, self)
        return [
            self._prompt(row, document, pool.draw(row))
            for row, document in zip(rows, documents, strict=True)
        ]

    def _prompt(self, row: Row, document: Document, examples: Sequence[Document]) -> Prompt:
        """Description, examples and question."""
        where = f"task {self.task}, description"
        description = render_text_or_plain(self.definition.description, row, where)
        if self.chat:
            head = "\n\n".join(filter(None, [self.system, description.strip()]))
            turns = [("system", head)] if head else []
            for example in examples:
                turns += [("user", example.text), ("assistant", example.targets[0].strip())]
            return [{"role": r, "content": c} for r, c in [*turns, ("user", document.text)]]
        end = self.definition.fewshot_delimiter
        shown = "".join(x.text + self.answer(x.targets[0]) + end for x in examples)
        return description + shown + document.text

    def answer(self, text: str) -> str:
        """An answer as it follows a question: in plain text always behind the delimiter."""
        return text if self.chat else self.definition.target_delimiter + text

    def request(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, continuation: str
    ) -> Request:
        """Score a continuation, without EOS."""
        if isinstance(prompt, str):
            return text_request(tokenizer, prompt, continuation)
        return chat_request(tokenizer, prompt, continuation, end=False)

    def ids(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
        """Ids to generate from; plain text without its trailing spaces, which belong to answers."""
        return encode_prompt(tokenizer, prompt.rstrip(" ") if isinstance(prompt, str) else prompt)

    @property
    def manner(self) -> str:
        """How it asks, for the definition beside the numbers."""
        asked = "through the chat template" if self.chat else "as plain text"
        if self.chat and self.system:
            asked += " with a system message"
        many = {0: "without examples", 1: "with one example"}
        return f"{asked}, {many.get(self.shots, f'with {self.shots} examples')}"


@dataclass(frozen=True)
class Pool:
    """Rows that examples come from."""

    rows: tuple[Row, ...]
    asking: Asking

    @classmethod
    def of(cls, rows: Sequence[Row], asking: Asking) -> Pool:
        """A pool; the rows are not looked at before the first draw."""
        return cls(tuple(rows), asking)

    @cached_property
    def keys(self) -> list[str]:
        """Hash of each row's content."""
        return [json_hash(row) for row in self.rows]

    @cached_property
    def copies(self) -> Counter[str]:
        """Rows of each content."""
        return Counter(self.keys)

    @cached_property
    def rendered(self) -> dict[int, Document]:
        """Examples rendered so far."""
        return {}

    def draw(self, row: Row) -> list[Document]:
        """Examples for a row, in the order they are shown; none is the row itself.

        Raises:
            UserError: There are too few other rows.
        """
        shots = self.asking.shots
        if not shots:
            return []
        own = json_hash(row)
        wanted = shots + self.copies[own]
        if wanted > len(self.rows):
            raise UserError(
                f"{shots} examples for each item, but only "
                f"{len(self.rows) - self.copies[own]} other rows",
                where=f"evals.tasks.{self.asking.task}",
                remedy="lower num_fewshot or name more rows in fewshot_data",
            )
        places: Sequence[int] = range(wanted)
        if self.asking.definition.fewshot_config.sampler == "default":
            chooser = random.Random(f"{self.asking.seed}:{own}")
            places = chooser.sample(range(len(self.rows)), wanted)
        chosen = [place for place in places if self.keys[place] != own][:shots]
        return [self._document(place) for place in chosen]

    def _document(self, place: int) -> Document:
        """The example at a place, rendered once."""
        if place not in self.rendered:
            asking = self.asking
            where = f"task {asking.task}, example {place + 1}"
            row = self.rows[place]
            self.rendered[place] = render_document(asking.definition, row, where)
        return self.rendered[place]


def question_columns(definition: Definition) -> list[str]:
    """Columns that the question reads, and neither the choices nor the target."""
    answers = [definition.doc_to_choice, definition.doc_to_target]
    read = {name for source in answers if isinstance(source, str) for name in _columns(source)}
    return sorted(_columns(definition.doc_to_text) - read - {""})


def _columns(source: str) -> set[str]:
    """Columns of a template, or the one it names."""
    return template_columns(source) if is_template(source) else {source}


def render_text_or_plain(source: str, row: Row, where: str) -> str:
    """A template's text; what is no template is a fixed text, not a column."""
    return render_text(source, row, where) if is_template(source) else source


@dataclass(frozen=True)
class Asked:
    """What every task made from a definition has."""

    name: str
    """Of the task in the run."""
    asking: Asking

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """All text of each row."""
        return [row_text(row) for row in rows]


def shown(prompt: Prompt) -> str:
    """A prompt for readers; a dialogue with its roles, a line a turn."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def row_text(value: Any) -> str:
    """All text of a row, whatever its columns."""
    if isinstance(value, str):
        return value
    inner = value.values() if isinstance(value, dict) else value
    return " ".join(filter(None, map(row_text, inner))) if isinstance(value, dict | list) else ""
