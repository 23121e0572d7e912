"""Every kind of gold reward is found by its name, and what is none is one clear error."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from align.errors import UserError
from reward.gold import is_reward_stage, load_gold
from reward.model import RewardModel

PROMPT = [{"role": "user", "content": "say something about tea"}]
ANSWERS = [[{"role": "assistant", "content": text}] for text in ("the tea is good", "no")]


def test_a_reward_stage_scores_in_units_of_its_spread(stage: Path) -> None:
    assert is_reward_stage(stage)
    assert not is_reward_stage(stage / "adapter")
    gold, plain = load_gold(str(stage), "cpu"), RewardModel.load(stage, device="cpu")
    raw = plain([PROMPT] * 2, ANSWERS)
    expected = [(score - plain.settings.mean) / plain.settings.std for score in raw]
    assert gold([PROMPT] * 2, ANSWERS) == pytest.approx(expected)


def test_a_function_of_the_working_directory_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "def judge(prompts, completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    (tmp_path / "own_gold_rule.py").write_text(code + "number = 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_gold("own_gold_rule:judge", "cpu")(["?"] * 2, ["ab", ""]) == [2.0, 0.0]
    with pytest.raises(UserError, match=r"ppo\.gold: cannot import .* has no attribute 'other'"):
        load_gold("own_gold_rule:other", "cpu")
    with pytest.raises(UserError, match="is no function"):
        load_gold("own_gold_rule:number", "cpu")
    with pytest.raises(UserError, match="No module named 'no_such_module'"):
        load_gold("no_such_module:judge", "cpu")


def test_a_classifier_is_loaded_with_its_tokenizer(sft_reference: object, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sft_reference.base)  # type: ignore[attr-defined]
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = LlamaForSequenceClassification(shape).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    scores = load_gold(str(tmp_path), "cpu")(["the tea ", "the tea "], ["is good", "no"])
    ids = tokenizer("the tea is good", return_tensors="pt").input_ids
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        assert scores[0] == pytest.approx(float(model(ids).logits), abs=1e-6)
    with pytest.raises(UserError, match=r"ppo\.gold"):
        load_gold(str(tmp_path / "nothing"), "cpu")
