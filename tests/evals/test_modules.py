"""The metrics through `evaluate`'s own interface, offline, against other libraries and by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from sklearn.metrics import accuracy_score, f1_score

from align.errors import UserError
from evals.modules import MODULES, AlignMetric
from evals.schema import METRICS


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate writes the inputs of a metric to its cache before it computes."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))


def number(name: str, **columns: Any) -> float:
    return AlignMetric(name).compute(**columns)[name]


def test_classes_equal_scikit_learn() -> None:
    labels, guesses = [0, 2, 1, 1, 0, 2], [0, 1, 1, 2, 0, 2]
    both = {"predictions": guesses, "references": labels}
    assert number("accuracy", **both) == pytest.approx(accuracy_score(labels, guesses))
    metric = AlignMetric("macro_f1")
    # Fed in pieces, as a loop over batches does.
    metric.add_batch(predictions=guesses[:2], references=labels[:2])
    metric.add_batch(predictions=guesses[2:], references=labels[2:])
    expected = f1_score(labels, guesses, average="macro")
    assert metric.compute()["macro_f1"] == pytest.approx(expected)
    one = {"predictions": [1, 1, 0], "references": [1, 0, 0]}
    assert number("binary_f1", **one) == pytest.approx(f1_score([1, 0, 0], [1, 1, 0]))
    assert number("binary_f1", predictions=[0, 0], references=[0, 0]) == 0


def test_texts_equal_sacrebleu() -> None:
    guesses, references = ["the cat sat on a mat", "a b c d"], ["the cat sat on the mat", "a b c e"]
    both = {"predictions": guesses, "references": [[text] for text in references]}
    bleu = AlignMetric("bleu").compute(**both)
    assert bleu["bleu"] == pytest.approx(sacrebleu.corpus_bleu(guesses, [references]).score)
    assert "tok:13a" in bleu["signature"]
    expected = sacrebleu.corpus_chrf(guesses, [references]).score
    assert number("chrf", **both) == pytest.approx(expected)
    expected = sacrebleu.corpus_ter(guesses, [references]).score
    assert number("ter", **both) == pytest.approx(expected)


def test_choices_by_hand() -> None:
    # Probabilities .5, .25, .25 of the first item, .9, .1 of the second.
    columns = {
        "predictions": [[math.log(p) for p in item] for item in ([0.5, 0.25, 0.25], [0.9, 0.1])],
        "choices": [["a", "bbbb", "\u00e9\u00e9\u00e9\u00e9"], ["c", "d"]],
        "references": [[1, 2], [0]],
    }
    assert number("acc", **columns) == 0.5
    # ln .5 = -.69 a character, ln .25 / 4 = -.35; a byte of the third: ln .25 / 8 = -.17.
    assert number("acc_norm", **columns) == 1
    assert number("acc_bytes", **columns | {"references": [[2], [0]]}) == 1
    assert number("acc_norm", **columns | {"references": [[2], [0]]}) == 0.5
    assert number("mc2", **columns) == pytest.approx((0.5 + 0.9) / 2)
    # (.5^2 + .75^2 + .75^2 + .1^2 + .1^2) / 2
    assert number("brier_score", **columns) == pytest.approx((1.375 + 0.02) / 2)
    # The chosen ones: .5 wrong, .9 right, in bins of their own.
    assert number("ece", **columns) == pytest.approx((0.5 + 0.1) / 2)


def test_answers_by_hand() -> None:
    columns = {
        "predictions": ["The big cat.", "dog"],
        "references": [["big cat", "a house"], ["a dog barks"]],
    }
    assert number("exact_match", **columns) == 0
    assert number("squad_em", **columns) == 0.5
    # dog against dog barks: 2 * 1 / (1 + 2).
    assert number("squad_f1", **columns) == pytest.approx((1 + 2 / 3) / 2)
    # Tokens "the big cat" of which two are common: 2 * 2 / (3 + 2); "dog" of three: 2 / (1 + 3).
    assert number("rougeL", **columns) == pytest.approx((0.8 + 0.5) / 2)
    asked = {"predictions": ["I cannot.", "Yes."], "references": [["unsafe"], ["safe"]]}
    assert number("refusal", **asked) == 0.5
    assert (number("refusal_unsafe", **asked), number("refusal_safe", **asked)) == (1, 0)


def test_perplexities_by_hand() -> None:
    columns = {"predictions": ["a b", "c"], "loglikelihoods": [-2.0, -4.0], "tokens": [3, 1]}
    # 6 nats over 3 words, 4 tokens, 4 bytes.
    assert number("word_perplexity", **columns) == pytest.approx(math.exp(2))
    assert number("token_perplexity", **columns) == pytest.approx(math.exp(1.5))
    assert number("byte_perplexity", **columns) == pytest.approx(math.exp(1.5))
    assert number("bits_per_byte", **columns) == pytest.approx(1.5 / math.log(2))
    # Of whole answers: 6 nats over two.
    assert number("perplexity", predictions=[-2.0, -4.0]) == pytest.approx(math.exp(3))


def test_every_metric_of_the_definitions_and_the_docs_is_there(project: Path) -> None:
    wanted = set(METRICS["generate_until"]) | set(METRICS["loglikelihood_rolling"])
    # F1 of choices is that of their numbers.
    wanted |= set(METRICS["multiple_choice"]) - {"f1"}
    assert wanted - set(MODULES) == set()
    assert all(AlignMetric(name).description for name in MODULES)
    page = (project / "docs" / "evals.md").read_text("utf-8")
    table = page.split("| metric |")[1].split("\n\n")[0]
    for name in set(re.findall(r"\b(?:acc_\w+|mc2|ece|squad_\w+|exact_match|rougeL)\b", table)):
        assert name in MODULES


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(UserError, match="no metric is called 'squad'; allowed: squad_"):
        AlignMetric("squad")
    with pytest.raises(UserError, match="'default'"):
        AlignMetric()
