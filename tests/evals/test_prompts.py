"""Held-out prompts with scripted answers: lengths, ends, scores and what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from align.errors import UserError
from align.generation import Response
from evals.engine import Engine
from evals.prompts import Answering, PromptsTask
from evals.score import estimate
from evals.stats import Resampling

HOW = Answering(temperature=0.7, max_prompt_length=20, max_new_tokens=5, seed=3)
ROWS = [
    {"prompt": [{"role": "user", "content": "soup ?"}], "word": "soup"},
    {"prompt": "the bread", "word": "bread"},
]


class Scripted(Engine):
    """An engine that answers the first prompt with an end and cuts the second answer off."""

    def sample(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, seed: int
    ) -> list[Response]:
        """Three tokens with EOS, and five without."""
        self.asked = (len(prompts), max_new_tokens, temperature, seed)
        end = self.tokenizer.eos_token_id
        good, soup = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in "gx")
        ended = Response([*good, *soup, end], [0.0] * 3, True)
        return [ended, Response((good * 5)[:5], [0.0] * 5, False)][: len(prompts)]


@pytest.fixture
def scripted(tiny_model: Any, tiny_tokenizer: Any) -> Scripted:
    return Scripted(tiny_model, tiny_tokenizer)


def test_lengths_leave_out_the_end_token(scripted: Scripted) -> None:
    task = PromptsTask(HOW, {})
    result = task.evaluate(scripted, ROWS)
    assert scripted.asked == (2, 5, 0.7, 3)
    values = {m.name: estimate(m, result, Resampling(200)) for m in task.metrics}
    assert values["length"].value == (2 + 5) / 2
    assert values["finished"].value == 0.5
    assert values["finished"].method == "Wilson, 0.95"
    assert [sample["response"] for sample in result.samples] == ["gx", "ggggg"]


def test_scores_see_prompts_completions_and_columns_as_in_trl(scripted: Scripted) -> None:
    seen: list[Any] = []

    def score(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float]:
        seen.extend([prompts, completions, columns])
        return [1.5, -0.5]

    result = PromptsTask(HOW, {"reward": lambda: score}).evaluate(scripted, ROWS)
    # A dialogue is answered by a message, plain text by text.
    answers = [[{"role": "assistant", "content": "gx"}], "ggggg"]
    end = scripted.tokenizer.eos_token_id
    g, x = (scripted.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in "gx")
    columns = {"word": ["soup", "bread"], "completion_ids": [[g, x, end], [g] * 5]}
    assert seen == [[row["prompt"] for row in ROWS], answers, columns]
    assert result.stats["reward"].tolist() == [[1.5, 1], [-0.5, 1]]
    assert [sample["scores"] for sample in result.samples] == [{"reward": 1.5}, {"reward": -0.5}]


def test_parts_add_up_and_what_is_silent_is_left_out(scripted: Scripted) -> None:
    scores: Any = {
        "reward": lambda: lambda prompts, **_: [1.0, 2.0],
        "score/half": lambda: lambda prompts, **_: [3.0, None],
    }

    def total(said: Mapping[str, Any]) -> Any:
        return said["reward"] + np.nan_to_num(said["score/half"])

    task = PromptsTask(HOW, scores, total)
    result = task.evaluate(scripted, ROWS)
    assert result.stats["score/half"].tolist() == [[3, 1], [0, 0]]
    assert [sample["scores"] for sample in result.samples] == [
        {"score": 4.0, "reward": 1.0, "score/half": 3.0},
        {"score": 2.0, "reward": 2.0, "score/half": None},
    ]
    values = {m.name: estimate(m, result, Resampling(200)) for m in task.metrics}
    assert list(values)[:3] == ["score", "reward", "score/half"]
    assert (values["score"].value, values["score"].n) == (3.0, 2)
    assert (values["score/half"].value, values["score/half"].n) == (3.0, 1)
    assert "score = the weighted sum" in task.definition


def test_reward_model_and_gold_may_not_be_silent_and_failures_are_named(
    scripted: Scripted,
) -> None:
    task = PromptsTask(HOW, {"gold": lambda: lambda prompts, **_: [None, 1.0]})
    with pytest.raises(UserError, match="task prompts: gold is silent on a response"):
        task.evaluate(scripted, ROWS)

    def broken(prompts: list[Any], word: list[str], **_: Any) -> list[float]:
        return [1 / (name != "bread") for name in word]

    task = PromptsTask(HOW, {"score/mine": lambda: broken})
    with pytest.raises(UserError, match=r"reward function mine failed on response 1 'ggggg'"):
        task.evaluate(scripted, ROWS)


def test_long_prompts_are_missing_as_in_training(scripted: Scripted) -> None:
    rows = [*ROWS, {"prompt": "soup " * 40, "word": "x"}]
    result = PromptsTask(HOW, {}).evaluate(scripted, rows)
    assert result.missing == {"longer than 20 tokens": 1}
    assert scripted.asked[0] == 2
    with pytest.raises(UserError, match="task prompts: no item could be scored"):
        PromptsTask(HOW, {}).evaluate(scripted, rows[2:])


def test_dialogues_are_shown_with_their_roles(scripted: Scripted) -> None:
    turns = [("user", "soup ?"), ("assistant", "x"), ("user", "bread ?")]
    prompt = [{"role": role, "content": text} for role, text in turns]
    task = PromptsTask(Answering(1.0, 60, 5, 0), {})
    result = task.evaluate(scripted, [{"prompt": prompt}, ROWS[0]])
    shown = [sample["prompt"] for sample in result.samples]
    assert shown == ["user: soup ?\nassistant: x\nuser: bread ?", "soup ?"]
