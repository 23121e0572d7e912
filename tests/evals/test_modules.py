"""The metrics through `evaluate`'s own interface, offline, against scikit-learn and sacrebleu."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from evals.modules import Accuracy, CorpusBleu, CorpusChrf, MacroF1, Perplexity


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate writes the inputs of a metric to its cache before it computes."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))


def test_classification_modules_equal_scikit_learn(tmp_path: Path) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    labels, guesses = [0, 2, 1, 1, 0, 2], [0, 1, 1, 2, 0, 2]
    accuracy = Accuracy(cache_dir=str(tmp_path)).compute(predictions=guesses, references=labels)
    assert accuracy["accuracy"] == pytest.approx(accuracy_score(labels, guesses))
    metric = MacroF1(cache_dir=str(tmp_path))
    # Fed in pieces, as a loop over batches does.
    metric.add_batch(predictions=guesses[:2], references=labels[:2])
    metric.add_batch(predictions=guesses[2:], references=labels[2:])
    expected = f1_score(labels, guesses, average="macro")
    assert metric.compute()["macro_f1"] == pytest.approx(expected)


def test_translation_modules_equal_sacrebleu(tmp_path: Path) -> None:
    import sacrebleu

    guesses, references = ["the cat sat on a mat", "a b c d"], ["the cat sat on the mat", "a b c e"]
    bleu = CorpusBleu(cache_dir=str(tmp_path)).compute(predictions=guesses, references=references)
    chrf = CorpusChrf(cache_dir=str(tmp_path)).compute(predictions=guesses, references=references)
    assert bleu["bleu"] == pytest.approx(sacrebleu.corpus_bleu(guesses, [references]).score)
    assert chrf["chrf"] == pytest.approx(sacrebleu.corpus_chrf(guesses, [references]).score)
    assert "tok:13a" in bleu["signature"]


def test_perplexity_module_by_hand(tmp_path: Path) -> None:
    result = Perplexity(cache_dir=str(tmp_path)).compute(
        predictions=["a b", "c"], loglikelihoods=[-2.0, -4.0], tokens=[3, 1]
    )
    # 6 nats over 3 words, 4 tokens, 4 bytes.
    assert result["word_perplexity"] == pytest.approx(math.exp(2))
    assert result["token_perplexity"] == pytest.approx(math.exp(1.5))
    assert result["bits_per_byte"] == pytest.approx(1.5 / math.log(2))
