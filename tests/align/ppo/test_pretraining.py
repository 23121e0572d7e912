"""The pretraining loss (docs/ppo.md item 13) against the language model's own objective."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from align.config import LoraConfig
from align.errors import UserError
from align.ppo.config import PPOConfig
from align.ppo.learner import Learner
from align.ppo.passes import Passes
from align.ppo.pretraining import TextSet, text_loss
from align.ppo.trainer import PPOTrainer
from align.ppo.watch import Watch
from align.shared import SharedBase

TEXTS = ["a b c d e", "f g", "h i j k l m n", "o p q"]
LORA = LoraConfig(r=4, alpha=8)
Parts = Callable[..., SharedBase]


def make_learner(
    shared: SharedBase, tokenizer: PreTrainedTokenizerFast, folder: Path, **arguments: Any
) -> Learner:
    args = PPOConfig(output_dir=str(folder), use_cpu=True, ptx_coef=0.7, seed=5, **arguments)
    accelerator = Accelerator(cpu=True)
    # the loss of text does not know the sampling temperature
    passes = Passes(shared, 1.7, accelerator.autocast)
    texts = TextSet([{"text": text} for text in TEXTS], tokenizer, 6)
    return Learner(passes, args, accelerator, texts)


def gradients(shared: SharedBase) -> list[Tensor]:
    """Those of the policy, removed; the critic has none."""
    assert all(p.grad is None for p in shared.trainable_parameters("critic"))
    found = []
    for parameter in shared.trainable_parameters("policy"):
        assert parameter.grad is not None
        found.append(parameter.grad)
        parameter.grad = None
    return found


def written_out(shared: SharedBase, texts: list[list[int]]) -> float:
    """Mean negative log-likelihood a token, a text at a time; leaves .7 of its gradient."""
    total = torch.zeros(())
    for ids in texts:
        said = shared.causal(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        total = total - said.gather(1, torch.tensor(ids[1:])[:, None]).sum()
    loss = total / sum(len(ids) - 1 for ids in texts)
    (0.7 * loss).backward()
    return loss.item()


@pytest.mark.parametrize("lora", [LORA, None])
def test_the_gradient_is_that_of_the_mean_over_all_tokens(
    make_parts: Parts, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, lora: LoraConfig | None
) -> None:
    # All four texts in one micro-batch; "h ... n" is cut to six tokens.
    shared = make_parts(lora, "head")
    ids = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12, 13, 14, 15], [17, 18, 19]]
    loss = written_out(shared, ids)
    expected = gradients(shared)
    watch = Watch()
    learner = make_learner(shared, tokenizer, tmp_path, per_device_train_batch_size=4)
    shared.activate(None)
    learner.text_step(0, watch)
    for one, other in zip(gradients(shared), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    watch.step({"policy": 0.0, "critic": 0.0})
    assert watch.summary()["ptx/loss"] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_of_text_give_equal_gradients(
    make_parts: Parts, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, micro: int
) -> None:
    # Item 14, though they hold different numbers of tokens; also in a later optimizer batch.
    shared = make_parts(LORA, "adapter")
    for batch in (0, 3):
        found, losses = [], []
        for size in (4, micro):
            steps = 4 // size
            learner = make_learner(
                shared,
                tokenizer,
                tmp_path,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
            )
            watch = Watch()
            for step in range(steps):
                learner.text_step(batch * steps + step, watch)
            found.append(gradients(shared))
            watch.step({"policy": 0.0, "critic": 0.0})
            losses.append(watch.summary()["ptx/loss"])
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_padding_has_no_part_in_the_loss(
    make_parts: Parts, tokenizer: PreTrainedTokenizerFast
) -> None:
    shared = make_parts(LORA, "adapter")
    passes = Passes(shared, 1.0, Accelerator(cpu=True).autocast)
    rows = [[3, 4, 5, 6, 7, 8], [9, 10], [11, 12, 13]]
    with torch.no_grad():
        together = text_loss(passes, rows, 1.0).item()
        alone = sum(text_loss(passes, [row], 1.0).item() for row in rows)
    assert together == pytest.approx(alone, abs=1e-4)


def test_every_text_comes_once_a_round_over_all_processes(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    texts = TextSet([{"text": f"{word} a"} for word in "abcdefgh"], tokenizer, 9)
    rounds = []
    for start in (0, 2):
        drawn = [texts.batch(start + i, 2, rank, 2, 7) for i in (0, 1) for rank in (0, 1)]
        assert all(len(batch) == 2 for batch in drawn)
        rounds.append([ids[0] for batch in drawn for ids in batch])
    assert [sorted(order) for order in rounds] == [list(range(3, 11))] * 2
    assert rounds[0] != rounds[1]


def test_texts_that_do_not_fit_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"row 1 has no `text` \(it has \['prompt'\]\)"):
        TextSet([{"text": "a b"}, {"prompt": "c"}], tokenizer, 9)
    with pytest.raises(UserError, match="no text has two tokens"):
        TextSet([{"text": "a"}, {"text": ""}], tokenizer, 9)
    assert TextSet([{"text": "a"}, {"text": "b c"}], tokenizer, 9).ids == [[4, 5]]


def test_the_coefficient_and_the_texts_go_together(
    make_trainer: Callable[..., PPOTrainer],
) -> None:
    with pytest.raises(UserError, match="ptx_coef and ptx_dataset go together"):
        make_trainer(ptx_coef=0.5)
    with pytest.raises(UserError, match="ptx_coef and ptx_dataset go together"):
        make_trainer(parts={"ptx_dataset": [{"text": "a b"}]})


def test_the_loss_of_text_falls_while_ppo_runs(
    make_trainer: Callable[..., PPOTrainer],
    rows_logged: Callable[[PPOTrainer], list[dict[str, float]]],
) -> None:
    # One text: its loss is that of the policy at each optimizer step, and what PPO alone does not
    # teach. While the critic warms up, the policy does not learn from text either.
    trainer = make_trainer(
        total_episodes=48,
        ptx_coef=1.0,
        critic_warmup_updates=1,
        learning_rate=3e-2,
        parts={"ptx_dataset": [{"text": "a b a b a b"}]},
    )
    with torch.no_grad():
        ids = torch.tensor([[3, 4, 3, 4, 3, 4]])
        start = trainer.shared.causal(ids, labels=ids).loss.item()  # transformers' own mean
    trainer.train()
    rows = rows_logged(trainer)
    assert "ptx/loss" not in rows[0]
    single = make_trainer(
        num_ppo_epochs=1, num_mini_batches=1, total_episodes=4, ptx_coef=1.0,
        parts={"ptx_dataset": [{"text": "a b a b a b"}]},
    )  # fmt: skip
    single.train()
    assert rows_logged(single)[0]["ptx/loss"] == pytest.approx(start, abs=1e-5)
    assert rows[-1]["ptx/loss"] < start - 1.0
