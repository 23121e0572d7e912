"""PPO learns what theory says it must (docs/ppo.md item 26)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from align.config import LoraConfig
from align.ppo import experience
from align.ppo.rewards import KLEstimates
from align.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]
V, H = 8, 32
WORDS = ["", "", "", "a", "b", "c", "d", "e"]
"""Responses of one token as text; special tokens are left out when decoding."""
PROMPT = torch.tensor([[3, 4]])


@pytest.fixture
def make_bandit(
    make_trainer: Make, make_model: Callable[..., LlamaForCausalLM]
) -> Callable[..., PPOTrainer]:
    """One prompt, one token a response, a fixed score for each word."""

    def make(seed: int, **arguments: Any) -> PPOTrainer:
        model = make_model(
            seed, vocab_size=V, hidden_size=H, intermediate_size=H, num_hidden_layers=1
        )
        # Orthogonal rows: the hidden state, whose length is fixed, reaches every distribution.
        generator = torch.Generator().manual_seed(seed)
        rows = torch.linalg.qr(torch.randn(H, V, generator=generator)).Q.T
        model.lm_head.weight.data = rows * 1.2
        table = scores_of(seed)

        def score(completions: list[str], **_: Any) -> list[float]:
            return [float(table[WORDS.index(text)]) for text in completions]

        settings: dict[str, Any] = {
            "learning_rate": 0.03, "total_episodes": 50 * 512, "per_device_train_batch_size": 512,
            "num_mini_batches": 1, "response_length": 1, "kl_coef": 0.7, "truncation": "none",
            "seed": seed,
        }  # fmt: skip
        lora = LoraConfig(r=8, alpha=16, target_modules=("down_proj",))
        return make_trainer(
            model=model,
            score=score,
            prompts=[{"prompt": "a b"}],
            parts={"peft_config": lora},
            **settings | arguments,
        )

    return make


def scores_of(seed: int) -> Tensor:
    """The score of each token (V,); the special ones all read as empty text."""
    table = torch.randn(V, generator=torch.Generator().manual_seed(seed + 50))
    table[1:3] = table[0]
    return table


@torch.no_grad()
def distribution(trainer: PPOTrainer, name: str | None) -> Tensor:
    """Probabilities (V,) of the response under an adapter."""
    with trainer.shared.active(name):
        return trainer.shared.causal(PROMPT).logits[0, -1].softmax(-1)


def total_variation(one: Tensor, other: Tensor) -> float:
    return 0.5 * (one - other).abs().sum().item()


def optimum(trainer: PPOTrainer, seed: int) -> Tensor:
    """What maximises E[score] - beta KL: pi ~ ref * exp(score / beta) (Ziegler 2019, eq. 3)."""
    reference = distribution(trainer, None)
    tilted = reference * torch.exp(scores_of(seed) / trainer.args.kl_coef)
    return tilted / tilted.sum()


@pytest.mark.parametrize(
    "seed", [0, 4, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2, 3, 5, 6, 7, 8, 9))]
)
def test_one_token_responses_reach_the_analytic_optimum(
    make_bandit: Callable[..., PPOTrainer], seed: int
) -> None:
    trainer = make_bandit(seed)
    best = optimum(trainer, seed)
    assert total_variation(distribution(trainer, "policy"), best) > 0.1
    trainer.train()
    assert total_variation(distribution(trainer, "policy"), best) <= 0.02


def test_with_a_flipped_penalty_the_optimum_is_missed(
    make_bandit: Callable[..., PPOTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test above can fail: a bonus for leaving the reference leads elsewhere.
    right = experience.kl_estimates

    def flipped(logprobs: Tensor, reference: Tensor) -> KLEstimates:
        found = right(logprobs, reference)
        return found._replace(k1=-found.k1)

    monkeypatch.setattr(experience, "kl_estimates", flipped)
    trainer = make_bandit(0, total_episodes=20 * 512)
    best = optimum(trainer, 0)
    trainer.train()
    assert total_variation(distribution(trainer, "policy"), best) > 0.2


def test_a_very_large_penalty_pins_the_policy_to_the_reference(
    make_bandit: Callable[..., PPOTrainer],
) -> None:
    trainer = make_bandit(0, kl_coef=1e4, total_episodes=20 * 512)
    reference = distribution(trainer, None)
    trainer.train()
    policy = distribution(trainer, "policy")
    assert total_variation(policy, reference) <= 0.02
    assert not torch.equal(policy, reference)


def test_a_toy_score_rises(
    make_trainer: Make,
    make_model: Callable[..., LlamaForCausalLM],
    rows_logged: Callable[[PPOTrainer], list[dict[str, float]]],
) -> None:
    # Responses of up to 6 words, of which "a" counts; 29 words, so about .2 of them at first.
    trainer = make_trainer(
        model=make_model(spread=20.0),
        total_episodes=30 * 64,
        per_device_train_batch_size=32,
        learning_rate=2e-2,
        truncation="none",
        kl_coef=0.02,
    )
    trainer.train()
    rows = rows_logged(trainer)
    first = sum(row["score/mean"] for row in rows[:3]) / 3
    last = sum(row["score/mean"] for row in rows[-3:]) / 3
    assert first < 0.5
    assert last > 2.5
    assert rows[-1]["kl/k1"] > 1.0
    # A critic that starts at 0 explains nothing; later it tells good states from bad ones.
    assert rows[0]["value/explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert max(row["value/explained_variance"] for row in rows) > 0.1
