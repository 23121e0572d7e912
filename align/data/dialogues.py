r"""Read dialogues in the shapes they come in, as lists of {"role", "content"} with checked order.

Shapes: OpenAI's `role`/`content`, ShareGPT's `from`/`value`, and hh-rlhf's one string
("\n\nHuman: ... \n\nAssistant: ..."). A fault in a row is a UserError that names the field (the
caller adds file and line). A row that is sound but of no use is `Unusable`: left out and counted.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from align.data.readers import describe
from align.errors import UserError

Message = dict[str, str]
Role = Literal["user", "assistant"]

SHAPE = "a list of {role, content}"
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")


class Unusable(Exception):
    """A well-formed row that cannot serve; `str()` is the reason under which it is counted."""


def read_turns(value: Any, field: str) -> list[Message]:
    """Messages of a dialogue in any shape; their order is not checked.

    Args:
        value: The field's content.
        field: Its name, for errors.

    Raises:
        UserError: Not a dialogue, a message without role or content, an unknown role.
    """
    if isinstance(value, str) and is_hh(value):
        return read_hh(value)
    if not isinstance(value, list) or not value:
        found = describe(value) if value != [] else "an empty list"
        raise UserError(f"field '{field}' is {found}", allowed=SHAPE)
    return [_read_message(turn, f"{field}[{index}]") for index, turn in enumerate(value)]


def _read_message(turn: Any, place: str) -> Message:
    """One message with our role names."""
    if not isinstance(turn, dict):
        raise UserError(f"field '{place}' is {describe(turn)}", allowed="{role, content}")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if role is None:
        raise UserError(
            f"field '{place}' has no role (its keys: {', '.join(map(str, turn))})",
            allowed="{role, content} or {from, value}",
        )
    known = _ROLES.get(role) if isinstance(role, str) else None
    if known is None:
        raise UserError(
            f"field '{place}' has the unknown role {role!r}", allowed="system, user, assistant"
        )
    if not isinstance(content, str):
        raise UserError(f"content of field '{place}' is {describe(content)}", allowed="a string")
    return {"role": known, "content": content}


def check_order(turns: list[Message], field: str, last: Role) -> list[Message]:
    """Require an optional system message, then user and assistant in turn, ending with `last`.

    Returns:
        The turns, unchanged.

    Raises:
        UserError: Roles out of order.
        Unusable: A message without text.
    """
    start = 1 if turns and turns[0]["role"] == "system" else 0
    for index, turn in enumerate(turns[start:]):
        expected = "assistant" if index % 2 else "user"
        if turn["role"] != expected:
            raise UserError(
                f"field '{field}[{start + index}]' has the role '{turn['role']}' out of order",
                allowed=f"'{expected}' there: system (optional), then user and assistant in turn",
            )
    if len(turns) == start or turns[-1]["role"] != last:
        role = turns[-1]["role"] if turns else "nobody"
        raise UserError(
            f"the last message of field '{field}' is from '{role}'", allowed=f"from '{last}'"
        )
    if not all(turn["content"].strip() for turn in turns):
        empty_answer = last == "assistant" and not turns[-1]["content"].strip()
        raise Unusable("empty answer" if empty_answer else "empty message")
    return turns


def is_hh(text: str) -> bool:
    """Whether a text is a dialogue as hh-rlhf writes it."""
    return text.lstrip().startswith("Human:") and "\n\nAssistant:" in text


def read_hh(text: str) -> list[Message]:
    r"""Messages of "\n\nHuman: ... \n\nAssistant: ...", text stripped; a last empty turn is none.

    Source: github.com/anthropics/hh-rlhf (a final "\n\nAssistant:" may be left open in prompts).

    Raises:
        Unusable: Speakers do not alternate. That happens where a person typed such a line, and the
            text cannot be told apart from a turn.
    """
    parts = _HH_TURN.split("\n\n" + text.lstrip())[1:]
    names = {"Human": "user", "Assistant": "assistant"}
    pairs = list(zip(parts[::2], parts[1::2], strict=True))
    turns = [{"role": names[who], "content": said.strip()} for who, said in pairs]
    if len(turns) > 1 and not turns[-1]["content"]:
        turns.pop()
    if any(turn["role"] != ("assistant" if i % 2 else "user") for i, turn in enumerate(turns)):
        raise Unusable("speakers of the hh-rlhf text do not alternate")
    return turns


def as_prompt(value: Any, field: str) -> list[Message]:
    """A prompt as messages that end with the user; a plain string is one user message.

    Raises:
        UserError: Neither a string nor a dialogue, or the last message is not from the user.
        Unusable: No text.
    """
    if isinstance(value, str) and not is_hh(value):
        if not value.strip():
            raise Unusable("empty prompt")
        return [{"role": "user", "content": value.strip()}]
    if not isinstance(value, (str, list)):
        raise UserError(f"field '{field}' is {describe(value)}", allowed=f"a string or {SHAPE}")
    return check_order(read_turns(value, field), field, "user")
