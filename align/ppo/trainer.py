"""PPO with a critic and any reward on one shared base, as a `transformers.Trainer`.

Source: Schulman 2017 (1707.06347), Ziegler 2019 (1909.08593), and the implementation details of
2403.17031. Departures: policy, critic and reference are adapters of one model instead of copies;
policy and critic gradients are clipped apart, so that a large value error cannot shrink the
policy's step. transformers' loop owns optimizer steps, schedules, checkpoints and callbacks: its
"batches" are numbered micro-steps, and the rollout of an update is sampled at its first one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
)

from align.artifacts import write_json_atomic
from align.config import LoraConfig
from align.errors import UserError
from align.ppo.actor import Actor, ppo_sampling
from align.ppo.config import PPOConfig
from align.ppo.experience import collect
from align.ppo.learner import Learner, add_parts
from align.ppo.prompts import EVALUATE, SAMPLE, PromptSet, scheduled_indices, stream
from align.ppo.rewards import AdaptiveKL
from align.ppo.rollout import Rollout
from align.ppo.scoring import RewardFunction, sample_rows, score_responses
from align.ppo.watch import Watch, check_finite, response_metrics
from align.shared import SharedBase


class PPOTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Train a policy with PPO.

    Args:
        model: A causal LM, or a `SharedBase` that may already hold a reward model.
        reward_funcs: One or more callables `(prompts, completions, **columns) -> list[float]`;
            their scores are added.
        args: Hyper-parameters.
        train_dataset: Rows with `prompt` (text or messages); other columns reach the functions.
        eval_dataset: Held-out rows of the same form.
        processing_class: The tokenizer; its pad token must not be its EOS.
        peft_config: Shape of the policy's and the critic's LoRA.
        callbacks: Callbacks of transformers.
        gold_func: A reward that is only watched on held-out prompts, never trained on.

    Example:
        >>> trainer = PPOTrainer(
        ...     model=model,
        ...     reward_funcs=lambda prompts, completions, **_: [len(c) for c in completions],
        ...     args=PPOConfig(output_dir="out", total_episodes=256),
        ...     train_dataset=[{"prompt": "Once upon a time"}],
        ...     processing_class=tokenizer,
        ... )
        >>> trainer.train()
        >>> trainer.save_model("out/policy")

    Raises:
        UserError: The tokenizer has no EOS, or data or arguments do not fit.
    """

    args: PPOConfig
    optimizer: torch.optim.Optimizer | None
    control: TrainerControl

    def __init__(
        self,
        model: PreTrainedModel | SharedBase,
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        args: PPOConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: LoraConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        gold_func: RewardFunction | None = None,
    ) -> None:
        sampling = ppo_sampling(args, processing_class)
        assert processing_class is not None
        shared = model if isinstance(model, SharedBase) else SharedBase(model)
        add_parts(shared, args, peft_config or LoraConfig())
        self.shared = shared
        self.tokenizer: PreTrainedTokenizerBase = processing_class
        self.reward_funcs = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
        self.gold_func = gold_func
        self.prompts = self._prompt_set(train_dataset, args)
        self.kl_controller = AdaptiveKL(args.kl_coef, args.kl_target, args.kl_horizon)
        self.rollout: Rollout | None = None
        self.samples: list[dict[str, Any]] = []
        self.watch = Watch()
        super().__init__(
            model=shared,
            args=args,
            eval_dataset=None if eval_dataset is None else self._prompt_set(eval_dataset, args),
            processing_class=processing_class,
            data_collator=_micro_step,
            callbacks=[*(callbacks or []), _UpdateEnd(self)],
        )
        # the callback that ends an update must log before those of the caller read the log
        self.callback_handler.callbacks.sort(key=lambda c: not isinstance(c, _UpdateEnd))
        self.learner = Learner(shared, args, self.accelerator)
        self.actor = Actor(
            shared,
            processing_class,
            sampling,
            at_once=args.local_rollout_size,
            micro_batch=args.per_device_train_batch_size,
            autocast=self.accelerator.autocast,
        )

    # transformers.Trainer's hooks

    def get_train_dataloader(self) -> DataLoader[int]:
        """Numbers of micro-steps; the prompts are drawn when an update begins."""
        micro_steps = range(self.args.gradient_accumulation_steps * self.args.max_steps)
        return DataLoader(micro_steps, batch_size=1, collate_fn=_micro_step)  # type: ignore[arg-type]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Adam over exactly the policy's and the critic's parameters, without weight decay."""
        if self.optimizer is None:
            kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args, model)
            critic_rate = self.args.critic_learning_rate or self.args.learning_rate
            groups: list[dict[str, Any]] = [
                {"params": self.shared.trainable_parameters("policy")},
                {"params": self.shared.trainable_parameters("critic"), "lr": critic_rate},
            ]
            self.optimizer = kind([group | {"weight_decay": 0.0} for group in groups], **options)
        return self.optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, int], num_items_in_batch: Any = None
    ) -> Tensor:
        """Losses and gradients of one micro-batch; samples a rollout when an update begins."""
        update, within = divmod(inputs["micro_step"], self._micro_steps)
        if within == 0 or self.rollout is None:
            self.rollout = self._collect(update)
        with self.watch.phase("optimise"):
            part, tokens = self.learner.micro_batch(self.rollout, update, within)
            return self.learner.backward(part, tokens, self.watch)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip the policy's and the critic's gradients apart; returns the policy's norm."""
        return self.learner.end_gradients(self.args.max_grad_norm, self.watch)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm found while clipping; without clipping, it is found here."""
        if grad_norm is None:
            return self.learner.end_gradients(math.inf, self.watch)
        return grad_norm

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the policy's adapter, the critic (adapter and head) and the tokenizer."""
        folder = Path(output_dir or str(self.args.output_dir))
        self.shared.save_adapter("policy", folder)
        self.shared.save_adapter("critic", folder / "critic", head=True)
        self.tokenizer.save_pretrained(folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save transformers' checkpoint and, beside it, what only PPO knows."""
        if self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            write_json_atomic(folder / "ppo_state.json", {"beta": self.kl_controller.beta})
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Restore policy, critic and the KL controller."""
        folder = Path(resume_from_checkpoint)
        self.shared.restore_adapter("policy", folder)
        self.shared.restore_adapter("critic", folder / "critic", head=True)
        self.kl_controller.beta = json.loads((folder / "ppo_state.json").read_text())["beta"]
        self.rollout = None

    def _load_best_model(self) -> None:
        """Restore the checkpoint that `metric_for_best_model` named best."""
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _determine_best_metric(self, metrics: Mapping[str, float], trial: Any) -> bool:
        """Whether `metric_for_best_model` ("gold", "score", ...) is the best so far."""
        named = {name.replace("eval/", "eval_"): value for name, value in metrics.items()}
        best: bool = super()._determine_best_metric(named, trial)
        return best

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Answer the held-out prompts with the same random draws every time.

        Returns:
            Score, gold reward (where given), KL (k1 and k3, nats a response), entropy (nats a
            token), length, share that ended, number of prompts.
        """
        prompts = self.eval_dataset
        if eval_dataset is not None:
            prompts = self._prompt_set(eval_dataset, self.args)
        if prompts is None:
            raise UserError("no held-out prompts", remedy="pass eval_dataset")
        batch = prompts.batch(range(len(prompts)))
        responses = self.actor.respond(batch, stream(self.args.seed, EVALUATE))
        texts = self.actor.texts(responses)
        scores = score_responses(self.reward_funcs, batch, texts)
        metrics = {
            "score": float(scores.mean()),
            **response_metrics(self.actor.measure(batch, responses)),
            "n": len(batch),
        }
        if self.gold_func is not None:
            metrics["gold"] = float(score_responses([self.gold_func], batch, texts).mean())
        done = self.state.global_step // self.args.steps_per_update
        self.samples = sample_rows(batch, texts, scores, done)
        named = {f"{metric_key_prefix}/{name}": value for name, value in metrics.items()}
        self.log(dict(named))
        handler, state = self.callback_handler, self.state
        self.control = handler.on_evaluate(self.args, state, self.control, metrics=named)
        return named

    # one update

    @property
    def _micro_steps(self) -> int:
        """Micro-batches of one update."""
        return int(self.args.steps_per_update * self.args.gradient_accumulation_steps)

    def _collect(self, update: int) -> Rollout:
        """Sample, score and measure the responses of one update."""
        self.watch = Watch()
        rank, processes = self.args.process_index, self.args.world_size
        size, beta = self.args.local_rollout_size * processes, self.kl_controller.beta
        drawn = scheduled_indices(len(self.prompts), update * size, size, self.args.seed)
        batch = self.prompts.batch(drawn[rank::processes])
        with self.watch.phase("sample"):
            responses = self.actor.respond(batch, stream(self.args.seed, SAMPLE, rank, update))
        tokens = sum(len(response.ids) for response in responses)
        for phase, times in (("sample", 1), ("measure", 1), ("optimise", self.args.num_ppo_epochs)):
            self.watch.count(phase, tokens * times)
        texts = self.actor.texts(responses)
        with self.watch.phase("score"):
            scores = score_responses(self.reward_funcs, batch, texts)
        with self.watch.phase("measure"):
            measured = self.actor.measure(batch, responses)
        together = self.learner.processes
        rollout, metrics = collect(
            measured, scores, beta, self.args, together.sum, together.largest
        )
        self.watch.fixed = {
            "update": update + 1,
            "episode": (update + 1) * size,
            "kl/beta": beta,
            "learning_rate": self._get_learning_rate(),
            **metrics,
        }
        self.samples = sample_rows(batch, texts, scores, update)
        self.kl_controller.update(metrics["kl/k1"], size)
        return rollout

    def end_update(self) -> None:
        """Log the update that has just ended.

        Raises:
            UserError: A number is not finite, or every optimizer step had to be skipped.
        """
        together = self.learner.processes
        row = self.watch.summary(together.sum, together.largest)
        check_finite(row, all_skipped=self.watch.skipped == self.args.steps_per_update)
        self.log(row)

    def _prompt_set(self, rows: Any, args: PPOConfig) -> PromptSet:
        return PromptSet(rows, self.tokenizer, args.max_prompt_length)


class _UpdateEnd(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Tells the trainer that the last optimizer step of an update is done."""

    def __init__(self, trainer: PPOTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: PPOConfig, state: Any, control: Any, **_: Any) -> None:
        """Log at rollout boundaries."""
        if state.global_step % args.steps_per_update == 0:
            self._trainer.end_update()


def _micro_step(numbers: list[int]) -> dict[str, int]:
    """A batch is one numbered micro-step."""
    return {"micro_step": numbers[0]}
