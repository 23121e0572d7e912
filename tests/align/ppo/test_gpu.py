"""PPO on a GPU (`pytest -m gpu --with gpu`): the numbers of the CPU, in float32 and bfloat16."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaForCausalLM

from align.ppo.trainer import PPOTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]
SAME = ("score/mean", "kl/k1", "policy/entropy", "policy/loss", "value/loss")


@pytest.fixture(autouse=True)
def whole_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


def rows(trainer: PPOTrainer) -> list[dict[str, float]]:
    """What every update logged."""
    trainer.train()
    return [row for row in trainer.state.log_history if "update" in row]


def test_updates_are_those_of_the_cpu(make_trainer: Callable[..., PPOTrainer]) -> None:
    expected, found = rows(make_trainer()), rows(make_trainer(use_cpu=False))
    assert len(expected) == len(found) > 1
    for one, other in zip(expected, found, strict=True):
        for name in SAME:
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name


def test_mixed_precision_trains(make_trainer: Callable[..., PPOTrainer]) -> None:
    found = rows(make_trainer(use_cpu=False, bf16=True))
    assert all(abs(row["sampler/gap_max"]) < 0.5 for row in found)


def test_logits_of_bfloat16(make_model: Callable[..., LlamaForCausalLM]) -> None:
    ids = torch.arange(3, 15).reshape(2, 6)
    wanted = make_model()(ids).logits
    found = make_model().to("cuda", torch.bfloat16)(ids.cuda()).logits.float().cpu()
    assert (found - wanted).norm() < 0.03 * wanted.norm()
