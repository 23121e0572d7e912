"""Equal scores from transformers' own pipeline, our evaluation and PPO, whatever the model is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from align.cli import main
from align.data.encoding import render_prompt
from align.errors import UserError
from align.models import ModelReference, load_model, load_tokenizer, save_model
from align.ppo.classifier import as_reward
from align.quiet import quiet_transformers
from align.shared import SharedBase
from reward.evaluate import score_pairs
from reward.export import export_reward
from reward.load import load_reward, reward_on
from reward.model import RewardModel

CHAT = [{"role": "user", "content": "say something about tea"}]
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def rows_for(pad: str) -> list[dict[str, Any]]:
    """Pairs of many lengths: a pad token in a prompt, and texts that are too long."""
    return [
        {"prompt": CHAT, "chosen": "the tea is good", "rejected": "bad"},
        {
            "prompt": f"say {pad} something {pad}{pad} about",
            "chosen": "the snow is good and old",
            "rejected": "no",
        },
        {"prompt": [{"role": "user", "content": "rain " * 150}], "chosen": "good", "rejected": "a"},
    ]


def words_tokenizer(pairs: list[dict[str, Any]]) -> PreTrainedTokenizerFast:
    """One token a word, [CLS] before and [SEP] behind, as BERT's."""
    texts = [row[side][0]["content"] for row in pairs for side in ("prompt", "chosen", "rejected")]
    words = sorted({w for text in texts for w in text.split()} | {"User", "Assistant", ":"})
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=64,
    )  # fmt: skip


def encoder(kind: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> ModelReference:
    """A random encoder in a folder."""
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 80}
    torch.manual_seed(4)
    if kind == "bert":
        model = BertForMaskedLM(BertConfig(**sizes, pad_token_id=0))
    else:
        named = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}
        named |= {"bos_token_id": 2, "eos_token_id": 3}
        model = ModernBertModel(ModernBertConfig(**sizes, **named))
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelReference(str(folder))


def piped(folder: Path, texts: list[str], batch_size: int) -> list[float]:
    """Scores of transformers' own pipeline."""
    with quiet_transformers():
        judge = pipeline("text-classification", model=str(folder), device="cpu")
    found = judge(texts, function_to_apply="none", truncation=True, batch_size=batch_size)
    return [float(entry["score"]) for entry in found]


def assert_equal_everywhere(model: RewardModel, folder: Path, end: str, pad: str) -> None:
    """Evaluation, PPO and pipeline, for several batch sizes."""
    rows = rows_for(pad)
    scored = score_pairs(model, rows)
    expected = [*scored.chosen, *scored.rejected]
    prompts = [row["prompt"] for row in rows] * 2
    responses = [row[side] for side in ("chosen", "rejected") for row in rows]
    rendered = [render_prompt(model.tokenizer, prompt) for prompt in prompts]
    # the template writes the BOS that the tokenizer adds
    start = model.tokenizer.bos_token or ""
    texts = [p.removeprefix(start) + r + end for p, r in zip(rendered, responses, strict=True)]
    for batch_size in (1, 4):
        assert piped(folder, texts, batch_size) == pytest.approx(expected, abs=1e-5)
    ppo = as_reward(str(folder), None, torch.device("cpu"))
    for at in range(3):  # PPO's prompts are of one kind
        completions = [[{"role": "assistant", "content": responses[at]}]]
        plain = isinstance(prompts[at], str)
        found = ppo([prompts[at]], [responses[at]] if plain else completions)
        assert found == pytest.approx([expected[at]], abs=1e-5)
    own = load_reward(folder, device="cpu")
    own.batch_tokens = 70
    assert own(prompts, responses) == pytest.approx(expected, abs=1e-5)
    assert np.std(expected) > 1e-2


def test_a_lora_reward_model(stage: Path, tmp_path: Path, sft_reference: Any) -> None:
    assert main(["export", str(stage), str(tmp_path / "out")]) == 0
    model = load_reward(stage, device="cpu")
    tokenizer = model.tokenizer
    assert_equal_everywhere(model, tmp_path / "out", tokenizer.eos_token, tokenizer.pad_token)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert (plain.num_labels, plain.config.id2label) == (1, {0: "score"})
    loaded = load_model(sft_reference, device="cpu")
    shared = reward_on(SharedBase(loaded.model), stage, loaded.tokenizer, normalised=True)
    normal = load_reward(tmp_path / "out", device="cpu", normalised=True)
    pairs = ([CHAT, "some"], ["good", "bad"])
    assert normal(*pairs) == pytest.approx(shared(*pairs), abs=1e-5)


def test_gpt2_by_its_own_classifier(
    sft_reference: Any, tiny_config: Callable[..., Any], run_reward: Any, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(sft_reference)
    torch.manual_seed(5)
    sizes = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 2, "n_head": 2}
    shape = GPT2Config(**sizes, n_positions=96, eos_token_id=tokenizer.eos_token_id)
    save_model(GPT2LMHeadModel(shape), tokenizer, tmp_path / "base")
    base = ModelReference(str(tmp_path / "base"))
    run_reward(tmp_path / "3-reward", tiny_config(epochs=1), base=base)
    export_reward(tmp_path / "3-reward", tmp_path / "out")
    model = load_reward(tmp_path / "3-reward", device="cpu")
    assert_equal_everywhere(model, tmp_path / "out", tokenizer.eos_token, tokenizer.pad_token)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_encoders_by_their_own_classifier(
    kind: str, tiny_config: Any, run_reward: Any, stage_pairs: Any, tmp_path: Path
) -> None:
    base = encoder(kind, words_tokenizer(stage_pairs), tmp_path / "base")
    folder = tmp_path / "3-reward"
    result = run_reward(folder, tiny_config(epochs=6), base=base)
    assert result.model == {"base": "model", "adapters": []}
    assert result.metrics["accuracy"]["value"] > 0.9
    model = load_reward(folder, device="cpu")
    assert len(model.encode(CHAT, "rain " * 99)) == 64
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    trained = [row["score_chosen"] for row in samples]
    found = model([row["prompt"] for row in samples], [row["chosen"] for row in samples])
    assert found == pytest.approx(trained, abs=1e-5)
    assert_equal_everywhere(model, folder / "model", "", "[PAD]")
    with pytest.raises(UserError, match="plain classifier already"):
        export_reward(folder, tmp_path / "out")
    with pytest.raises(UserError, match="ensembles need a causal LM"):
        run_reward(tmp_path / "b", tiny_config(ensemble={"k": 2}), base=base)


def test_members_are_exported_one_by_one(tiny_config: Any, run_reward: Any, tmp_path: Path) -> None:
    folder = tmp_path / "3-reward"
    run_reward(folder, tiny_config(epochs=1, ensemble={"k": 2}))
    export_reward(folder, tmp_path / "out")
    ensemble: Any = load_reward(folder, device="cpu")
    normal = [
        load_reward(tmp_path / "out" / str(i), device="cpu", normalised=True)([CHAT], ["good"])[0]
        for i in range(2)
    ]
    assert ensemble.member_scores([CHAT], ["good"])[:, 0] == pytest.approx(normal, abs=1e-5)
