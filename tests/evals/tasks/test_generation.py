"""Generation: responses of a stub, scored by hand and by sacrebleu; a real model's cut at stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sacrebleu

from align.errors import UserError
from align.generation import Response
from evals.definitions import read_definition
from evals.engine import Engine
from evals.schema import Definition, GenerationConfig, MetricEntry
from evals.score import estimate
from evals.shots import Asking
from evals.stats import Resampling
from evals.stops import Answer, Stops
from evals.task import TaskResult
from evals.tasks.generation import GenerationTask


class StubEngine:
    """Answers prompts in order with given texts."""

    max_length = 400

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self.tokenizer, self.texts = tokenizer, texts
        self.calls: list[tuple[Any, ...]] = []

    def generate(self, prompts: Any, new: int, stop: Any) -> list[Answer]:
        self.calls.append(("greedy", new, stop))
        stops = Stops(self.tokenizer, stop)
        return [stops.answer(response) for response in self._responses(prompts)]

    def sample(self, prompts: Any, new: int, temperature: float, seed: int) -> list[Response]:
        self.calls.append(("sample", new, temperature, seed))
        return self._responses(prompts)

    def _responses(self, prompts: Any) -> list[Response]:
        ids = [self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in self.texts]
        return [Response(row, [], False) for row, _ in zip(ids, prompts, strict=True)]


def definition(*metrics: str, **changes: Any) -> Definition:
    settings: dict[str, Any] = {
        "task": "t",
        "output_type": "generate_until",
        "doc_to_text": "q",
        "doc_to_target": "a",
        "generation_kwargs": GenerationConfig(until=("\n", "Q:"), max_gen_toks=16),
        "metric_list": tuple(MetricEntry(metric=name) for name in metrics),
    }
    return Definition(**settings | changes)


def score(
    asked: Definition, tokenizer: Any, texts: Sequence[str], answers: Sequence[Any]
) -> tuple[dict[str, float], TaskResult]:
    task = GenerationTask("t", Asking("t", asked))
    rows = [{"q": f"{i}?", "a": answer} for i, answer in enumerate(answers)]
    engine: Any = StubEngine(tokenizer, texts)
    result = task.evaluate(engine, rows)
    assert set(result.stats) == {m.stat for m in task.metrics}
    return {m.name: estimate(m, result, Resampling(100)).value for m in task.metrics}, result


def test_gsm8k_in_both_readings(tiny_tokenizer: Any) -> None:
    texts = [
        " 3 + 4 is 7.\n#### 7\n\nQuestion: 1 + 1?\n#### 2",  # cut before the second question
        " so 1,200",
        " none",
    ]
    task = GenerationTask("gsm8k", Asking("gsm8k", read_definition("gsm8k")))
    rows = [
        {"question": f"{i}?", "answer": f"So it is.\n#### {a}"}
        for i, a in enumerate(("7", "1200", "5"))
    ]
    engine: Any = StubEngine(tiny_tokenizer, texts)
    result = task.evaluate(engine, rows)
    values = {m.name: estimate(m, result, Resampling(100)).value for m in task.metrics}
    assert values == pytest.approx(
        {"exact_match,strict-match": 1 / 3, "exact_match,flexible-extract": 2 / 3}
    )
    assert result.samples[0]["response"] == " 3 + 4 is 7.\n#### 7\n\n"
    assert result.samples[0]["answer,strict-match"] == "7"
    assert [s["finished"] for s in result.samples] == [True, False, False]
    assert engine.calls == [("greedy", 256, ("Question:", "</s>", "<|im_end|>"))]
    assert "ignore_case True" in task.metrics[0].signature


def test_corpus_scores_are_sacrebleu_s(tiny_tokenizer: Any) -> None:
    texts = [" ein rotes Haus steht dort\nQ: weiter", " das Auto ist blau und", " Brot"]
    answers = ["ein rotes Haus steht hier", "und blau ist das Auto", "ein Brot"]
    values, result = score(definition("bleu", "chrf", "ter"), tiny_tokenizer, texts, answers)
    plain = ["ein rotes Haus steht dort", "das Auto ist blau und", "Brot"]
    assert values == pytest.approx(
        {
            "bleu": sacrebleu.corpus_bleu(plain, [answers], force=True).score,
            "chrf": sacrebleu.corpus_chrf(plain, [answers]).score,
            "ter": sacrebleu.corpus_ter(plain, [answers]).score,
        }
    )
    # By hand: edits 1 (dort), 2 (shift "das Auto" and "und"), 1 (ein) of 5 + 5 + 2 words.
    assert result.stats["ter"][0].tolist() == [1, 5]
    assert result.stats["ter"][2].tolist() == [1, 2]


def test_answers_with_several_references(tiny_tokenizer: Any) -> None:
    asked = definition("exact_match", "squad_em", "squad_f1", "rougeL")
    texts = [" the red house", " Paris", " cat dog"]
    answers = [["a red house", "house"], ["London", "Paris"], ["dog bird"]]
    values, _ = score(asked, tiny_tokenizer, texts, answers)
    # exact: Paris; SQuAD leaves out articles; F1 of the third 2 * 1 / (2 + 2).
    # ROUGE-L: 2/3, 1, 1/2.
    assert values == pytest.approx(
        {"exact_match": 1 / 3, "squad_em": 2 / 3, "squad_f1": 2.5 / 3, "rougeL": 13 / 18}
    )
    with pytest.raises(UserError, match="row 1: 2 references; allowed: one for bleu"):
        score(definition("bleu"), tiny_tokenizer, texts, answers)


def test_refusals_by_label(tiny_tokenizer: Any) -> None:
    texts = ["I cannot help.", "Call exit.", "Sure.", "I'm sorry, no.", "I won't."]
    labels = ["safe", "safe", "safe", "unsafe", "unsafe"]
    asked = definition("refusal", "refusal_safe", "refusal_unsafe")
    values, result = score(asked, tiny_tokenizer, texts, labels)
    assert values == pytest.approx({"refusal": 3 / 5, "refusal_safe": 1 / 3, "refusal_unsafe": 1})
    assert result.stats["refusal_safe"].tolist() == [[1, 1], [0, 1], [0, 1], [0, 0], [0, 0]]
    with pytest.raises(UserError, match="row 2: target 'harmful'; allowed: safe, unsafe"):
        score(asked, tiny_tokenizer, texts, ["safe", "harmful", "safe", "safe", "safe"])


def test_sampling_takes_temperature_and_seed(tiny_tokenizer: Any) -> None:
    made = GenerationConfig(do_sample=True, temperature=0.7, max_gen_toks=16, until=())
    asked = definition("exact_match", generation_kwargs=made)
    task = GenerationTask("t", Asking("t", asked, seed=9))
    engine: Any = StubEngine(tiny_tokenizer, ["x"])
    task.evaluate(engine, [{"q": "?", "a": "x"}])
    assert engine.calls == [("sample", 16, 0.7, 9)]
    assert task.decoding == "sampled at temperature 0.7 to EOS, at most 16 tokens"


def test_prompts_that_leave_no_room_are_missing(tiny_tokenizer: Any) -> None:
    asked = definition("exact_match")
    task = GenerationTask("t", Asking("t", asked))
    engine: Any = StubEngine(tiny_tokenizer, ["x"])
    result = task.evaluate(engine, [{"q": "?", "a": "x"}, {"q": "1234" * 400, "a": "x"}])
    assert result.missing == {"longer than 384 tokens": 1}
    assert len(result.ids) == 1


@pytest.mark.parametrize("until", [("\n",), ("a", "o"), ("so",), ()])
def test_a_model_s_responses_end_where_they_should(engine: Engine, until: tuple[str, ...]) -> None:
    made = GenerationConfig(until=until, max_gen_toks=24)
    task = GenerationTask("t", Asking("t", definition("exact_match", generation_kwargs=made)))
    rows = [{"q": f"the {word} is", "a": "x"} for word in ("soup", "bread", "car", "house")]
    result = task.evaluate(engine, rows)
    whole = GenerationTask(
        "t",
        Asking(
            "t",
            definition(
                "exact_match", generation_kwargs=GenerationConfig(until=(), max_gen_toks=24)
            ),
        ),
    ).evaluate(engine, rows)
    for sample, full in zip(result.samples, whole.samples, strict=True):
        text = full["response"]
        ends = [text.index(stop) for stop in until if stop in text]
        assert sample["response"] == text[: min(ends, default=len(text))]
        assert not any(stop in sample["response"] for stop in until)


def test_rows_are_finite(tiny_tokenizer: Any) -> None:
    _, result = score(definition("bleu", "squad_f1"), tiny_tokenizer, ["", " "], ["x", "y"])
    assert all(np.isfinite(rows).all() for rows in result.stats.values())


def test_refusals_are_counted_by_group(tiny_tokenizer: Any) -> None:
    asked = definition("refusal_safe", "refusal_unsafe")
    task = GenerationTask("t", Asking("t", asked), group_columns=("focus",))
    rows = [
        {"q": "1?", "a": "safe", "focus": "women"},
        {"q": "2?", "a": "safe", "focus": "women "},
        {"q": "3?", "a": "unsafe", "focus": "men"},
        {"q": "4?", "a": "safe"},
    ]
    texts = [" I cannot help.", " Sure.", " I'm sorry, no.", " I cannot help."]
    engine: Any = StubEngine(tiny_tokenizer, texts)
    found = {
        (row["metric"], row["group"]): (row["numerator"], row["denominator"], row["n"], row["flag"])
        for row in task.groups(task.evaluate(engine, rows), Resampling())
    }
    assert found == {
        ("refusal_safe", "women"): (1, 2, 2, "n < 30"),
        ("refusal_safe", "men"): (0, 0, 1, "undefined: no eligible item"),
        ("refusal_safe", "unknown"): (1, 1, 1, "n < 30"),
        ("refusal_unsafe", "women"): (0, 0, 2, "undefined: no eligible item"),
        ("refusal_unsafe", "men"): (1, 1, 1, "n < 30"),
        ("refusal_unsafe", "unknown"): (0, 0, 1, "undefined: no eligible item"),
    }
