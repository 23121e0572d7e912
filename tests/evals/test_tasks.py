"""Tasks against their definitions: one forward pass an answer, brute force, other libraries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from sklearn.metrics import accuracy_score, f1_score

from align.config import SourceConfig, TaskConfig
from align.data.encoding import decode_response, encode_prompt
from align.errors import UserError
from evals.bias.disparity import group_differences
from evals.bias.fairness import group_table
from evals.engine import Engine
from evals.score import estimate
from evals.stats import Resampling
from evals.tasks import build_task

SOURCE = SourceConfig(path="rows.jsonl")
REVIEWS: list[dict[str, Any]] = [
    {"text": "the soup is good", "label": "good", "gender": "woman"},
    {"text": "the bread is bad , bad", "label": "bad", "gender": "man"},
    {"text": "the baker sold soup", "label": "good", "gender": None},
    {"text": "a red car", "label": "bad", "gender": "woman"},
    {"text": "a blue house", "label": "good", "gender": "man"},
]
PAIRS = [
    {"source": "a red house", "target": "ein rotes Haus"},
    {"source": "a blue car", "target": "ein blaues Auto"},
]


def classification(**changes: Any) -> TaskConfig:
    settings: dict[str, Any] = {
        "kind": "classification",
        "data": SOURCE,
        "prompt": "Review: {text} Good or bad?",
        "target": "label",
        "choices": ("good", "bad"),
    }
    return TaskConfig(**settings | changes)


def translation(**changes: Any) -> TaskConfig:
    settings: dict[str, Any] = {
        "kind": "translation",
        "data": SOURCE,
        "prompt": "translate: {source}",
        "target": "target",
        "max_new_tokens": 8,
    }
    return TaskConfig(**settings | changes)


def continuation_logprob(model: Any, context: list[int], answer: list[int]) -> float:
    """Sum of log p(token | all before) by one pass without padding."""
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([context + answer])).logits[0].double()
    rows = rows.log_softmax(-1)
    return sum(float(rows[len(context) - 1 + i, t]) for i, t in enumerate(answer))


def test_classification_in_chat_by_definition(engine: Engine) -> None:
    task = build_task("reviews", classification())
    result = task.evaluate(engine, REVIEWS)
    tokenizer, answers = engine.tokenizer, []
    for row, sample in zip(REVIEWS, result.samples, strict=True):
        context = encode_prompt(
            tokenizer, [{"role": "user", "content": f"Review: {row['text']} Good or bad?"}]
        )
        expected = {
            choice: continuation_logprob(
                engine.model, context, tokenizer(choice, add_special_tokens=False)["input_ids"]
            )
            for choice in ("good", "bad")
        }
        assert sample["logprobs"] == pytest.approx(expected, abs=1e-4)
        answers.append(max(expected, key=expected.__getitem__))
        assert sample["response"] == answers[-1]
    labels = [row["label"] for row in REVIEWS]
    values = {m.name: estimate(m, result, Resampling(200)).value for m in task.metrics}
    assert values["accuracy"] == pytest.approx(accuracy_score(labels, answers))
    assert values["macro_f1"] == pytest.approx(f1_score(labels, answers, average="macro"))


@pytest.mark.parametrize("prompt", ["{text} This is", "{text} This is ", "{text} This is  "])
def test_classification_as_plain_text_is_running_text(engine: Engine, prompt: str) -> None:
    task = build_task("reviews", classification(chat=False, prompt=prompt))
    result = task.evaluate(engine, REVIEWS[:1])
    tokenizer = engine.tokenizer
    spaces = " " if prompt.endswith("is") else prompt[len(prompt.rstrip()) :]
    context = tokenizer("the soup is good This is", add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"the soup is good This is{spaces}bad", add_special_tokens=False)["input_ids"]
    expected = continuation_logprob(engine.model, context, whole[len(context) :])
    assert result.samples[0]["logprobs"]["bad"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("labels", [("bad", "good"), (1, 0), ("1", "0"), (True, False)])
def test_labels_are_texts_or_indices(engine: Engine, labels: tuple[Any, Any]) -> None:
    task = build_task("reviews", classification())
    rows = [{"text": "x", "label": label} for label in labels]
    samples = task.evaluate(engine, rows).samples
    assert [sample["label"] for sample in samples] == ["bad", "good"]


def test_labels_that_could_be_both_are_refused(engine: Engine) -> None:
    task = build_task("stars", classification(choices=("1", "2")))
    assert task.evaluate(engine, [{"text": "x", "label": "2"}]).samples[0]["label"] == "2"
    with pytest.raises(UserError, match=r"task stars, row 1: label 1 may be a choice or an index"):
        task.evaluate(engine, [{"text": "x", "label": 1}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x", "label": "fine"}, "task reviews, row 1: label 'fine' in column 'label'"),
        ({"text": "x", "label": 2}, "label 2 in column 'label'; allowed: one of good, bad"),
        ({"text": "x"}, "task reviews, row 1: no column 'label'; allowed: text"),
        ({"label": 0}, "task reviews, row 1: no column 'text'; allowed: label"),
    ],
)
def test_bad_rows_are_named(engine: Engine, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        build_task("reviews", classification()).evaluate(engine, [row])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (classification(prompt="{}"), "placeholder {} is no column name"),
        (classification(prompt="{text.x}"), "placeholder {text.x} is no column name"),
        (classification(prompt="{text"), "'{text': expected '}'"),
        (classification(choices=("good", "good")), "choices are ['good', 'good']"),
        (classification(choices=None), "classification needs prompt, target and choices"),
        (
            classification(positive="fine"),
            ".positive: 'fine' is none of the choices; allowed: good, bad",
        ),
        (classification(positive=""), ".positive: '' is none of the choices"),
        (translation(positive="good"), "positive is never read by kind translation"),
        (classification(max_new_tokens=3), "max_new_tokens is never read by kind classification"),
        (translation(target=None), "translation needs prompt and target"),
        (TaskConfig(kind="perplexity", data=SOURCE, prompt="x"), "prompt is never read"),
    ],
)
def test_bad_configurations_are_named(config: TaskConfig, message: str) -> None:
    with pytest.raises(UserError) as error:
        build_task("name", config)
    assert str(error.value).startswith("evals.tasks.name")
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["prompts", "ppo", "a/b", ".hidden"])
def test_names_with_a_meaning_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        build_task(name, classification())


def test_empty_sets_and_sets_that_cannot_be_scored_are_errors(engine: Engine) -> None:
    task = build_task("reviews", classification())
    with pytest.raises(UserError, match="task reviews: no items"):
        task.evaluate(engine, [])
    with pytest.raises(UserError, match="no item could be scored"):
        task.evaluate(engine, [{"text": "soup " * 300, "label": 0}])


def test_items_that_do_not_fit_are_missing_not_wrong(engine: Engine) -> None:
    task = build_task("reviews", classification())
    rows = [*REVIEWS, {"text": "soup " * 300, "label": "good", "gender": "man"}]
    result, without = task.evaluate(engine, rows), task.evaluate(engine, REVIEWS)
    assert result.missing == {"longer than the model's 96 tokens": 1}
    assert result.ids == without.ids
    np.testing.assert_array_equal(result.stats["f1"], without.stats["f1"])


def test_groups_are_kept_and_unknown_is_a_group(engine: Engine) -> None:
    task = build_task("reviews", classification(groups=("gender",)))
    result = task.evaluate(engine, REVIEWS)
    assert result.columns["gender"] == ("woman", "man", "unknown", "woman", "man")
    rows = group_table(task.classified(result), Resampling(200))  # type: ignore[attr-defined]
    accuracy = {r["group"]: r["value"] for r in rows if r["metric"] == "accuracy"}
    hits = {group: [] for group in accuracy}
    for group, sample in zip(result.columns["gender"], result.samples, strict=True):
        hits[group].append(sample["response"] == sample["label"])
    assert accuracy == pytest.approx({group: np.mean(values) for group, values in hits.items()})
    with pytest.raises(UserError, match="no row has the group column 'age'"):
        build_task("reviews", classification(groups=("age",))).evaluate(engine, REVIEWS)


def test_a_choice_called_positive_gets_a_binary_f1() -> None:
    task = build_task("x", classification(choices=("Positive", "negative")))
    assert [metric.name for metric in task.metrics] == [
        "accuracy",
        "macro_f1",
        "binary_f1",
        "brier_score",
        "ece",
    ]
    assert task.definition.endswith("positive class: Positive")
    several = build_task("x", classification(choices=("positive", "negative", "neutral")))
    assert [metric.name for metric in several.metrics] == [
        "accuracy",
        "macro_f1",
        "brier_score",
        "ece",
    ]


@pytest.mark.parametrize("choices", [("good", "bad"), ("good", "bad", "fine")])
@pytest.mark.parametrize("positive", ["good", "bad"])
def test_the_positive_class_may_be_named(
    engine: Engine, choices: tuple[str, ...], positive: str
) -> None:
    config = classification(choices=choices, positive=positive, groups=("gender",))
    task: Any = build_task("reviews", config)
    assert task.definition.endswith(f"positive class: {positive}")
    result = task.evaluate(engine, REVIEWS)
    labels = [sample["label"] for sample in result.samples]
    answers = [sample["response"] for sample in result.samples]
    assert len({*answers}) == 2  # else one class would be scored like another
    values = {m.name: estimate(m, result, Resampling(200)).value for m in task.metrics}
    expected = f1_score(labels, answers, labels=[positive], average=None)[0]
    assert values["binary_f1"] == pytest.approx(expected)
    assert {m.name: m.signature for m in task.metrics}["binary_f1"] == (
        f"class {choices.index(positive)}"
    )
    rates = {
        row["group"]: row["value"]
        for row in group_table(task.classified(result), Resampling(200))
        if row["metric"] == "selection_rate"
    }
    women = [
        a == positive for a, row in zip(answers, REVIEWS, strict=True) if row["gender"] == "woman"
    ]
    assert rates.get("woman") == (np.mean(women) if len(choices) == 2 else None)
    changes = group_differences(task.classified(result))
    assert ("selection_rate" in {row["metric"] for row in changes}) == (len(choices) == 2)


def greedy(engine: Engine, ids: list[int], n: int) -> list[int]:
    out: list[int] = []
    while len(out) < n and 2 not in out:
        with torch.no_grad():
            logits = engine.model(input_ids=torch.tensor([ids + out])).logits[0, -1]
        out.append(int(logits.argmax()))
    return out


def test_translation_by_definition(engine: Engine) -> None:
    task = build_task("tavi", translation())
    result = task.evaluate(engine, PAIRS)
    answers = []
    for row in PAIRS:
        prompt = [{"role": "user", "content": f"translate: {row['source']}"}]
        ids = greedy(engine, encode_prompt(engine.tokenizer, prompt), 8)
        answers.append(decode_response(engine.tokenizer, ids).strip())
    assert [sample["response"] for sample in result.samples] == answers
    references = [row["target"] for row in PAIRS]
    values = {m.name: estimate(m, result, Resampling(200)).value for m in task.metrics}
    expected = sacrebleu.corpus_bleu(answers, [references], force=True).score
    assert values["bleu"] == pytest.approx(expected, abs=1e-9)
    expected = sacrebleu.corpus_chrf(answers, [references]).score
    assert values["chrf"] == pytest.approx(expected, abs=1e-9)


class Scripted(Engine):
    """An engine whose model says what the test wants."""

    answer = ""

    def generate(self, prompts: Any, max_new_tokens: int, stop: Any = ()) -> Any:
        """Give the scripted answer and note how it was asked."""
        from align.generation import Response
        from evals.stops import Stops

        self.asked = [self.tokenizer.decode(prompt) for prompt in prompts], stop
        ids = self.tokenizer(self.answer, add_special_tokens=False)["input_ids"]
        response = Response(ids, [0.0] * len(ids), True)
        return [Stops(self.tokenizer, stop).answer(response) for _ in prompts]


def test_translation_of_plain_text_stops_at_the_line(tiny_model: Any, tiny_tokenizer: Any) -> None:
    scripted = Scripted(tiny_model, tiny_tokenizer)
    scripted.answer = " ein rotes Haus\nQuestion: is"
    task = build_task("tavi", translation(chat=False, prompt="{source} = "))
    result = task.evaluate(scripted, PAIRS[:1])
    # The trailing space belongs to the answer.
    assert scripted.asked == (["a red house ="], ("\n",))
    assert result.samples[0]["response"] == "ein rotes Haus"
    bleu = estimate(task.metrics[1], result, Resampling(200))
    assert bleu.value == pytest.approx(100)
    assert "a line break" in task.decoding


def test_translation_compares_the_answer_with_the_reference(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    scripted = Scripted(tiny_model, tiny_tokenizer)
    scripted.answer = "ein rotes Haus und ein blaues"
    task = build_task("tavi", translation())
    result = task.evaluate(scripted, PAIRS[:1])
    bleu, chrf = (estimate(metric, result, Resampling(200)).value for metric in task.metrics)
    # Precision, not recall: the answer is twice as long as the reference.
    assert bleu == pytest.approx(
        sacrebleu.corpus_bleu([scripted.answer], [["ein rotes Haus"]]).score, abs=1e-9
    )
    assert bleu > 10
    expected = sacrebleu.corpus_chrf([scripted.answer], [["ein rotes Haus"]]).score
    assert chrf == pytest.approx(expected, abs=1e-9)


def test_prompts_without_room_are_missing(engine: Engine) -> None:
    task = build_task("tavi", translation())
    rows = [*PAIRS, {"source": "soup " * 300, "target": "x"}]
    assert task.evaluate(engine, rows).missing == {"longer than 88 tokens": 1}


def test_perplexity_by_definition(engine: Engine) -> None:
    texts = ["The cook praised the soup", "", "is the\n review  good ü?"]
    task = build_task("text", TaskConfig(kind="perplexity", data=SOURCE))
    result = task.evaluate(engine, [{"text": text} for text in texts])
    nll, tokens = 0.0, 0
    for text in texts:
        ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
        nll -= continuation_logprob(engine.model, [1], ids) if ids else 0.0
        tokens += len(ids)
    assert result.missing == {"empty document": 1}
    values = {m.name: estimate(m, result, Resampling(200)).value for m in task.metrics}
    # Words 5 + 5 (the harness splits at white space); bytes 25 + 24 (u-umlaut has two).
    assert values["word_perplexity"] == pytest.approx(math.exp(nll / 10), rel=1e-4)
    assert values["token_perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-4)
    assert values["byte_perplexity"] == pytest.approx(math.exp(nll / 49), rel=1e-4)
    assert values["bits_per_byte"] == pytest.approx(nll / 49 / math.log(2), rel=1e-4)
