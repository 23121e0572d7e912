"""Evaluation while training (docs/ppo.md item 24): held-out prompts, gold, the best checkpoint."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from align.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]
Rows = Callable[[PPOTrainer], list[dict[str, float]]]
HELD_OUT = [{"prompt": "z a", "tag": 1}, {"prompt": "q", "tag": 2}, {"prompt": "w x y", "tag": 3}]


def length(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text.split())) for text in completions]


@pytest.mark.parametrize("again", [True, False])
def test_held_out_prompts_are_answered_and_scored(make_trainer: Make, again: bool) -> None:
    seen: list[dict[str, Any]] = []

    def gold(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        seen.append({"prompts": prompts, "completions": completions, **columns})
        return [2.0, 3.0, 7.0]

    trainer = make_trainer(
        score=length,
        parts={"eval_dataset": HELD_OUT, "gold_func": gold},
        recompute_logprobs=again,
    )
    metrics = trainer.evaluate()
    assert metrics["eval/gold"] == 4.0
    assert metrics["eval/n"] == 3
    (call,) = seen
    assert call["prompts"] == ["z a", "q", "w x y"]
    assert call["tag"] == [1, 2, 3]
    # the tokens as in TRL, EOS among them
    tokens = sum(map(len, call["completion_ids"]))
    assert metrics["eval/length"] == pytest.approx(tokens / 3)
    decoded = trainer.tokenizer.batch_decode(call["completion_ids"], skip_special_tokens=True)
    assert decoded == call["completions"]
    scores = length(call["completions"])
    assert metrics["eval/score"] == pytest.approx(sum(scores) / 3)
    # words and, where a response ended by itself, its EOS
    assert metrics["eval/length"] == pytest.approx(sum(scores) / 3 + metrics["eval/eos_rate"])
    # a fresh policy is the reference, up to the rounding of cached steps
    assert metrics["eval/kl"] == pytest.approx(0.0, abs=0.0 if again else 1e-6)
    assert metrics["eval/kl_k3"] == pytest.approx(0.0, abs=0.0 if again else 1e-11)
    assert 2.5 < metrics["eval/entropy"] < 4.5  # near the 3.37 nats of 29 equal words
    assert [row["prompt"] for row in trainer.samples] == call["prompts"]
    assert [row["response"] for row in trainer.samples] == call["completions"]


def test_reward_functions_see_the_tokens_of_every_rollout(make_trainer: Make) -> None:
    seen: list[list[int]] = []

    def score(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert trainer.tokenizer.batch_decode(completion_ids, skip_special_tokens=True) == list(
            completions
        )
        seen.extend(completion_ids)
        return [float(len(ids)) for ids in completion_ids]

    # as in TRL, a column of that name gives way
    rows = [{"prompt": text, "completion_ids": "?"} for text in ("z a", "q", "w x y", "b")]
    trainer = make_trainer(score=score, prompts=rows)
    trainer.train()
    assert len(seen) == 16
    logged = [r for r in trainer.state.log_history if "update" in r]
    assert logged[0]["score/mean"] == pytest.approx(sum(map(len, seen[:8])) / 8)
    assert logged[0]["response/length"] == logged[0]["score/mean"]


def test_evaluating_repeats_itself_and_disturbs_nothing(
    make_trainer: Make, rows_logged: Rows
) -> None:
    alone = make_trainer()
    alone.train()
    watched = make_trainer(parts={"eval_dataset": HELD_OUT}, eval_updates=1)
    watched.train()
    assert rows_logged(watched) == rows_logged(alone)
    logged = [row for row in watched.state.log_history if "eval/score" in row]
    assert [row["step"] for row in logged] == [4, 8]
    assert watched.evaluate() == watched.evaluate()
    assert {k: v for k, v in logged[-1].items() if k.startswith("eval/")} == watched.evaluate()


def test_another_set_can_be_evaluated(make_trainer: Make) -> None:
    trainer = make_trainer()
    metrics = trainer.evaluate([{"prompt": "a b"}], metric_key_prefix="test")
    assert metrics["test/n"] == 1
    assert all(name.startswith("test/") for name in metrics)


def test_callbacks_hear_of_an_evaluation(make_trainer: Make) -> None:
    heard: list[dict[str, float]] = []

    class Listener(TrainerCallback):
        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            heard.append(metrics)

    trainer = make_trainer(parts={"eval_dataset": HELD_OUT, "callbacks": [Listener()]})
    metrics = trainer.evaluate()
    assert heard == [metrics]


def test_the_checkpoint_best_by_gold_is_kept_and_loaded(make_trainer: Make, tmp_path: Path) -> None:
    # Gold says 1, 5, 2 after the three updates, while the score it trains on says nothing of it.
    verdicts = iter([1.0, 5.0, 2.0])

    def gold(prompts: list[str], **_: Any) -> list[float]:
        return [next(verdicts)] * len(prompts)

    trainer = make_trainer(
        total_episodes=24,
        eval_updates=1,
        save_strategy="best",
        metric_for_best_model="gold",
        greater_is_better=True,
        load_best_model_at_end=True,
        save_total_limit=1,
        parts={"eval_dataset": HELD_OUT, "gold_func": gold},
    )
    trainer.train()
    assert trainer.state.best_metric == 5.0
    assert trainer.state.best_global_step == 8
    best = tmp_path / "out" / "checkpoint-8"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-8"]
    weights = load_file(best / "adapter_model.safetensors")
    assert all(
        torch.equal(w, weights[k]) for k, w in trainer.shared.adapter_state("policy").items()
    )


def test_a_score_that_rises_while_gold_falls_is_told(
    make_trainer: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Item 24. Scores 1, 2, 3 and gold 5, 6, 4 in three evaluations: the last is the divergence.
    # Loading the best checkpoint, the second, does not make it unsaid.
    proxy, verdicts = iter([1.0, 2.0, 3.0]), iter([5.0, 6.0, 4.0])

    def paired(values: Any) -> Callable[..., list[float]]:
        return lambda prompts, **_: [next(values)] * len(prompts)

    def proxy_score(prompts: list[str], **_: Any) -> list[float]:
        return paired(proxy)(prompts) if "w x y" in prompts else [0.0] * len(prompts)

    trainer = make_trainer(
        score=proxy_score,
        total_episodes=24,
        eval_updates=1,
        save_strategy="best",
        metric_for_best_model="gold",
        greater_is_better=True,
        load_best_model_at_end=True,
        parts={"eval_dataset": HELD_OUT, "gold_func": paired(verdicts)},
    )
    with caplog.at_level(logging.WARNING, logger="align.ppo"):
        trainer.train()
    expected = "update 3: the score rose by 1 while the gold reward fell by 2"
    assert trainer.memory.alarms["gold"] == expected
    assert expected in [record.getMessage() for record in caplog.records]
    assert [(e.scores, e.gold) for e in trainer.memory.evaluated] == [
        ([a] * 3, [b] * 3) for a, b in ((1.0, 5.0), (2.0, 6.0), (3.0, 4.0))
    ]
    assert trainer.state.best_global_step == 8


def test_an_evaluation_of_other_prompts_is_not_compared(make_trainer: Make) -> None:
    trainer = make_trainer(parts={"eval_dataset": HELD_OUT})
    trainer.evaluate()
    trainer.evaluate([{"prompt": "a b"}])
    assert [len(evaluated.scores) for evaluated in trainer.memory.evaluated] == [3]
