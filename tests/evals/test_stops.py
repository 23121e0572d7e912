"""Stop strings against the text of a free response, for every string that occurs in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from align.data.encoding import decode_response
from evals.engine import Engine
from evals.stops import Stops

PROMPTS = [[5, 9, 40, 7], [20, 21], [99, 98, 4], [300, 17, 200], [31] * 12]
NEW = 16


def first_end(tokenizer: Any, ids: list[int], stops: tuple[str, ...]) -> int:
    """Tokens after which the text has a stop string for the first time, else all."""
    for n in range(1, len(ids) + 1):
        if any(stop in decode_response(tokenizer, ids[:n]) for stop in stops):
            return n
    return len(ids)


@pytest.fixture
def free(engine: Engine) -> list[list[int]]:
    """Tokens of the responses that nothing stops."""
    return [answer.ids for answer in engine.generate(PROMPTS, NEW)]


def whole(text: str) -> bool:
    """Whether nothing of a character is missing."""
    return "\N{REPLACEMENT CHARACTER}" not in text and text != ""


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_any_string_ends_a_response_where_its_text_has_it(
    engine: Engine, free: list[list[int]], length: int
) -> None:
    generator = np.random.default_rng(length)
    texts = [decode_response(engine.tokenizer, ids) for ids in free]
    found = {t[i : i + length] for t in texts for i in range(3, len(t) - length + 1)}
    strings = sorted(filter(whole, found))
    cut = 0
    for _ in range(4):
        pair = tuple(strings[i] for i in generator.integers(0, len(strings), 2))
        answers = engine.generate(PROMPTS, NEW, stop=(*pair, "never said"))
        for answer, ids in zip(answers, free, strict=True):
            end = first_end(engine.tokenizer, ids, pair)
            assert answer.ids == ids[:end]
            text = decode_response(engine.tokenizer, ids[:end])
            at = [text.index(stop) for stop in pair if stop in text]
            assert answer.text == text[: min(at, default=len(text))]
            assert answer.finished == bool(at)
            cut += bool(at)
    assert cut >= 4


@pytest.mark.parametrize("budget", [1, 4000])
def test_stops_do_not_depend_on_the_batch(
    engine: Engine, free: list[list[int]], budget: int
) -> None:
    text = decode_response(engine.tokenizer, free[0])
    stop = next(text[i : i + 3] for i in range(4, len(text)) if whole(text[i : i + 3]))
    other = Engine(engine.model, engine.tokenizer, batch_tokens=budget)
    assert other.generate(PROMPTS, NEW, [stop]) == engine.generate(PROMPTS, NEW, [stop])


def test_a_stop_spans_tokens_and_special_ones_between(tiny_tokenizer: Any) -> None:
    stops = Stops(tiny_tokenizer, ("### Q", "ü"))
    ids = tiny_tokenizer("said ### Q", add_special_tokens=False)["input_ids"]
    assert len(ids) > 4
    assert [n for n in range(1, len(ids) + 1) if stops.ended(ids[:n])] == [len(ids)]
    spread = [*ids[:-1], *[0] * 20, ids[-1]]
    assert stops.ended(spread)
    assert not stops.ended(spread[:-1])
    # The two bytes of the letter are two tokens; the first alone is no text yet.
    letter = tiny_tokenizer("ü", add_special_tokens=False)["input_ids"]
    assert len(letter) == 2
    assert not stops.ended(letter[:1])
    assert stops.ended(letter)


def test_text_ends_before_the_first_of_several_stops(tiny_tokenizer: Any) -> None:
    from align.generation import Response

    ids = tiny_tokenizer("good\n\nQuestion: soup", add_special_tokens=False)["input_ids"]
    response = Response([*ids, tiny_tokenizer.eos_token_id], [0.0] * (len(ids) + 1), True)
    assert Stops(tiny_tokenizer, ("Question", "\n\n")).answer(response).text == "good"
    assert Stops(tiny_tokenizer, ()).answer(response).text == "good\n\nQuestion: soup"
    assert Stops(tiny_tokenizer, ("soup",)).answer(response).ids == response.ids


def test_one_string_and_empty_strings_are_refused(engine: Engine) -> None:
    with pytest.raises(TypeError, match=r"write \('###',\)"):
        engine.generate(PROMPTS, NEW, stop="###")
    with pytest.raises(ValueError, match="have an empty one"):
        engine.generate(PROMPTS, NEW, stop=["\n", ""])
