"""Policy, reference and critic of every kind (docs/ppo.md items 18, 20, 21) through training."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from align.config import LoraConfig
from align.errors import UserError
from align.ppo.config import PPOConfig
from align.ppo.parts import add_parts, parameter_groups, restore_parts, save_parts
from align.ppo.trainer import PPOTrainer
from align.shared import SharedBase

Make = Callable[..., PPOTrainer]
Model = Callable[..., LlamaForCausalLM]
Rows = Callable[[PPOTrainer], list[dict[str, float]]]
IDS = torch.arange(3, 15).reshape(2, 6)
FULL: dict[str, Any] = {"peft_config": None}


@torch.no_grad()
def logits(trainer: PPOTrainer, part: str | None) -> Tensor:
    with trainer.shared.active(part):
        return trainer.shared.causal(IDS).logits


def classifier(seed: int = 3) -> LlamaForSequenceClassification:
    """A scalar model over the words, of another size than the policy."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(
            LlamaConfig(
                vocab_size=29, hidden_size=16, intermediate_size=40, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=2, num_labels=1, pad_token_id=0,
            )
        )  # fmt: skip
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= 8
    return model.eval()


@pytest.mark.parametrize("critic", ["head", "model"])
@pytest.mark.parametrize("tied", [False, True])
def test_full_training_moves_the_policy_and_not_the_reference(
    make_trainer: Make, make_model: Model, rows_logged: Rows, critic: str, tied: bool
) -> None:
    # Item 20.
    model = make_model(tie_word_embeddings=tied)
    with torch.no_grad():
        expected = deepcopy(model)(IDS).logits
    trainer = make_trainer(model=model, critic=critic, parts=FULL)
    assert trainer.shared.reference == "reference"
    assert torch.equal(logits(trainer, "policy"), expected)
    before = [p.clone() for p in trainer.shared.model_of("reference").parameters()]
    trainer.train()
    after = list(trainer.shared.model_of("reference").parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert torch.equal(logits(trainer, "reference"), expected)
    assert not torch.allclose(logits(trainer, "policy"), expected, atol=0.1)
    rows = rows_logged(trainer)
    assert rows[0]["kl/k1"] == pytest.approx(0.0, abs=1e-6)
    assert rows[1]["kl/k3"] > 1e-3


def test_a_fully_trained_policy_is_saved_as_a_model(make_trainer: Make, tmp_path: Path) -> None:
    # Item 21: transformers loads it, and it says the same.
    trainer = make_trainer(critic="head", parts=FULL)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, logits(trainer, "policy"))
    head = load_file(tmp_path / "saved" / "critic" / "head.safetensors")
    assert torch.equal(head["weight"], trainer.shared.heads["critic"].weight)
    assert head["weight"].abs().max().item() > 0


@pytest.mark.parametrize(
    ("lora", "critic", "counts"),
    [
        # Two blocks of seven layers, A and B each; a model of two blocks has 2 * 9 weights, an
        # embedding and a norm, and, not tied, a head; the critic's own head has weight and bias.
        (LoraConfig(r=4), "adapter", (28, 28 + 2)),
        (LoraConfig(r=4), "head", (28, 2)),
        (LoraConfig(r=4), "model", (28, 20 + 2)),
        (None, "head", (21, 2)),
        (None, "model", (21, 20 + 2)),
    ],
)
def test_the_optimizer_holds_what_learns_and_all_of_it_learns(
    make_trainer: Make, lora: LoraConfig | None, critic: str, counts: tuple[int, int]
) -> None:
    # Item 20: every number in the optimizer gets a gradient, nothing else does.
    trainer = make_trainer(
        critic=critic, parts={"peft_config": lora}, optim="sgd", learning_rate=0.1
    )
    groups = trainer.create_optimizer().param_groups
    assert tuple(len(group["params"]) for group in groups) == counts
    held = {id(p) for group in groups for p in group["params"]}
    assert len(held) == sum(counts)
    assert held == {id(p) for p in trainer.shared.parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trainer.shared.named_parameters()}
    trainer.train()
    for name, parameter in trainer.shared.named_parameters():
        assert torch.equal(parameter, before[name]) is (id(parameter) not in held), name


def test_a_rate_of_zero_is_a_rate(tmp_path: Path, make_parts: Callable[..., SharedBase]) -> None:
    args = PPOConfig(output_dir=str(tmp_path), use_cpu=True, critic_learning_rate=0.0)
    policy, critic = parameter_groups(make_parts(LoraConfig(r=2), "head"), args)
    assert (policy["lr"], critic["lr"]) == (3e-5, 0.0)


