"""Sums of rows must give scikit-learn's and sacrebleu's numbers exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evals.metrics import (
    accuracy_metric,
    binary_f1,
    bleu_metric,
    bleu_rows,
    chrf_metric,
    chrf_rows,
    confusion_rows,
    count_words,
    f1_metrics,
    macro_f1,
    mean_metric,
    micro_f1,
    perplexity_metrics,
    perplexity_rows,
    ratio,
    value_rows,
)

HYPOTHESES = ["the cat sat on the mat", "Ein Hund läuft, schnell!", "", "a b", "no overlap here"]
REFERENCES = ["the cat sat on a mat", "Ein Hund rennt schnell.", "not empty", "a b c", "xyz"]


def labelled(seed: int, classes: int, n: int = 200) -> tuple[list[int], list[int]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    guesses = np.where(generator.random(n) < 0.5, labels, generator.integers(0, classes, n))
    return labels.tolist(), guesses.tolist()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_f1_family_equals_scikit_learn(classes: int) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    labels, guesses = labelled(classes, classes)
    total = confusion_rows(labels, guesses, classes).sum(axis=0)
    assert macro_f1(total) == pytest.approx(f1_score(labels, guesses, average="macro"), abs=1e-12)
    assert micro_f1(total) == pytest.approx(f1_score(labels, guesses, average="micro"), abs=1e-12)
    each = f1_score(labels, guesses, average=None)
    for index in range(classes):
        assert binary_f1(total, index) == pytest.approx(each[index], abs=1e-12)
    hits = value_rows(np.equal(labels, guesses).astype(float))
    accuracy = accuracy_metric().combine(hits.sum(axis=0))
    assert accuracy == pytest.approx(accuracy_score(labels, guesses), abs=1e-12)


def test_macro_f1_leaves_out_classes_that_never_occur() -> None:
    from sklearn.metrics import f1_score

    # Class 1 never occurs, class 2 only as a wrong guess: scikit-learn averages over {0, 2}.
    labels, guesses = [0, 0, 0], [0, 2, 0]
    total = confusion_rows(labels, guesses, 3).sum(axis=0)
    expected = f1_score(labels, guesses, average="macro", zero_division=0)
    assert macro_f1(total) == pytest.approx(expected)
    # By hand: class 0 has tp 2, fn 1: 4/5; class 2 is 0; mean 0.4.
    assert macro_f1(total) == pytest.approx(0.4)
    assert binary_f1(total, 1) == 0.0


def test_combining_many_sums_at_once_equals_one_by_one() -> None:
    generator = np.random.default_rng(0)
    sums = generator.integers(0, 9, size=(5, 9)).astype(float)
    each = [float(macro_f1(row)) for row in sums]
    np.testing.assert_allclose(macro_f1(sums), each)
    rows = bleu_rows(HYPOTHESES, REFERENCES)
    both = bleu_metric().combine(np.stack([rows.sum(axis=0), rows[:2].sum(axis=0)]))
    assert both[1] == pytest.approx(float(bleu_metric().combine(rows[:2].sum(axis=0))))
    assert both[0] != both[1]


def test_confusion_rows_refuse_unknown_classes() -> None:
    with pytest.raises(ValueError, match="item 1: label 0, prediction 2 of 2"):
        confusion_rows([0, 0], [1, 2], 2)


def test_bleu_and_chrf_equal_sacrebleu() -> None:
    import sacrebleu

    total = bleu_rows(HYPOTHESES, REFERENCES).sum(axis=0)
    expected = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert float(bleu_metric().combine(total)) == pytest.approx(expected, abs=1e-9)
    characters = chrf_rows(HYPOTHESES, REFERENCES).sum(axis=0)
    expected = sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert float(chrf_metric().combine(characters)) == pytest.approx(expected, abs=1e-9)
    assert expected > 10


def test_every_hypothesis_needs_its_reference() -> None:
    with pytest.raises(ValueError, match="1 hypotheses for 2 references"):
        bleu_rows(["a"], ["a", "b"])


def test_combine_leaves_the_sums_unchanged() -> None:
    total = bleu_rows(["a b c"], ["a b d"]).sum(axis=0)
    copy = total.copy()
    bleu_metric().combine(total)
    assert total.tolist() == copy.tolist()


def test_signatures_name_the_settings() -> None:
    assert bleu_metric().signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|")
    assert chrf_metric().signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|")


def test_perplexity_family_by_hand() -> None:
    texts = ["one two  three", "é"]
    assert [count_words(text) for text in texts] == [3, 1]
    # As in the harness: leading white space makes an empty first word.
    assert count_words(" a b") == 3
    rows = perplexity_rows(texts, [6.0, 2.0], [5, 3])
    assert rows.tolist() == [[6, 5, 3, 14], [2, 3, 1, 2]]
    values = {m.name: float(m.combine(rows.sum(axis=0))) for m in perplexity_metrics()}
    assert values["word_perplexity"] == pytest.approx(math.exp(8 / 4))
    assert values["token_perplexity"] == pytest.approx(math.exp(8 / 8))
    assert values["byte_perplexity"] == pytest.approx(math.exp(8 / 16))
    assert values["bits_per_byte"] == pytest.approx(0.5 * math.log2(math.e))


def test_word_perplexity_overflow_is_infinite_not_a_warning() -> None:
    metric = perplexity_metrics()[0]
    assert float(metric.combine(np.array([5000.0, 1, 1, 1]))) == math.inf


def test_ratio_of_nothing_is_undefined() -> None:
    assert math.isnan(float(ratio(np.array([1.0, 0.0]))))


def test_metrics_say_which_direction_is_better() -> None:
    assert accuracy_metric().better == "higher"
    assert {metric.better for metric in perplexity_metrics()} == {"lower"}
    assert [m.name for m in f1_metrics(positive=1)] == ["macro_f1", "binary_f1"]
    binary = f1_metrics(positive=0)[1].combine(confusion_rows([0, 1], [0, 0], 2).sum(axis=0))
    # Class 0: tp 1, fp 1, fn 0: 2/3.
    assert float(binary) == pytest.approx(2 / 3)
    mean = mean_metric("length", "length", "none", "mean").combine(value_rows([1, 5]).sum(axis=0))
    assert float(mean) == 3.0
