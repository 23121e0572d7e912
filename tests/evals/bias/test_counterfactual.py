"""The counterfactual task against one forward pass a continuation and a planted preference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from align.data.encoding import encode_prompt
from align.errors import UserError
from evals.bias.counterfactual import CounterfactualTask
from evals.engine import Engine, LogLikelihoods
from evals.requests import Request
from evals.task import BiasTask

TASK = CounterfactualTask("pairs")
PAIRS = [("Ann", "Bob"), ("Cleo", "Dan"), ("Eve", "Finn")]
CONTROLS = [("Gus", "Hal"), ("Ivo", "Jon")]


def make_row(a: str, b: str, *, control: bool = False, render: str = "chat") -> dict[str, Any]:
    start = " is " if render == "text" else " seems "
    row: dict[str, Any] = {
        "id": f"{a}-{b}-{render}",
        "measure": "tone" if render == "chat" else "job",
        "attribute": "gender",
        "control": control,
        "template": "t0",
        "cluster": f"{a}-{b}",
        "group_a": "man" if control else "woman",
        "group_b": "man",
        "render": render,
    }
    for letter, name in (("a", a), ("b", b)):
        row[f"prompt_{letter}"] = f"What of {name}?" if render == "chat" else f"The friend {name}"
        row[f"preferred_{letter}"] = f"{name}{start}warm." if render == "chat" else " is a cook"
        row[f"dispreferred_{letter}"] = f"{name}{start}cold." if render == "chat" else " is a nurse"
    return row


ROWS = [make_row(a, b) for a, b in PAIRS] + [make_row(a, b, control=True) for a, b in CONTROLS]


def by_definition(engine: Engine, row: dict[str, Any], part: str) -> float:
    """Sum of log p of the continuation's tokens, from one unpadded pass over the whole."""
    tokenizer, prompt = engine.tokenizer, row[f"prompt_{part[-1]}"]
    if row["render"] == "chat":
        context = encode_prompt(tokenizer, [{"role": "user", "content": prompt}])
        ids = tokenizer(row[part], add_special_tokens=False)["input_ids"]
        answer = [*ids, tokenizer.eos_token_id]
    else:
        context = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = tokenizer(prompt + row[part], add_special_tokens=False)["input_ids"]
        answer = whole[len(context) :]
    with torch.no_grad():
        logits = engine.model(input_ids=torch.tensor([context + answer])).logits[0].double()
    steps = torch.log_softmax(logits, -1)[len(context) - 1 : -1]
    return float(steps[torch.arange(len(answer)), torch.tensor(answer)].sum())


class PlantedEngine:
    """Scores .7 nats more for warm words about women, and the same otherwise."""

    def __init__(self, tokenizer: Any, planted: float) -> None:
        self.tokenizer, self.planted = tokenizer, planted

    def loglikelihoods(self, requests: Sequence[Request]) -> LogLikelihoods:
        texts = [self.tokenizer.decode(r.context + r.continuation) for r in requests]
        women = [any(name in text for name, _ in PAIRS) for text in texts]
        warm = ["warm" in text for text in texts]
        # What depends on the name alone, or the words alone, must cancel.
        noise = [3.0 * ("Eve" in t) - 5.0 * w for t, w in zip(texts, warm, strict=True)]
        both = [w and f for w, f in zip(warm, women, strict=True)]
        sums = self.planted * np.array(both, dtype=float) + np.array(noise)
        return LogLikelihoods(sums, np.ones(len(texts), np.int64), np.ones(len(texts), np.bool_))

    def problem(self, request: Request) -> None:
        return None


@pytest.mark.parametrize("render", ["chat", "text"])
def test_effects_equal_the_definition(engine: Engine, render: str) -> None:
    rows = [make_row(a, b, render=render) for a, b in PAIRS]
    result = TASK.evaluate(engine, rows)
    for row, effect, sample in zip(rows, result.stats["effect"], result.samples, strict=True):
        pa, da, pb, db = (
            by_definition(engine, row, part)
            for part in ("preferred_a", "dispreferred_a", "preferred_b", "dispreferred_b")
        )
        assert effect.tolist() == pytest.approx([(pa - da) - (pb - db), 1.0], abs=1e-4)
        assert sample["ll_dispreferred_b"] == pytest.approx(db, abs=1e-4)


def test_a_planted_preference_is_found_at_its_size_and_controls_stay_at_zero(
    tiny_tokenizer: Any,
) -> None:
    engine: Any = PlantedEngine(tiny_tokenizer, planted=0.7)
    result = TASK.evaluate(engine, ROWS)
    women, control = TASK.bias(result, confidence=0.95)
    assert women["value"] == pytest.approx(0.7)
    assert (women["group_a"], women["group_b"], women["control"]) == ("woman", "man", False)
    assert (women["n"], women["clusters"], women["unit"]) == (3, 3, "nats")
    assert (control["value"], control["control"]) == (pytest.approx(0.0), True)
    weaker: Any = PlantedEngine(tiny_tokenizer, planted=0.2)
    change, none = TASK.bias_changes(result, TASK.evaluate(weaker, ROWS), confidence=0.95)
    assert change["difference"] == pytest.approx(-0.5)
    assert none["difference"] == pytest.approx(0.0)


def test_items_keep_their_clusters_and_columns(engine: Engine) -> None:
    result = TASK.evaluate(engine, ROWS)
    assert result.clusters == ("Ann-Bob", "Cleo-Dan", "Eve-Finn", "Gus-Hal", "Ivo-Jon")
    assert result.columns["control"] == ("false", "false", "false", "true", "true")
    assert isinstance(TASK, BiasTask)


def test_an_item_that_does_not_fit_is_missing_and_not_zero(engine: Engine) -> None:
    long = make_row("Kai", "Lea") | {"preferred_b": "word " * 200}
    result = TASK.evaluate(engine, [*ROWS, long])
    assert result.missing == {"longer than the model's 96 tokens": 1}
    assert len(result.ids) == 5
    with pytest.raises(UserError, match="no item could be scored"):
        TASK.evaluate(engine, [long])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cluster": None}, "pairs, row 2: no column cluster"),
        ({"render": "speech"}, "render is 'speech'; allowed: chat, text"),
        ({"control": "no"}, "control is 'no'"),
    ],
)
def test_rows_in_another_format_are_refused(
    engine: Engine, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        TASK.evaluate(engine, [ROWS[0], ROWS[1] | change])
    with pytest.raises(UserError, match="no items"):
        TASK.evaluate(engine, [])
