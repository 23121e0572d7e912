"""The scorer against peft's and transformers' own classifier, and against what could be lost."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModelForSequenceClassification
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

from align.data.encoding import encode_prompt, encode_response
from align.errors import UserError
from align.models import load_model
from align.shared import SharedBase
from reward.model import RewardModel

PROMPTS: list[Any] = [
    [{"role": "user", "content": "say something about tea"}],
    [{"role": "user", "content": "say something"}],
    "plain text prompt",
    [{"role": "user", "content": "say something about a very long and cold rain today"}],
]
RESPONSES: list[Any] = [
    "the tea is good",
    [{"role": "assistant", "content": "bad"}],
    "the snow is good and old , they say",
    "",
]


@pytest.fixture(scope="module")
def model(stage: Path) -> RewardModel:
    return RewardModel.load(stage, device="cpu")


@pytest.fixture(scope="module")
def classifier(stage: Path, sft_reference: Any, tmp_path_factory: Any) -> Any:
    """The same model put together by transformers and peft alone."""
    loaded = load_model(sft_reference, device="cpu")
    folder = tmp_path_factory.mktemp("merged")
    loaded.model.save_pretrained(folder)
    base = LlamaForSequenceClassification.from_pretrained(
        folder, num_labels=1, pad_token_id=loaded.tokenizer.pad_token_id
    )
    return PeftModelForSequenceClassification.from_pretrained(base, stage / "adapter").eval()


def padded(tokenizer: Any, prompts: list[Any], responses: list[Any]) -> dict[str, torch.Tensor]:
    """A right-padded batch, written out here."""
    rows = [
        encode_prompt(tokenizer, p) + encode_response(tokenizer, r)
        for p, r in zip(prompts, responses, strict=True)
    ]
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    return {
        "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows]),
    }


def test_scores_equal_the_trained_classifiers_own(model: RewardModel, classifier: Any) -> None:
    with torch.no_grad():
        batch = padded(model.tokenizer, PROMPTS, RESPONSES)
        expected = classifier(**batch).logits[:, 0].tolist()
    assert model(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected}) == 4  # four different scores


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_scores_do_not_depend_on_batch_or_order(
    model: RewardModel, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [model([p], [r])[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    monkeypatch.setattr(model, "batch_tokens", batch_tokens)
    assert model(PROMPTS, RESPONSES) == pytest.approx(alone, abs=1e-5)
    turned = model(PROMPTS[::-1], RESPONSES[::-1], column=[1, 2, 3, 4])
    assert turned == pytest.approx(alone[::-1], abs=1e-5)


def test_pairs_are_encoded_with_template_and_one_eos(model: RewardModel) -> None:
    tokenizer = model.tokenizer
    text = "<|begin|><|user|>say something<|end|><|assistant|>"
    start = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = tokenizer("bad", add_special_tokens=False)["input_ids"]
    assert model.encode(PROMPTS[1], RESPONSES[1]) == [*start, *answer, tokenizer.eos_token_id]


def test_the_last_real_token_is_found_by_length_even_if_it_is_a_pad(
    model: RewardModel, classifier: Any
) -> None:
    ids = [*model.encode(PROMPTS[0], RESPONSES[0]), model.tokenizer.pad_token_id]
    with torch.no_grad():
        trunk = classifier.get_base_model()
        hidden = trunk.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        expected = float(trunk.score(hidden))
    longer = model.encode(PROMPTS[3], RESPONSES[2])
    found = model.score_ids([ids, longer])[0]
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(found - model.score_ids([ids[:-1]])[0]) > 1e-3


def test_of_too_long_a_sequence_the_beginning_is_left_out(model: RewardModel) -> None:
    long = [{"role": "user", "content": "rain " * 300}]
    ids = encode_prompt(model.tokenizer, long) + encode_response(model.tokenizer, "good")
    assert ids[0] == model.tokenizer.bos_token_id
    assert model.encode(long, "good") == [ids[0], *ids[-95:]]


def test_normalised_scores_use_the_stored_constants(stage: Path, model: RewardModel) -> None:
    stored = json.loads((stage / "adapter" / "reward_config.json").read_text())
    normal = RewardModel.load(stage, normalised=True, device="cpu")
    expected = [(s - stored["mean"]) / stored["std"] for s in model(PROMPTS, RESPONSES)]
    assert normal(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-5)
    samples = [json.loads(line) for line in (stage / "samples.jsonl").read_text().splitlines()]
    prompts = [row["prompt"] for row in samples] * 2
    responses = [row[side] for side in ("chosen", "rejected") for row in samples]
    scores = torch.tensor(normal(prompts, responses), dtype=torch.float64)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_on_a_shared_base_it_scores_alike_and_leaves_the_base_alone(
    stage: Path, model: RewardModel, sft_reference: Any
) -> None:
    loaded = load_model(sft_reference, device="cpu")
    ids = torch.tensor([model.encode(PROMPTS[0], RESPONSES[0])])
    with torch.no_grad():
        before = loaded.model(input_ids=ids).logits
    shared = SharedBase(loaded.model)
    other = RewardModel.on(shared, stage, loaded.tokenizer)
    assert other(PROMPTS, RESPONSES) == pytest.approx(model(PROMPTS, RESPONSES), abs=1e-6)
    assert shared.active_adapter is None
    with torch.no_grad():
        assert torch.equal(shared.causal(input_ids=ids).logits, before)
    assert not any(p.requires_grad for p in shared.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("base_model.model.score.weight", "0 score heads"),
        ("reward_config.json", "no reward_config.json"),
        ("adapter_model.safetensors", "no adapter_model.safetensors"),
    ],
)
def test_a_reward_model_without_one_of_its_parts_is_refused(
    stage: Path, tmp_path: Path, name: str, message: str, sft_reference: Any
) -> None:
    broken = tmp_path / "3-reward"
    shutil.copytree(stage, broken)
    weights = broken / "adapter" / "adapter_model.safetensors"
    if (broken / "adapter" / name).is_file():
        (broken / "adapter" / name).unlink()
    else:
        state = load_file(weights)
        del state[name]
        save_file(state, weights)
    with pytest.raises(UserError, match=message):
        RewardModel.load(broken, device="cpu", reference=sft_reference)


def test_a_spread_of_zero_cannot_normalise(stage: Path, tmp_path: Path, sft_reference: Any) -> None:
    broken = tmp_path / "3-reward"
    shutil.copytree(stage, broken)
    (broken / "adapter" / "reward_config.json").write_text('{"mean": 1.0, "std": 0.0}')
    with pytest.raises(UserError, match="cannot normalise"):
        RewardModel.load(broken, normalised=True, device="cpu", reference=sft_reference)
    (broken / "adapter" / "reward_config.json").write_text('{"middle": 1.0}')
    with pytest.raises(UserError, match="not a reward model's settings"):
        RewardModel.load(broken, device="cpu", reference=sft_reference)


def test_no_responses_have_no_scores(model: RewardModel) -> None:
    assert model([], []) == []


def test_batches_begin_with_the_longest_and_depend_on_the_set_alone(stage: Path) -> None:
    model = RewardModel.load(stage, device="cpu")
    model.batch_tokens = 6
    seen: list[Any] = []

    def score(batch: list[tuple[int, ...]]) -> list[int]:
        seen.append(batch)
        return [sum(ids) for ids in batch]

    # of length 3 two fit; of length 2 three; those of equal length stand by their ids
    expected = [[(1, 2, 3), (3, 4)], [(9, 1), (7,)]]
    for ids in itertools.permutations([(9, 1), (7,), (3, 4), (1, 2, 3)]):
        seen.clear()
        assert model.in_batches([*ids, (7,)], score) == [*map(sum, ids), 7]
        assert seen == expected


def test_order_and_repetition_change_no_bit_of_a_score(stage: Path) -> None:
    model = RewardModel.load(stage, device="cpu")
    model.batch_tokens = 40  # several batches
    ids = [list(range(5, 5 + length)) for length in (9, 3, 14, 9, 6, 11)]
    ids[3] = ids[3][::-1]
    first = model.score_ids(ids)
    assert model.score_ids(ids[::-1]) == first[::-1]
    assert model.score_ids([*ids[2:], *ids, ids[0]]) == [*first[2:], *first, first[0]]
    assert len(set(first)) == 6
