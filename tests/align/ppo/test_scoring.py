"""Scores from reward functions: TRL's convention, sums, and refusals."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from align.errors import UserError
from align.ppo.prompts import PromptBatch
from align.ppo.scoring import as_completions, sample_rows, score_responses
from align.ppo.terms import name_of

CHAT = [{"role": "user", "content": "hi"}]
BATCH = PromptBatch(["a", "b"], [[3], [4]], {"gold": [10, 20]})


def test_functions_see_prompts_completions_and_columns_and_are_added() -> None:
    seen: dict[str, Any] = {}

    def length(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, **columns)
        return [float(len(text)) for text in completions]

    def column(completions: list[str], gold: list[int], **_: Any) -> list[int]:
        return gold

    scores = score_responses([length, column], BATCH, ["xyz", ""])
    assert scores.total.tolist() == [13.0, 20.0]
    assert scores.total.dtype == torch.float32
    assert {name: said.tolist() for name, said in scores.parts.items()} == {
        "length": [3.0, 0.0],
        "column": [10.0, 20.0],
    }
    assert seen == {"prompts": ["a", "b"], "completions": ["xyz", ""], "gold": [10, 20]}


def test_a_completion_has_the_form_of_its_prompt() -> None:
    found = as_completions(["text", CHAT], ["one", "two"])
    assert found == ["one", [{"role": "assistant", "content": "two"}]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused(bad: float) -> None:
    def broken(**_: Any) -> list[float]:
        return [1.0, bad]

    with pytest.raises(UserError, match=r"broken gave (nan|-?inf) for response 1"):
        score_responses([broken], BATCH, ["x", "y"])


def test_a_function_may_leave_a_response_to_the_others() -> None:
    # Weights 2 and -.5, one silent on the second response, one on the first. Who speaks stands for
    # all: 2 * 1 * (2.5 / 2) = 2.5 and -.5 * 4 * (2.5 / .5) = -10.
    def first(**_: Any) -> list[float | None]:
        return [1.0, None]

    def second(**_: Any) -> list[float | None]:
        return [None, 4.0]

    found = score_responses([first, second], BATCH, ["x", "y"], [2.0, -0.5])
    assert found.total.tolist() == [2.5, -10.0]
    assert found.parts["first"][0].item() == 1.0
    assert found.parts["second"][1].item() == 4.0
    assert found.parts["first"][1].isnan()
    assert found.parts["second"][0].isnan()


def test_weights_multiply_what_each_function_says() -> None:
    # 3 * [1, 2] + .25 * [8, -4] = [5, 5].
    functions = [lambda **_: [1.0, 2.0], lambda **_: [8.0, -4.0]]
    found = score_responses(functions, BATCH, ["x", "y"], [3.0, 0.25])
    assert found.total.tolist() == [5.0, 5.0]
    # functions of one name stay apart
    assert [said.tolist() for said in found.parts.values()] == [[1.0, 2.0], [8.0, -4.0]]
    assert list(found.parts) == ["<lambda>", "<lambda>_2"]


def test_a_response_that_nobody_scores_has_no_score() -> None:
    found = score_responses([lambda **_: [1.0, None]], BATCH, ["x", "y"])
    assert found.total[0] == 1.0
    assert found.total[1].isnan()
    with pytest.raises(UserError, match="no reward function scored any response, such as 'x'"):
        score_responses([lambda **_: [None, None]], BATCH, ["x", "y"])


def test_a_wrong_number_of_scores_is_refused() -> None:
    class Judge:
        def __call__(self, **_: Any) -> list[float]:
            return [1.0]

    with pytest.raises(UserError, match="Judge gave 1 scores for 2 responses"):
        score_responses([Judge()], BATCH, ["x", "y"])


def test_scores_may_come_as_an_array_or_tensor() -> None:
    found = score_responses(
        [lambda **_: np.array([0.5, 1.5]), lambda **_: torch.tensor([1.0, 2.0])], BATCH, ["x", "y"]
    )
    assert found.total.tolist() == [1.5, 3.5]


def test_a_function_is_called_by_its_name() -> None:
    class Judge:
        pass

    assert name_of(math.sqrt) == "sqrt"
    assert name_of(Judge()) == "Judge"  # type: ignore[arg-type]


def test_samples_are_the_first_responses_with_their_scores() -> None:
    found = sample_rows(BATCH, ["x", "y"], torch.tensor([0.5, 2.0]), update=3, n=1)
    assert found == [{"update": 3, "prompt": "a", "response": "x", "score": 0.5}]
