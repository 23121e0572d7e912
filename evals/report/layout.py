"""The parts a report is made of, without any markup: the HTML and the Markdown render the same.

A section is a list of blocks. Each block names its `kind`, by which the templates choose how to
show it; all text in it is plain text and is escaped when rendered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Tone = Literal["", "good", "bad", "warn", "muted"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str = ""
    notes: tuple[str, ...] = ()
    """Smaller lines below the text."""
    value: float | None = None
    """The number behind the text, every digit of it."""
    flags: tuple[str, ...] = ()
    """Short words that mark the cell, such as `n < 30`."""
    tone: Tone = ""
    """Tone of the flags."""
    numeric: bool = False
    code: bool = False
    """Set in a fixed-width font: hashes, paths, signatures."""


@dataclass(frozen=True)
class Row:
    """One row; its first cell is the row's header."""

    cells: tuple[Cell, ...]
    style: Literal["", "control", "heading"] = ""
    """`heading`: a single cell over the whole width; `control`: a neutral control."""


@dataclass(frozen=True)
class Table:
    """A table with a caption; without rows it is shown as the sentence `empty`."""

    kind: ClassVar[str] = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    empty: str
    notes: tuple[str, ...] = ()
    folded: bool = False
    """Long and secondary: shown folded up on the screen."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Figure:
    """One drawing: inline SVG made by `evals.report.figures`, and what it shows in words."""

    svg: str
    title: str
    description: str
    """Read out in place of the drawing; also its text in Markdown."""


@dataclass(frozen=True)
class Figures:
    """Small multiples."""

    kind: ClassVar[str] = "figures"
    title: str
    figures: tuple[Figure, ...]
    legend: tuple[tuple[str, str, int], ...] = ()
    """(marker, label, index of the colour) of each series."""
    wide: bool = False
    """Few and full of text: drawn larger."""


@dataclass(frozen=True)
class Answer:
    """The response of one stage."""

    stage: str
    text: str
    score: str
    gold: str


@dataclass(frozen=True)
class Sample:
    """One prompt with the responses of all stages."""

    kind: ClassVar[str] = "sample"
    why: str
    prompt: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Signature:
    """Lines to sign on."""

    kind: ClassVar[str] = "signature"
    roles: tuple[str, ...]


Block = Table | Text | Bullets | Figures | Sample | Signature


@dataclass(frozen=True)
class Section:
    """A heading and its blocks; without blocks it is shown as the sentence `empty`."""

    key: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    empty: str = "Nothing was stored for this section."


def plain(*texts: str) -> tuple[Cell, ...]:
    """Cells that hold only text."""
    return tuple(Cell(text) for text in texts)
