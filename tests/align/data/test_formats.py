"""Every accepted shape of a row against a dict written by hand, and every reason to drop one."""

from typing import Any

import pytest

from align.data.dialogues import Unusable, read_hh
from align.data.formats import Converter, rename
from align.errors import UserError


def said(*contents: str) -> list[dict[str, str]]:
    """A dialogue that the user starts."""
    return [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


def answer(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


SYSTEM = {"role": "system", "content": "Be brief."}

INSTRUCTIONS: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "messages": ({"messages": said("Hi", "Hello"), "id": 3}, said("Hi", "Hello")),
    "messages with a system message": (
        {"messages": [SYSTEM, *said("Hi", "Hello")]},
        [SYSTEM, *said("Hi", "Hello")],
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        said("Hi", "Hello"),
    ),
    "ShareGPT with its system column": (
        {
            "system": "Be brief.",
            "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        },
        [SYSTEM, *said("a", "b")],
    ),
    "prompt and completion as text": (
        {"prompt": "2 + 2 = ", "completion": " 4"},
        said("2 + 2 =", "4"),
    ),
    "prompt and completion as messages": (
        {"prompt": said("a", "b", "c"), "completion": answer("d")},
        said("a", "b", "c", "d"),
    ),
    "prompt and response": ({"prompt": "a", "response": "b"}, said("a", "b")),
    "Alpaca": (
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        said("Add.\n\n1 and 2", "3"),
    ),
    "Alpaca without input": (
        {"instruction": "Greet.", "input": "", "output": "Hi"},
        said("Greet.", "Hi"),
    ),
    "Dolly": (
        {"instruction": "Who?", "context": "Ada wrote.", "response": "Ada", "category": "qa"},
        said("Who?\n\nAda wrote.", "Ada"),
    ),
    "question and answer": ({"question": "Why?", "answer": "So."}, said("Why?", "So.")),
    "OpenOrca": (
        {"system_prompt": "Be brief.", "question": "Why?", "response": "So."},
        [SYSTEM, *said("Why?", "So.")],
    ),
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_become_messages(name: str) -> None:
    row, expected = INSTRUCTIONS[name]
    assert Converter("instructions", {})(row) == {"messages": expected}


HH = "\n\nHuman: Hi\n\nAssistant: Hello. What\n\nis it?\n\nHuman: Why: so?\n\nAssistant: "
HH_TURNS = said("Hi", "Hello. What\n\nis it?", "Why: so?")

PREFERENCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "TRL standard": (
        {"prompt": "Sky?", "chosen": " blue", "rejected": " green"},
        {"prompt": said("Sky?"), "chosen": answer("blue"), "rejected": answer("green")},
    ),
    "explicit prompt, other columns kept": (
        {
            "prompt": said("a", "b", "c"),
            "chosen": answer("d"),
            "rejected": answer("e"),
            "margin": 0.5,
            "kind": "tone",
        },
        {
            "prompt": said("a", "b", "c"),
            "chosen": answer("d"),
            "rejected": answer("e"),
            "margin": 0.5,
            "kind": "tone",
        },
    ),
    "implicit prompt": (
        {"chosen": said("a", "b", "c", "d"), "rejected": said("a", "b", "c", "e")},
        {"prompt": said("a", "b", "c"), "chosen": answer("d"), "rejected": answer("e")},
    ),
    "prompt as text, repeated in the dialogues (UltraFeedback)": (
        {"prompt": "a", "chosen": said("a", "b"), "rejected": said("a", "c"), "score_chosen": 8.0},
        {
            "prompt": said("a"),
            "chosen": answer("b"),
            "rejected": answer("c"),
            "score_chosen": 8.0,
        },
    ),
    "prompt as messages, repeated in the dialogues": (
        {
            "prompt": [SYSTEM, *said("a")],
            "chosen": [SYSTEM, *said("a", "b")],
            "rejected": [SYSTEM, *said("a", "c")],
        },
        {"prompt": [SYSTEM, *said("a")], "chosen": answer("b"), "rejected": answer("c")},
    ),
    "hh-rlhf": (
        {"chosen": HH + "Because.", "rejected": HH + "No.\n"},
        {"prompt": HH_TURNS, "chosen": answer("Because."), "rejected": answer("No.")},
    ),
    "hh-rlhf with the prompt apart": (
        {"prompt": HH.rstrip(), "chosen": " Because.", "rejected": " No."},
        {"prompt": HH_TURNS, "chosen": answer("Because."), "rejected": answer("No.")},
    ),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_get_an_explicit_prompt(name: str) -> None:
    row, expected = PREFERENCES[name]
    assert Converter("preferences", {})(row) == expected


PROMPTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text stays text": ({"prompt": "Once ", "id": 7}, {"prompt": "Once ", "id": 7}),
    "messages": ({"prompt": said("a", "b", "c")}, {"prompt": said("a", "b", "c")}),
    "last answer removed": (
        {"messages": said("a", "b", "c", "d"), "id": 7},
        {"prompt": said("a", "b", "c"), "id": 7},
    ),
    "dialogue that ends with the user": (
        {"messages": said("a", "b", "c")},
        {"prompt": said("a", "b", "c")},
    ),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"prompt": said("a")},
    ),
    "standard preference": (
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1},
        {"prompt": said("a"), "margin": 1},
    ),
    "implicit preference": (
        {"chosen": said("a", "b", "c", "d"), "rejected": said("a", "b", "c", "e")},
        {"prompt": said("a", "b", "c")},
    ),
    "hh-rlhf": ({"chosen": HH + "x", "rejected": HH + "y"}, {"prompt": HH_TURNS}),
    "question keeps its answer for the reward function": (
        {"question": "2 + 2?", "answer": "4", "context": "sums"},
        {"prompt": said("2 + 2?"), "answer": "4", "context": "sums"},
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        {"prompt": said("Add.\n\n1 and 2"), "output": "3"},
    ),
    "plain text": ({"text": "Once", "id": 7}, {"prompt": "Once", "id": 7}),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_keep_other_columns(name: str) -> None:
    row, expected = PROMPTS[name]
    assert Converter("prompts", {})(row) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": " Once.\n", "id": 1}, " Once.\n"),
        ({"content": "Once."}, "Once."),
        ({"messages": said("a", "b")}, "a\n\nb"),
    ],
)
def test_text_is_kept_as_it_is(row: dict[str, Any], expected: str) -> None:
    assert Converter("text", {})(row) == {"text": expected}


