"""One function a shape of row: text, instructions, preferences and prompts out of public formats.

Each takes a row that has the fields its entry in `align.data.formats.FORMATS` names, and returns
the row in the format of the stages. A faulty row raises UserError without a place (the caller knows
file and line), a row of no use raises `Unusable`. Columns that are not part of the format are kept
for preferences and prompts, where reward functions receive them.
"""

from __future__ import annotations

from typing import Any

from align.data.dialogues import (
    SHAPE,
    Message,
    Unusable,
    as_prompt,
    check_order,
    is_hh,
    read_turns,
)
from align.data.readers import Row, describe
from align.errors import UserError


def _string(row: Row, field: str) -> str:
    """A text field; null reads as no text."""
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"field '{field}' is {describe(value)}", allowed="a string")
    return value


def _first(row: Row, *fields: str) -> str:
    """The first of several fields that the row has."""
    return next(field for field in fields if field in row)


def _without(row: Row, *fields: str) -> Row:
    return {name: value for name, value in row.items() if name not in fields}


# text


def plain_text(row: Row) -> Row:
    """The text as it is."""
    text = _string(row, _first(row, "text", "content"))
    if not text.strip():
        raise Unusable("empty text")
    return {"text": text}


def joined_text(row: Row) -> Row:
    """The contents of a dialogue as paragraphs; who speaks is left out."""
    turns = read_turns(row["messages"], "messages")
    return plain_text({"text": "\n\n".join(turn["content"] for turn in turns)})


# instructions


def _system(row: Row) -> list[Message]:
    """The system message that some sets keep in a field of its own."""
    text = _string(row, "system") or _string(row, "system_prompt")
    return [{"role": "system", "content": text}] if text.strip() else []


def _question(row: Row) -> list[Message]:
    """The user's side of Alpaca (instruction, input), Dolly (context) and question-answer rows."""
    if "instruction" in row:
        parts = [_string(row, "instruction"), _string(row, "input") or _string(row, "context")]
    else:
        parts = [_string(row, "question")]
    if not parts[0].strip():
        raise Unusable("empty prompt")
    content = "\n\n".join(part.strip() for part in parts if part.strip())
    return [*_system(row), {"role": "user", "content": content}]


def dialogue(row: Row) -> Row:
    """Messages, or ShareGPT's conversations."""
    field = _first(row, "messages", "conversations")
    turns = read_turns(row[field], field)
    if turns[0]["role"] != "system":
        turns = _system(row) + turns
    return {"messages": check_order(turns, field, "assistant")}


def completion(row: Row) -> Row:
    """Prompt and completion, each a string or messages."""
    prompt = as_prompt(row["prompt"], "prompt")
    field = _first(row, "completion", "response")
    answer = _turns_of_answer(row[field], field)
    return {"messages": check_order(prompt + answer, f"prompt + {field}", "assistant")}


def answered(row: Row) -> Row:
    """A question or instruction and its answer."""
    answer = _string(row, _first(row, "output", "response", "answer")).strip()
    if not answer:
        raise Unusable("empty answer")
    return {"messages": [*_question(row), {"role": "assistant", "content": answer}]}


# preferences


def _turns_of_answer(value: Any, field: str) -> list[Message]:
    """An answer as messages; a string is one message of the assistant."""
    if value is None:
        raise Unusable("empty answer")
    if isinstance(value, str) and not is_hh(value):
        return [{"role": "assistant", "content": value.strip()}]
    if not isinstance(value, (str, list)):
        raise UserError(f"field '{field}' is {describe(value)}", allowed=f"a string or {SHAPE}")
    return read_turns(value, field)


