"""From the report's parts to HTML and Markdown; all markup is in the two templates.

Everything is plain text until it reaches a template. HTML is autoescaped; the only markup that is
let through is the SVG drawn by `evals.report.figures`, whose text matplotlib has escaped. Markdown
is escaped by the `md` filter, and texts of unknown content are fenced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evals.report.layout import Cell, Section

if TYPE_CHECKING:
    from jinja2 import Environment

OUTCOMES = {"pass": "PASS", "fail": "FAIL", "insufficient evidence": "INSUFFICIENT EVIDENCE"}


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    run: str
    made: str
    """Dates from the manifests."""
    purpose: str
    outcome: str
    """pass, fail or insufficient evidence; empty where nothing was judged."""
    verdict: str
    """One sentence on the outcome."""
    sections: Sequence[Section]


def render_html(page: Page) -> str:
    """One self-contained file: no script, no request to anything."""
    from markupsafe import Markup

    environment = _environment(escape=True)
    environment.filters["svg"] = Markup  # our own drawing, see the module's docstring
    return environment.get_template("template.html.j2").render(page=page, word=_word(page))


def render_markdown(page: Page) -> str:
    """The same tables and sentences; drawings become their descriptions."""
    environment = _environment(escape=False)
    environment.filters |= {"md": markdown_text, "cell": markdown_cell, "fence": fenced}
    text = environment.get_template("template.md.j2").render(page=page, word=_word(page))
    # Blank lines left by the template go; fenced texts keep theirs.
    fence = r"(^(`{3,})text\n.*?\n\2$)|\n{3,}"
    text = re.sub(fence, lambda m: m[1] or "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    return text.strip() + "\n"


def _word(page: Page) -> str:
    return OUTCOMES[page.outcome] if page.outcome else ""


def _environment(*, escape: bool) -> Environment:
    """Templates beside this file; an undefined name in one is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def markdown_text(text: str) -> str:
    """`text` on one line, with every character that Markdown or HTML would act on disarmed."""
    return re.sub(r"([\\`*_\[\]|~<>&])", r"\\\1", " ".join(text.split()))


def markdown_cell(cell: Cell) -> str:
    """A cell with its notes and flags."""
    flags = (f"**{markdown_text(flag)}**" for flag in cell.flags)
    head = " ".join([markdown_text(cell.text), *flags]).strip()
    return "; ".join(part for part in (head, *map(markdown_text, cell.notes)) if part)


def fenced(text: str) -> str:
    """`text` as a code block whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
