"""Templates render what Jinja2 says, and nothing reaches out of the sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from align.errors import UserError
from evals.templates import check_template, render_text, render_value

ROW: dict[str, Any] = {"question": "why?", "label": 3, "choices": ["x", "y's"], "none": None}


def test_texts_come_from_templates_columns_or_nothing() -> None:
    assert render_text("Q: {{question}}\nA:", ROW, "t") == "Q: why?\nA:"
    assert render_text("{{question}}\n", ROW, "t") == "why?\n"  # a trailing line break stays
    assert render_text("label", ROW, "t") == "3"
    assert render_text("", ROW, "t") == ""
    # By hand: [ab] removed, then the two spaces left behind become one.
    filtered = "{{'x [ab] y'|regex_replace('\\\\[.*?\\\\]', '')|replace('  ', ' ')}}"
    assert render_text(filtered, ROW, "t") == "x y"


def test_values_are_columns_or_literals() -> None:
    assert render_value("choices", ROW, "t") is ROW["choices"]
    assert render_value("{{choices}}", ROW, "t") == ["x", "y's"]
    assert render_value("{{label + 1}}", ROW, "t") == 4
    assert render_value("{{question}}", ROW, "t") == "why?"
    assert render_value("{{range(3)}}", ROW, "t") == [0, 1, 2]


@pytest.mark.parametrize("source", ["lable", "none", "{{lable}}", "{{choices[5]}}", "{{label.x}}"])
def test_what_a_row_lacks_is_named(source: str) -> None:
    with pytest.raises(UserError, match="task t, row 1") as error:
        render_text(source, ROW, "task t, row 1")
    assert "question" in str(error.value), "the columns there are"


@pytest.mark.parametrize(
    "source",
    [
        "{{question.__class__}}",
        "{{''.__class__.__mro__[1].__subclasses__()}}",
        "{{question|attr('__class__')}}",
        "{{question['__class__']}}",
        "{{'{0.__class__}'.format(question)}}",
        "{{'{x.__class__}'.format_map({'x': question})}}",
        "{{range.__globals__}}",
        "{{cycler.__init__.__globals__.os}}",
        "{{self.__init__.__globals__}}",
        "{{lipsum()}}",
        "{{choices.append('z')}}",
        "{{choices.clear()}}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends '/etc/passwd' %}",
        "{{10 ** 10 ** 10}}",
        "{{'a' * 10000000}}",
        "{{(10000000 * [0])|length}}",
        "{{('a' * 2000000)|length}}",
        "{{range(100000000)}}",
        "{% for i in range(9000) %}{{'a' * 1000}}{% endfor %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    row = {**ROW, "choices": ["x", "y"]}
    with pytest.raises(UserError, match="t: "):
        render_text(source, row, "t")
    assert row["choices"] == ["x", "y"], "a template changed its row"


def test_faults_of_syntax_are_named_with_their_line() -> None:
    with pytest.raises(UserError, match=r"f: doc_to_text: .*\(line 2\)"):
        check_template("Q\n{{question", "f: doc_to_text")
    with pytest.raises(UserError, match="No filter named 'shell'"):
        check_template("{{question|shell}}", "f")
