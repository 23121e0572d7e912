"""Classifiers as reward functions (docs/ppo.md item 22): what they say of text rendered by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from align.errors import UserError
from align.ppo.classifier import ClassifierReward, as_reward, reward_functions
from align.ppo.trainer import PPOTrainer

CPU = torch.device("cpu")
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} <end> {% endfor %}"
LETTERS = ["<none>", "<start>", "<end>", "[user]", "[assistant]", *"zyxwvutsrqponmlkjihgfedcba"]
"""Another vocabulary than the policy's: other ids, special tokens of its own."""
CHAT = [
    [{"role": "user", "content": "a b"}],
    [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d e f"},
     {"role": "user", "content": "g h i"}],
]  # fmt: skip
PLAIN = ["a b", "c d e f", "g"]


def letters_tokenizer(side: str = "right", pad: str | None = "<none>") -> PreTrainedTokenizerFast:
    """Plain text gets a `<start>`; the template writes no such token."""
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(LETTERS)}, unk_token="<none>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<start> $A", special_tokens=[("<start>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<end>",
        pad_token=pad,
        unk_token="<none>",
        padding_side=side,
        chat_template=TEMPLATE,
    )


def classifier(kind: str = "llama", labels: int = 1) -> PreTrainedModel:
    """A random classifier over the letters."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "llama":
            shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "num_key_value_heads": 2}  # fmt: skip
            model: PreTrainedModel = LlamaForSequenceClassification(
                LlamaConfig(vocab_size=len(LETTERS), num_labels=labels, **shape)
            )
        else:
            model = GPT2ForSequenceClassification(
                GPT2Config(
                    vocab_size=len(LETTERS), num_labels=labels, n_embd=16, n_layer=1, n_head=2
                )
            )
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= 6
    return model


@torch.no_grad()
def said(model: PreTrainedModel, text: str) -> float:
    """The classifier's logit of words, one row without padding."""
    ids: Tensor = torch.tensor([[LETTERS.index(word) for word in text.split()]])
    return model(ids).logits.item()


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_conversations_are_scored_through_the_classifiers_own_template(
    kind: str, side: str, batch_size: int
) -> None:
    # Item 22; batches must not change a score, wherever the tokenizer pads and though GPT-2's
    # positions count from the left.
    model = classifier(kind)
    reward = as_reward(model, letters_tokenizer(side), CPU)
    reward = ClassifierReward(reward.model, reward.tokenizer, batch_size)
    texts = ["h", "i j k l"]
    by_hand = [
        "[user] a b <end> [assistant] h <end>",
        "[user] c <end> [assistant] d e f <end> [user] g h i <end> [assistant] i j k l <end>",
    ]
    found = reward(prompts=CHAT, completions=[answer(text) for text in texts])
    expected = [said(model, text) for text in by_hand]
    assert abs(expected[0] - expected[1]) > 0.02
    assert found == pytest.approx(expected, abs=1e-5)


def test_plain_text_is_joined_and_gets_the_classifiers_special_tokens() -> None:
    model = classifier()
    reward = as_reward(model, letters_tokenizer(), CPU)
    found = reward(prompts=PLAIN, completions=[" x", " y z", " w w w"], other=[1, 2, 3])
    by_hand = ["<start> a b x", "<start> c d e f y z", "<start> g w w w"]
    assert found == pytest.approx([said(model, text) for text in by_hand], abs=1e-5)


def test_a_tokenizer_without_pad_token_pads_with_its_end() -> None:
    model = classifier()
    reward = as_reward(model, letters_tokenizer(pad=None), CPU)
    found = reward(prompts=PLAIN, completions=[" x", " y z", " w w w"])
    by_hand = ["<start> a b x", "<start> c d e f y z", "<start> g w w w"]
    assert found == pytest.approx([said(model, text) for text in by_hand], abs=1e-5)


def test_a_saved_classifier_is_found_by_its_folder(tmp_path: Path) -> None:
    model = classifier()
    model.save_pretrained(tmp_path / "judge")
    letters_tokenizer().save_pretrained(tmp_path / "judge")
    reward = as_reward(str(tmp_path / "judge"), None, CPU)
    assert reward.__name__ == "judge"
    assert not any(p.requires_grad for p in reward.model.parameters())
    found = reward(prompts=["a b"], completions=[" c"])
    assert found == pytest.approx([said(model, "<start> a b c")], abs=1e-5)


def test_a_classifier_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 labels.*allowed: 1 label"):
        as_reward(classifier(labels=2), letters_tokenizer(), CPU)
    with pytest.raises(UserError, match="pass reward_processing_classes"):
        as_reward(classifier(), None, CPU)
    bare = PreTrainedTokenizerFast(tokenizer_object=letters_tokenizer().backend_tokenizer)
    with pytest.raises(UserError, match="the tokenizer has no pad token"):
        as_reward(classifier(), bare, CPU)


def test_functions_and_classifiers_may_be_mixed() -> None:
    def length(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    model, tokenizer = classifier(), letters_tokenizer()
    function, reward = reward_functions([length, model], [None, tokenizer], [1.0, 2.0], CPU)
    assert function is length
    assert reward(prompts=["a"], completions=[" b"]) == pytest.approx([said(model, "<start> a b")])
    (alone,) = reward_functions(model, tokenizer, None, CPU)
    assert alone.tokenizer is tokenizer
    with pytest.raises(UserError, match="1 reward_weights for 2 reward functions"):
        reward_functions([length, length], None, [1.0], CPU)
    with pytest.raises(UserError, match="0 reward_weights for 1 reward functions"):
        reward_functions(length, None, [], CPU)
    with pytest.raises(UserError, match="1 reward_processing_classes for 2 reward functions"):
        reward_functions([length, model], [tokenizer], None, CPU)


def test_training_scores_what_the_classifier_says(
    make_trainer: Callable[..., PPOTrainer],
    rows_logged: Callable[[PPOTrainer], list[dict[str, float]]],
) -> None:
    # Beside a function, with weights: the classifier's mean is logged under its own name, raw.
    seen: list[tuple[str, str]] = []

    def length(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        seen.extend(zip(prompts, completions, strict=True))
        return [float(len(text.split())) for text in completions]

    model = classifier()
    trainer = make_trainer(
        score=[length, model],
        reward_weights=[0.5, -2.0],
        total_episodes=8,
        prompts=[{"prompt": text + " "} for text in "abcdefgh"],
        parts={"reward_processing_classes": letters_tokenizer()},
    )
    trainer.train()
    (row,) = rows_logged(trainer)
    lengths = [float(len(text.split())) for _, text in seen]
    judged = [said(model, "<start> " + prompt + text) for prompt, text in seen]
    assert len(judged) == 8
    assert row["score/length"] == pytest.approx(sum(lengths) / 8)
    assert row["score/LlamaForSequenceClassification"] == pytest.approx(sum(judged) / 8, abs=1e-5)
    expected = [0.5 * a - 2.0 * b for a, b in zip(lengths, judged, strict=True)]
    assert row["score/mean"] == pytest.approx(sum(expected) / 8, abs=1e-5)
    assert not any(p.grad is not None for p in model.parameters())
