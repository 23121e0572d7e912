"""How questions reach the model: plain text, examples, chat template."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from align.data.encoding import encode_prompt
from align.errors import UserError
from evals.schema import Definition, MetricEntry, ShotsConfig
from evals.shots import Asking, row_text, shown

ROWS: list[dict[str, Any]] = [{"q": f"{n} + 1", "y": str(n + 1)} for n in range(8)]


def definition(**changes: Any) -> Definition:
    settings: dict[str, Any] = {
        "task": "t",
        "output_type": "generate_until",
        "doc_to_text": "Q: {{q}}\nA:",
        "doc_to_target": "y",
        "metric_list": (MetricEntry(metric="exact_match"),),
    }
    return Definition(**settings | changes)


def prompts(asking: Asking, rows: list[dict[str, Any]]) -> list[Any]:
    return asking.prompts(rows, asking.documents(rows))


def test_plain_text_is_joined_as_in_lm_evaluation_harness() -> None:
    first = definition(description="Add.\n\n", fewshot_config=ShotsConfig(sampler="first_n"))
    asked = prompts(Asking("t", first, shots=2), ROWS)
    # The first rows for every item, but never the item itself.
    assert asked[5] == "Add.\n\nQ: 0 + 1\nA: 1\n\nQ: 1 + 1\nA: 2\n\nQ: 5 + 1\nA:"
    assert asked[0] == "Add.\n\nQ: 1 + 1\nA: 2\n\nQ: 2 + 1\nA: 3\n\nQ: 0 + 1\nA:"
    other = definition(target_delimiter="\n", fewshot_delimiter="#")
    text = prompts(Asking("t", other, shots=1, examples=tuple(ROWS[:1])), ROWS[1:2])
    assert text == ["Q: 0 + 1\nA:\n1#Q: 1 + 1\nA:"]
    spaced = definition(doc_to_target="{{' ' + y}}")
    text = prompts(Asking("t", spaced, shots=1, examples=tuple(ROWS[:1])), ROWS[1:2])
    # 0.4.13 joins question, delimiter and answer whatever the answer begins with.
    assert text == ["Q: 0 + 1\nA:  1\n\nQ: 1 + 1\nA:"]


def test_the_description_sees_the_row() -> None:
    about = definition(description="About {{q}}.\n")
    assert prompts(Asking("t", about), ROWS[:1]) == ["About 0 + 1.\nQ: 0 + 1\nA:"]


def test_an_item_is_never_among_its_examples() -> None:
    # Every other row is shown, so one more example cannot be had; a copy is the item too.
    rows = [*ROWS, dict(ROWS[3])]
    asked = prompts(Asking("t", definition(), shots=7), rows)
    for row, prompt in zip(rows, asked, strict=True):
        *examples, _ = prompt.split("\n\n")
        assert len(examples) == 7
        assert not any(text.startswith(f"Q: {row['q']}\n") for text in examples)
    with pytest.raises(UserError, match=r"evals\.tasks\.t: 8 examples .* only 7 other rows"):
        prompts(Asking("t", definition(), shots=8), rows)
    # Rows of their own may hold the item as well.
    foreign = Asking("t", definition(), shots=7, examples=tuple(ROWS))
    assert "Q: 3 + 1\nA: 4" not in prompts(foreign, [ROWS[3]])[0]


def test_examples_depend_on_item_and_seed_alone() -> None:
    asking = Asking("t", definition(), shots=3, seed=5, examples=tuple(ROWS))
    together = dict(zip(map(str, ROWS), prompts(asking, ROWS), strict=True))
    for row in reversed(ROWS):
        assert prompts(asking, [row]) == [together[str(row)]]
    drawn = {tuple(p.split("\n\n")[:-1]) for p in together.values()}
    assert len(drawn) > 1, "each item has its own"
    other = prompts(Asking("t", definition(), shots=3, seed=6, examples=tuple(ROWS)), ROWS)
    assert other != list(together.values())


def test_draws_are_uniform_enough() -> None:
    rows = [{"q": str(n), "y": "a"} for n in range(400)]
    asked = prompts(Asking("t", definition(), shots=1, examples=tuple(ROWS)), rows)
    counts = {
        key: len(list(group))
        for key, group in itertools.groupby(sorted(prompt.split("\n")[0] for prompt in asked))
    }
    # 400 draws of 8: mean 50, standard deviation 6.6; five of them either way.
    assert len(counts) == 8
    assert all(17 < count < 83 for count in counts.values())


def test_chat_has_turns_and_no_delimiter(tiny_tokenizer: Any) -> None:
    first = definition(description="Add.\n\n", fewshot_config=ShotsConfig(sampler="first_n"))
    asking = Asking("t", first, shots=1, chat=True, system="Be brief.")
    (prompt,) = prompts(asking, ROWS[4:5] + ROWS[5:6])[:1]
    assert prompt == [
        {"role": "system", "content": "Be brief.\n\nAdd."},
        {"role": "user", "content": "Q: 5 + 1\nA:"},
        {"role": "assistant", "content": "6"},
        {"role": "user", "content": "Q: 4 + 1\nA:"},
    ]
    request = asking.request(tiny_tokenizer, prompt, asking.answer("5"))
    assert list(request.context) == encode_prompt(tiny_tokenizer, prompt)
    assert tiny_tokenizer.decode(request.continuation) == "5"
    assert shown(prompt).endswith("assistant: 6\nuser: Q: 4 + 1\nA:")


def test_plain_answers_follow_the_delimiter(tiny_tokenizer: Any) -> None:
    asking = Asking("t", definition())
    request = asking.request(tiny_tokenizer, "Answer:  ", asking.answer("good"))
    assert tiny_tokenizer.decode(request.context) == "Answer:"
    # Trailing spaces of the context belong to the continuation.
    assert tiny_tokenizer.decode(request.continuation) == "   good"
    # HellaSwag's endings begin with a space where a mark such as [title] was taken out.
    request = asking.request(tiny_tokenizer, "Answer:", asking.answer(" good"))
    assert tiny_tokenizer.decode(request.continuation) == "  good"
    assert tiny_tokenizer.decode(asking.ids(tiny_tokenizer, "Answer: ")) == "Answer:"


def test_all_text_of_a_row_counts_for_overlap() -> None:
    row = {"id": 3, "question": "why", "choices": {"text": ["a", "b"], "label": []}, "none": None}
    assert row_text(row) == "why a b"
