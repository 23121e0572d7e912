"""Probabilities of a label against transformers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from align.errors import UserError
from reward.classifier import classifier

WORDS = ["[PAD]", "[UNK]", "good", "bad", "film", "a", "the"]
TEXTS = ["a good film", "bad", "the film the film bad bad", "", "unknown words " * 20]


def save(folder: Path, labels: dict[int, str], kind: str | None) -> str:
    """A tiny random BERT with these labels."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=16, max_position_embeddings=12, id2label=labels,
                label2id={name: place for place, name in labels.items()}, problem_type=kind,
            )
        )  # fmt: skip
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_max_length=12
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("labels", "kind", "function"),
    [
        ({0: "NEG", 1: "Mixed", 2: "POS"}, None, "softmax"),
        ({0: "toxic", 1: "pos"}, "multi_label_classification", "sigmoid"),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_probabilities_are_those_of_transformers_pipeline(
    tmp_path: Path, labels: dict[int, str], kind: str | None, function: str, batch_size: int
) -> None:
    folder = save(tmp_path / "model", labels, kind)
    judge = pipeline("text-classification", model=folder, device="cpu")
    texts = [text for text in TEXTS if text]
    rows = judge(texts, top_k=None, function_to_apply=function, truncation=True)
    expected = [next(r["score"] for r in row if r["label"].lower() == "pos") for row in rows]
    found = classifier(folder, "pos", batch_size)(texts, texts)
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 1e-3  # the texts differ


def test_one_label_is_a_probability_of_its_own(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", {0: "toxic"}, None)
    judge = pipeline("text-classification", model=folder, device="cpu")
    expected = [r["score"] for r in judge(TEXTS[:2], function_to_apply="sigmoid")]
    reward = classifier(folder, "toxic")
    assert reward(TEXTS[:2], TEXTS[:2]) == pytest.approx(expected, abs=1e-5)


def test_messages_are_read_and_the_weights_pinned(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", {0: "neg", 1: "pos"}, None)
    reward: Any = classifier(folder, "pos")
    message = [[{"role": "assistant", "content": "bad"}]]
    assert reward(["x"], message) == reward(["x"], ["bad"])
    assert reward.__name__ == "classifier_pos"
    assert reward.signature.startswith("classifier_pos|model:model@")
    other: Any = classifier(save(tmp_path / "more" / "model", {0: "pos", 1: "neg"}, None), "pos")
    assert other.signature != reward.signature


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^classifier.model: no such model: './nothing'"):
        classifier("./nothing", "pos")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no config.json"):
        classifier(str(tmp_path / "empty"), "pos")
    reward = classifier(save(tmp_path / "model", {0: "neg", 1: "positive"}, None), "positve")
    with pytest.raises(UserError, match=r"no label 'positve'; allowed: positive \(nearest\)"):
        reward(["x"], ["x"])
