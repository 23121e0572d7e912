"""Templates of task definitions: Jinja2 in a sandbox, or the name of a column.

A template sees one row's columns and nothing else: no files, no modules, no attributes that start
with an underscore, nothing that changes the row. A column that a row lacks is an error, never an
empty text. As in lm-evaluation-harness a template may stand for a value (a list of choices, an
index): what it renders to is read as a literal.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from align.errors import UserError
from evals.task import Row

LONGEST = 1_000_000
"""Characters of a rendered text, and the most that a text or list is repeated to."""
_MARKS = ("{{", "{%", "{#")
# What an expression on plain data can raise.
_FAULTS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    re.error,
)


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, in which no operator can make a value grow without bounds."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply; powers and long repetitions are refused.

        Raises:
            SecurityError: A power, or a text or list repeated beyond `LONGEST`.
        """
        sizes = [len(x) if hasattr(x, "__len__") else x for x in (left, right)]
        if operator == "**" or (sizes != [left, right] and sizes[0] * sizes[1] > LONGEST):
            raise SecurityError(f"operator {operator} is not allowed here")
        return super().call_binop(context, operator, left, right)


def is_template(source: str) -> bool:
    """Whether a text is a template; else it is the name of a column (or empty)."""
    return any(mark in source for mark in _MARKS)


def check_template(source: str, where: str) -> None:
    """Refuse a template with a fault of syntax.

    Raises:
        UserError: The fault, with its line.
    """
    try:
        _compiled(source)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        place = f" (line {line})" if line else ""
        raise UserError(f"{source!r}: {error}{place}", where=where, allowed="Jinja2") from error


def template_columns(source: str) -> set[str]:
    """The columns that a template names."""
    return find_undeclared_variables(_environment().parse(source)) - {"range"}


def render_text(source: str, row: Row, where: str) -> str:
    """The text of a template, or of a column.

    Raises:
        UserError: The row lacks a column, or the template fails on it or reaches out of the
            sandbox.
    """
    if not is_template(source):
        return str(_column(source, row, where)) if source else ""
    try:
        text = _compiled(source).render(dict(row))
    except _FAULTS as error:
        raise UserError(
            f"{source!r}: {error or type(error).__name__}",
            where=where,
            allowed=f"columns {', '.join(map(str, row))}",
        ) from error
    if len(text) > LONGEST:
        raise UserError(
            f"rendered to {len(text):,} characters", where=where, allowed=f"{LONGEST:,}"
        )
    return text


def render_value(source: str, row: Row, where: str) -> Any:
    """The value of a column; of a template, the literal that it renders to, else its text.

    Raises:
        UserError: See `render_text`.
    """
    if source and not is_template(source):
        return _column(source, row, where)
    text = render_text(source, row, where)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _column(name: str, row: Row, where: str) -> Any:
    """The value of a column.

    Raises:
        UserError: It is missing or null.
    """
    if row.get(name) is None:
        raise UserError(
            f"no column {name!r}",
            where=where,
            allowed=", ".join(map(str, row)),
            remedy="name a column or write a template with {{column}}",
        )
    return row[name]


@lru_cache(maxsize=256)
def _compiled(source: str) -> Template:
    return _environment().from_string(source)


@lru_cache(maxsize=1)
def _environment() -> _Sandbox:
    """The sandbox; `regex_replace` is lm-evaluation-harness's one filter of its own."""
    sandbox = _Sandbox(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.globals.clear()
    sandbox.globals["range"] = range_of
    sandbox.filters["regex_replace"] = regex_replace
    return sandbox


def regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    """`re.sub` as a filter."""
    return re.sub(pattern, replacement, str(text), count=count)


def range_of(*limits: int) -> list[int]:
    """The numbers of a range, at most 10,000.

    Raises:
        SecurityError: More.
    """
    numbers = range(*limits)
    if len(numbers) > 10_000:
        raise SecurityError("a range of more than 10,000 numbers")
    return list(numbers)