def _whole(row: Row, field: str) -> list[Message]:
    """The dialogue that ends with an answer, whether or not the answer repeats the prompt."""
    turns = _turns_of_answer(row[field], field)
    if "prompt" not in row:
        if isinstance(row[field], str) and not is_hh(row[field]):
            raise UserError(
                f"field '{field}' is a plain answer, and there is no field 'prompt'",
                allowed="prompt + chosen + rejected, or whole dialogues in chosen and rejected",
            )
        return check_order(turns, field, "assistant")
    prompt = as_prompt(row["prompt"], "prompt")
    if turns[0]["role"] == "assistant":
        return check_order(prompt + turns, f"prompt + {field}", "assistant")
    said = [turn["content"].strip() for turn in turns[:-1]]
    if turns[: len(prompt)] != prompt and prompt[-1]["content"].strip() not in said:
        raise UserError(
            f"field '{field}' starts a dialogue that does not repeat 'prompt'",
            allowed="an answer to the prompt, or the prompt's messages and the answer",
        )
    return check_order(turns, field, "assistant")


def preference(row: Row) -> Row:
    """A pair with an explicit prompt: all that both dialogues share before their last message."""
    chosen, rejected = _whole(row, "chosen"), _whole(row, "rejected")
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("the two dialogues differ before the last answer")
    if chosen[-1]["content"].strip() == rejected[-1]["content"].strip():
        raise Unusable("identical answers")
    if _tied(row):
        raise Unusable("tie")
    pair = {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}
    return pair | _without(row, *pair)


def judged(row: Row) -> Row:
    """Two outputs and the number, 1 or 2, of the better one (LLMBar, AlpacaFarm, PandaLM)."""
    first, second = ("output_1", "output_2") if "output_1" in row else ("response1", "response2")
    field = _first(row, "label", "preference", "annotator1")
    better = row[field]
    if better == 0:
        raise Unusable("tie")
    if isinstance(better, bool) or better not in (1, 2):
        raise UserError(f"field '{field}' is {describe(better)}", allowed="1 or 2; 0 for a tie")
    asked = _question(row if "instruction" in row else row | {"question": row["input"]})
    sides = (first, second) if better == 1 else (second, first)
    chosen, rejected = (_string(row, side) for side in sides)
    used = (first, second, field, "instruction", "input", "question")
    return preference(
        {"prompt": asked, "chosen": chosen, "rejected": rejected} | _without(row, *used)
    )


def _tied(row: Row) -> bool:
    """Whether the annotators saw no difference: `tie` is true, or both scores are equal."""
    scores = row.get("score_chosen"), row.get("score_rejected")
    return row.get("tie") is True or (scores[0] is not None and scores[0] == scores[1])


# prompts


def prompt(row: Row) -> Row:
    """A prompt that stays what it is: a string (plain text) or messages."""
    value = row["prompt"]
    if isinstance(value, str) and not is_hh(value):
        if not value.strip():
            raise Unusable("empty prompt")
        return row
    return row | {"prompt": as_prompt(value, "prompt")}


def prompt_of_dialogue(row: Row) -> Row:
    """A dialogue without its last answer."""
    field = _first(row, "messages", "conversations")
    turns = read_turns(row[field], field)
    turns = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    return {"prompt": check_order(turns, field, "user")} | _without(row, field)


def prompt_of_preference(row: Row) -> Row:
    """The prompt of a pair, as the preferences have it; the answers are left out."""
    if "prompt" in row and not isinstance(row["chosen"], list):
        prompt = as_prompt(row["prompt"], "prompt")
    else:
        prompt = _whole(row, "chosen")[:-1]
    return {"prompt": prompt} | _without(row, "prompt", "chosen", "rejected")


def prompt_of_question(row: Row) -> Row:
    """A question or instruction; the reference answer stays as a column."""
    parts = ("instruction", "input", "context") if "instruction" in row else ("question",)
    return {"prompt": _question(row)} | _without(row, *parts, "system", "system_prompt")


def prompt_of_text(row: Row) -> Row:
    """A text to be continued."""
    return {"prompt": plain_text(row)["text"]} | _without(row, "text")


def first_words(row: Row, number: int) -> Row:
    """A prompt that is only the first words of a text.

    Raises:
        UserError: The prompt is a conversation.
        Unusable: The text has no more words than that.
    """
    if not isinstance(row["prompt"], str):
        raise UserError("`words` cuts plain texts, and this prompt is a conversation")
    words = row["prompt"].split()
    if len(words) <= number:
        raise Unusable(f"no more than {number} words")
    return row | {"prompt": " ".join(words[:number])}
