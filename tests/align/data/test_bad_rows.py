"""Faulty rows: one line that names the file, the line and the field, never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest

from align.config import SourceConfig
from align.data import DataContext, load_rows
from align.errors import UserError


def turns(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


GOOD = turns(("user", "a"), ("assistant", "b"))
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}

# name: kind, rows of x.jsonl, what the error says, in this order
CASES: dict[str, tuple[str, list[Any], list[str]]] = {
    "a number for a row": ("text", [{"text": "a"}, 12], ["x.jsonl:2: the row is a number (12)"]),
    "field of another name": (
        "preferences",
        [{"promt": "a", "chosen": "b", "reject": "c"}],
        [
            "x.jsonl:1: no preferences format has these fields; found: 'promt', 'chosen', 'reject'",
            "allowed: prompt + chosen + rejected",
            "'promt': did you mean 'prompt'?",
        ],
    ),
    "columns that change": (
        "instructions",
        [GOOD, {"prompt": "a", "response": "b"}],
        ["x.jsonl:2: field 'messages' is missing; found: 'prompt', 'response'"],
    ),
    "messages as a string": (
        "instructions",
        [GOOD, {"messages": "a"}],
        ["x.jsonl:2: field 'messages' is a string ('a'); allowed: a list of {role, content}"],
    ),
    "no messages": (
        "instructions",
        [{"messages": []}],
        ["x.jsonl:1: field 'messages' is an empty list; allowed: a list of {role, content}"],
    ),
    "message as a string": (
        "instructions",
        [{"messages": ["a"]}],
        ["x.jsonl:1: field 'messages[0]' is a string ('a'); allowed: {role, content}"],
    ),
    "message without role": (
        "instructions",
        [{"messages": [{"text": "a"}]}],
        ["x.jsonl:1: field 'messages[0]' has no role (its keys: text)"],
    ),
    "content that is no text": (
        "instructions",
        [turns(("user", "a"), ("assistant", None))],
        ["x.jsonl:1: content of field 'messages[1]' is null; allowed: a string"],
    ),
    "unknown role": (
        "instructions",
        [GOOD, turns(("user", "a"), ("tool", "b"))],
        ["x.jsonl:2: field 'messages[1]' has the unknown role 'tool'; allowed: system, user"],
    ),
    "role that is no text": (
        "instructions",
        [turns((["user"], "a"))],
        ["x.jsonl:1: field 'messages[0]' has the unknown role ['user']"],
    ),
    "roles out of order": (
        "instructions",
        [turns(("user", "a"), ("user", "b"), ("assistant", "c"))],
        ["x.jsonl:1: field 'messages[1]' has the role 'user' out of order; allowed: 'assistant'"],
    ),
    "late system message": (
        "instructions",
        [turns(("user", "a"), ("system", "b"), ("assistant", "c"))],
        ["x.jsonl:1: field 'messages[1]' has the role 'system' out of order"],
    ),
    "assistant first": (
        "instructions",
        [turns(("system", "a"), ("assistant", "b"))],
        ["x.jsonl:1: field 'messages[1]' has the role 'assistant' out of order; allowed: 'user'"],
    ),
    "no answer": (
        "instructions",
        [turns(("user", "a"))],
        [
            "x.jsonl:1: the last message of field 'messages' is from 'user'",
            "allowed: from 'assistant'",
        ],
    ),
    "only a system message": (
        "prompts",
        [{"prompt": turns(("system", "a"))["messages"]}],
        ["x.jsonl:1: the last message of field 'prompt' is from 'system'; allowed: from 'user'"],
    ),
    "prompt that ends with an answer": (
        "prompts",
        [{"prompt": GOOD["messages"]}],
        ["x.jsonl:1: the last message of field 'prompt' is from 'assistant'; allowed: from 'user'"],
    ),
    "prompt as a number": (
        "prompts",
        [{"prompt": 3}],
        ["x.jsonl:1: field 'prompt' is a number (3); allowed: a string or a list of"],
    ),
    "answer as a list": (
        "instructions",
        [{"instruction": "a", "output": ["b"]}],
        ["x.jsonl:1: field 'output' is a list (['b']); allowed: a string"],
    ),
    "chosen as a number": (
        "preferences",
        [PAIR, PAIR | {"chosen": 3}],
        ["x.jsonl:2: field 'chosen' is a number (3); allowed: a string or a list of"],
    ),
    "rejected without an answer": (
        "preferences",
        [PAIR | {"rejected": turns(("user", "a"), ("assistant", "b"), ("user", "c"))["messages"]}],
        ["x.jsonl:1: the last message of field 'rejected' is from 'user'"],
    ),
    "answers without a prompt": (
        "preferences",
        [{"chosen": "b", "rejected": "c"}],
        ["x.jsonl:1: field 'chosen' is a plain answer, and there is no field 'prompt'"],
    ),
    "dialogue on another prompt": (
        "preferences",
        [PAIR | {"prompt": "z", "chosen": GOOD["messages"]}],
        ["x.jsonl:1: field 'chosen' starts a dialogue that does not repeat 'prompt'"],
    ),
    "empty content": (
        "instructions",
        [turns(("user", " "), ("assistant", "b"))],
        ["x.jsonl: no rows to use: 1 left out (1 empty message; the first at ", "x.jsonl:1)"],
    ),
    "nothing left": (
        "preferences",
        [PAIR | {"rejected": "b"}, PAIR | {"rejected": ""}],
        [
            "x.jsonl: no rows to use: 2 left out (1 empty answer, 1 identical answers;",
            "the first at ",
            "x.jsonl:1)",
        ],
    ),
}


def check(error: UserError, expected: list[str]) -> None:
    """The message is one line and holds the expected parts in their order."""
    line, position = str(error), 0
    assert "\n" not in line
    for part in expected:
        assert part in line[position:], line
        position = line.index(part, position) + len(part)


@pytest.mark.parametrize("name", CASES)
def test_faulty_rows_are_named_in_one_line(tmp_path: Path, name: str) -> None:
    kind, rows, expected = CASES[name]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    with pytest.raises(UserError) as caught:
        load_rows(SourceConfig(path="x.jsonl"), kind, DataContext(tmp_path, None, 0))  # type: ignore[arg-type]
    check(caught.value, expected)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"sentence": "a"}\n', "utf-8")
    source = SourceConfig(path="x.jsonl", columns={"text": "sentense"})
    with pytest.raises(UserError) as caught:
        load_rows(source, "table", DataContext(tmp_path, None, 0))
    what = "x.jsonl:1: column 'sentense' (for 'text') is missing; found: 'sentence'"
    check(caught.value, [what, "did you mean 'sentence'?"])


def test_line_breaks_in_a_value_do_not_break_the_line(tmp_path: Path) -> None:
    row = json.dumps({"messages": "a\nb\r\x1b[31m" + "c" * 500})
    (tmp_path / "x.jsonl").write_text(row, "utf-8")
    with pytest.raises(UserError) as caught:
        load_rows(SourceConfig(path="x.jsonl"), "instructions", DataContext(tmp_path, None, 0))
    check(caught.value, [r"a string ('a\nb\r\x1b[31mccc", "...); allowed:"])
    assert len(str(caught.value)) < 300
