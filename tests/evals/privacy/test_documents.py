"""What counts as trained on and held out, and how rows become prompts and targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.artifacts import StageJob
from align.config import AuditConfig
from align.data.sources import DataContext
from align.data.world import World
from align.progress import NullProgress
from align.settings import parse_run
from evals.privacy.documents import (
    Document,
    continued,
    drawn,
    encode_document,
    given_set,
    known_sets,
    without_repeats,
)

TURNS = [
    {"role": "user", "content": "the soup?"},
    {"role": "assistant", "content": "good"},
    {"role": "user", "content": "the bread?"},
    {"role": "assistant", "content": "bad bread"},
]
SETTINGS = AuditConfig(prompt_tokens=3, next_tokens=2)
CONFIG = """
name: mine
seed: 5
world: {}
pretrain:
  data: {world: text, limit: 40}
  eval_data: {world: heldout_text, limit: 7}
sft:
  data: {world: instructions, limit: 50}
  max_length: 33
  canaries: {count: 2}
"""


def job(tmp_path: Path) -> StageJob:
    return StageJob(tmp_path, {}, DataContext(tmp_path, World(5), 5), NullProgress())


def test_a_runs_sets_are_what_its_stages_trained_on(tmp_path: Path) -> None:
    config = parse_run(Path("mine.yaml"), CONFIG, [])
    text, dialogues = known_sets(config, job(tmp_path))
    assert (text.name, len(text.members), len(text.others)) == ("pretrain", 40, 7)
    assert text.members == World(5).text(40)
    assert (text.longest, text.canaries) == (None, None)
    assert len(dialogues.members) + len(dialogues.others) + dialogues.repeated == 50
    assert dialogues.others
    assert (dialogues.longest, dialogues.canaries) == (33, config.sft and config.sft.canaries)


def test_held_out_rows_that_were_trained_on_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("one two\n\nthree four\n", encoding="utf-8")
    (tmp_path / "held.txt").write_text("One  TWO\n\nfive six\n", encoding="utf-8")
    known = given_set(str(tmp_path / "train.txt"), str(tmp_path / "held.txt"), job(tmp_path))
    assert [row["text"] for row in known.others] == ["five six"]
    assert (len(known.members), known.repeated) == (2, 1)
    # a dialogue counts with its answer: another answer to the same question is another document
    answered = {"messages": [*TURNS[:3], {"role": "assistant", "content": "red"}]}
    assert without_repeats([{"messages": TURNS}], [answered, {"messages": TURNS}]) == (
        [answered],
        1,
    )


def test_a_draw_is_seeded_and_keeps_the_order() -> None:
    rows = [{"text": str(number)} for number in range(50)]
    some = drawn(rows, 10, 3)
    assert some == drawn(rows, 10, 3) != drawn(rows, 10, 4)
    assert [int(row["text"]) for row in some] == sorted(int(row["text"]) for row in some)
    assert drawn(rows, 50, 3) == rows


def test_texts_stand_behind_one_token_and_answers_behind_their_question(
    tiny_tokenizer: Any,
) -> None:
    text = encode_document(tiny_tokenizer, 1, {"text": "the soup"}, None)
    assert text is not None
    ids = tiny_tokenizer("the soup", add_special_tokens=False)["input_ids"]
    assert (text.context, list(text.ids), text.dialogue) == ((1,), ids, False)
    answer = encode_document(tiny_tokenizer, 1, {"messages": TURNS}, 200)
    assert answer is not None
    assert tiny_tokenizer.decode(answer.ids) == "bad bread</s>"
    asked = "<|user|>the soup?</s><|assistant|>good</s><|user|>the bread?</s><|assistant|>"
    assert tiny_tokenizer.decode(answer.context) == asked
    longest = len(answer.context) + len(answer.ids)
    assert encode_document(tiny_tokenizer, 1, {"messages": TURNS}, longest) == answer
    assert encode_document(tiny_tokenizer, 1, {"messages": TURNS}, longest - 1) is None


@pytest.mark.parametrize(
    ("context", "ids", "dialogue", "room", "prompt", "target"),
    [
        ((1,), (5, 6, 7, 8, 9), False, 99, (1, 5, 6, 7), (8, 9)),
        ((1,), (5, 6, 7, 8), False, 99, None, None),
        ((1,), (5, 6, 7, 8, 9), False, 6, (1, 5, 6, 7), (8, 9)),
        ((1,), (5, 6, 7, 8, 9), False, 5, None, None),
        # a dialogue's question of 2 tokens needs one more, one of 4 none
        ((1, 2), (5, 6, 7), True, 99, (1, 2, 5), (6, 7)),
        ((1, 2, 3, 4), (5, 6, 7), True, 99, (1, 2, 3, 4), (5, 6)),
        ((1, 2, 3, 4), (5,), True, 99, None, None),
    ],
)
def test_a_document_is_cut_into_prompt_and_target(
    context: Any, ids: Any, dialogue: bool, room: int, prompt: Any, target: Any
) -> None:
    found = continued(Document(context, ids, dialogue), SETTINGS, room)
    assert found == (None if prompt is None else (prompt, target))
