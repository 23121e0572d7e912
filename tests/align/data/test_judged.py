"""Pairs whose better output is named by a number: LLMBar's, AlpacaFarm's and PandaLM's own rows."""

from typing import Any

import pytest

from align.data.dialogues import Unusable
from align.data.formats import Converter
from align.errors import UserError

LLMBAR = {"input": "Name a fruit.", "output_1": "A stone.", "output_2": "An apple.", "label": 2}
FARM = {
    "instruction": "Name a fruit.", "input": "a red one", "output_1": "An apple.",
    "output_2": "A stone.", "preference": 1,
}  # fmt: skip
PANDA = {
    "instruction": "Name a fruit.", "input": "", "response1": "A stone.", "response2": "An apple.",
    "annotator1": 2, "annotator2": 2, "annotator3": 0, "idx": 7,
}  # fmt: skip


def converted(row: dict[str, Any]) -> dict[str, Any]:
    return Converter("preferences", {})(row)


@pytest.mark.parametrize("row", [LLMBAR, FARM, PANDA])
def test_the_better_output_is_the_chosen_one(row: dict[str, Any]) -> None:
    found = converted(row)
    assert found["chosen"] == [{"role": "assistant", "content": "An apple."}]
    assert found["rejected"] == [{"role": "assistant", "content": "A stone."}]
    asked = "Name a fruit.\n\na red one" if row is FARM else "Name a fruit."
    assert found["prompt"] == [{"role": "user", "content": asked}]


def test_further_columns_stay() -> None:
    assert converted(LLMBAR | {"subset": "Neighbor"})["subset"] == "Neighbor"
    assert converted(PANDA)["idx"] == 7
    assert set(converted(LLMBAR)) == {"prompt", "chosen", "rejected"}


def test_ties_are_left_out_and_other_labels_are_faults() -> None:
    with pytest.raises(Unusable, match="tie"):
        converted(PANDA | {"annotator1": 0})
    for label in (3, "2", True, None):
        with pytest.raises(UserError, match=r"field 'label' is .*1 or 2; 0 for a tie"):
            converted(LLMBAR | {"label": label})
    with pytest.raises(Unusable, match="identical answers"):
        converted(LLMBAR | {"output_1": "An apple."})