def test_a_critic_of_its_own_starts_with_its_score_and_is_saved(
    make_trainer: Make, tmp_path: Path
) -> None:
    # Item 18: values are the classifier's scores of every prefix, by its own forward pass.
    given = classifier()
    expected = torch.empty(2, 6)
    with torch.no_grad():
        for n in range(1, 7):
            expected[:, n - 1] = given(IDS[:, :n]).logits[:, 0]
    trainer = make_trainer(parts={"value_model": given})

    @torch.no_grad()
    def values(trainer: PPOTrainer) -> Tensor:
        with trainer.shared.active("critic"):
            hidden = trainer.shared.hidden(IDS, torch.ones_like(IDS))
        return trainer.shared.heads["critic"](hidden)[..., 0]

    torch.testing.assert_close(values(trainer), expected, atol=1e-5, rtol=1e-5)
    held = {id(p) for p in trainer.create_optimizer().param_groups[1]["params"]}
    head = trainer.shared.heads["critic"]
    assert held == {id(p) for p in [*given.model.parameters(), *head.parameters()]}
    trainer.train()
    learned = values(trainer)
    assert not torch.allclose(learned, expected, atol=1e-2)
    trainer.save_model(str(tmp_path / "saved"))
    fresh = make_trainer(parts={"value_model": classifier(seed=4)})
    assert not torch.allclose(values(fresh), learned, atol=1e-2)
    restore_parts(fresh.shared, tmp_path / "saved")
    assert torch.equal(values(fresh), learned)
    assert torch.equal(logits(fresh, "policy"), logits(trainer, "policy"))


@pytest.mark.parametrize("lora", [LoraConfig(r=4), None])
def test_the_penalty_is_measured_against_a_given_reference(
    make_trainer: Make, make_model: Model, rows_logged: Rows, lora: LoraConfig | None
) -> None:
    # By that model's own forward pass over every response of the first update.
    other = make_model(seed=8)
    trainer = make_trainer(
        critic="head",
        total_episodes=8,
        parts={"ref_model": deepcopy(other), "peft_config": lora},
    )
    start = deepcopy(trainer.shared.model_of("policy"))
    trainer.train()
    assert trainer.rollout is not None
    total = 0.0
    for row in range(8):
        prompt = trainer.rollout.prompt_ids[row][trainer.rollout.prompt_mask[row]]
        response = trainer.rollout.response_ids[row][trainer.rollout.mask[row]]
        ids = torch.cat([prompt, response])[None]
        for model, sign in ((start, 1), (other, -1)):
            with torch.no_grad():
                said = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            total += sign * said.gather(1, response[:, None]).sum().item()
    (row,) = rows_logged(trainer)
    assert abs(total / 8) > 0.1
    assert row["kl/k1"] == pytest.approx(total / 8, abs=1e-4)


def test_parts_that_do_not_go_together_are_refused(
    make_trainer: Make, make_model: Model, tmp_path: Path
) -> None:
    def with_reward() -> SharedBase:
        shared = SharedBase(make_model())
        shared.add_adapter("reward", LoraConfig(r=2))
        return shared

    with pytest.raises(UserError, match=r"base cannot train: it carries the adapters \['reward'\]"):
        make_trainer(model=with_reward(), critic="head", parts=FULL)
    with pytest.raises(UserError, match=r"copied from the base would hold its adapters"):
        make_trainer(model=with_reward(), critic="model")
    with pytest.raises(UserError, match="a critic's adapter needs a frozen base"):
        make_trainer(parts=FULL)
    # what was loaded on the base stays usable with LoRA, and beside a critic of another base
    args = PPOConfig(output_dir=str(tmp_path), use_cpu=True)
    shared = with_reward()
    add_parts(shared, args, LoraConfig(r=2), value_model=classifier())
    assert shared.adapters == ["reward", "policy"]
    assert shared.active_adapter == "policy"


@pytest.mark.parametrize(
    ("lora", "critic"), [(LoraConfig(r=4), "model"), (None, "model"), (None, "head")]
)
def test_saved_parts_of_every_kind_come_back_bit_equal(
    make_parts: Callable[..., SharedBase], tmp_path: Path, lora: LoraConfig | None, critic: str
) -> None:
    # Item 21; adapters have a test of their own in test_shared.
    one = make_parts(lora, critic)
    save_parts(one, tmp_path)
    other = make_parts(lora, critic, {"seed": 1} if lora is None else None)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    restore_parts(other, tmp_path)
    found, expected = dict(other.named_parameters()), dict(one.named_parameters())
    compared = [name for name, p in expected.items() if p.requires_grad]
    assert len(compared) > 20
    for name in compared:
        assert torch.equal(found[name], expected[name]), name