def test_table_rows_only_get_new_names() -> None:
    convert = Converter("table", {"text": "sentence", "gold": "label"})
    assert convert({"sentence": "x", "label": 1, "id": 0}) == {"text": "x", "gold": 1, "id": 0}


def test_renaming_can_swap_copy_and_replace() -> None:
    row = {"a": 1, "b": 2, "c": 3}
    assert rename(row, {"a": "b", "b": "a"}) == {"a": 2, "b": 1, "c": 3}
    assert rename(row, {"x": "a", "y": "a"}) == {"x": 1, "y": 1, "b": 2, "c": 3}
    assert rename(row, {"a": "c"}) == {"a": 3, "b": 2}


UNUSABLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "identical": (
        "preferences",
        {"prompt": "a", "chosen": "b ", "rejected": " b"},
        "identical answers",
    ),
    "identical but for spaces": (
        "preferences",
        {"prompt": said("a"), "chosen": answer("b\n"), "rejected": answer("b")},
        "identical answers",
    ),
    "no chosen": ("preferences", {"prompt": "a", "chosen": "", "rejected": "b"}, "empty answer"),
    "null answer": (
        "preferences",
        {"prompt": "a", "chosen": "b", "rejected": None},
        "empty answer",
    ),
    "marked tie": (
        "preferences",
        {"prompt": "a", "chosen": "b", "rejected": "c", "tie": True},
        "tie",
    ),
    "equal scores": (
        "preferences",
        {
            "chosen": said("a", "b"),
            "rejected": said("a", "c"),
            "score_chosen": 5,
            "score_rejected": 5,
        },
        "tie",
    ),
    "other prompt": (
        "preferences",
        {"chosen": said("a", "b"), "rejected": said("A", "c")},
        "the two dialogues differ before the last answer",
    ),
    "one dialogue is longer": (
        "preferences",
        {"chosen": said("a", "b"), "rejected": said("a", "b", "c", "d")},
        "the two dialogues differ before the last answer",
    ),
    "two speakers in a row": (
        "preferences",
        {"chosen": HH + "x\n\nAssistant: y", "rejected": HH + "z"},
        "speakers of the hh-rlhf text do not alternate",
    ),
    "empty text": ("text", {"text": " \n"}, "empty text"),
    "null text": ("text", {"text": None}, "empty text"),
    "empty prompt": ("prompts", {"prompt": " "}, "empty prompt"),
    "pair without a prompt": (
        "preferences",
        {"prompt": " ", "chosen": "a", "rejected": "b"},
        "empty prompt",
    ),
    "empty instruction": ("instructions", {"instruction": "", "output": "x"}, "empty prompt"),
    "empty output": ("instructions", {"instruction": "a", "output": " "}, "empty answer"),
    "empty last message": ("instructions", {"messages": said("a", " ")}, "empty answer"),
    "empty message within": (
        "instructions",
        {"messages": said("a", "", "c", "d")},
        "empty message",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_rows_of_no_use_say_why(name: str) -> None:
    kind, row, reason = UNUSABLE[name]
    with pytest.raises(Unusable) as caught:
        Converter(kind, {})(row)  # type: ignore[arg-type]
    assert str(caught.value) == reason


def test_equal_scores_only_count_where_there_are_scores() -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": None, "tie": False}
    assert Converter("preferences", {})(row)["chosen"] == answer("b")


def test_hh_prompt_may_leave_the_answer_open() -> None:
    assert read_hh("\n\nHuman: a\n\nAssistant:") == said("a")
    assert read_hh("Human: a\n\nAssistant: b") == said("a", "b")


def test_later_rows_must_have_the_format_of_the_first() -> None:
    convert = Converter("instructions", {})
    convert({"messages": said("a", "b")})
    with pytest.raises(UserError, match="field 'messages' is missing; found: 'prompt', 'response'"):
        convert({"prompt": "a", "response": "b"})


def test_unknown_fields_are_listed_with_those_accepted() -> None:
    with pytest.raises(UserError) as caught:
        Converter("preferences", {})({"promt": "a", "choosen": "b"})
    line = str(caught.value)
    assert "found: 'promt', 'choosen'" in line
    assert "allowed: prompt + chosen + rejected | chosen + rejected" in line
    assert "'promt': did you mean 'prompt'?" in line
