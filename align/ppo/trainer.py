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
from collections.abc import Sequence
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
from align.data.encoding import decode_response
from align.errors import UserError
from align.generation import Response, Sampling, generate
from align.ppo.config import PPOConfig
from align.ppo.experience import collect
from align.ppo.losses import policy_loss, value_loss
from align.ppo.prompts import PromptBatch, PromptSet, scheduled_indices, stream
from align.ppo.rewards import AdaptiveKL, kl_estimates
from align.ppo.rollout import (
    Rollout,
    response_hidden,
    start_rollout,
    state_values,
    token_statistics,
)
from align.ppo.scoring import RewardFunction, score_responses
from align.ppo.watch import Watch
from align.shared import SharedBase

SAMPLE, SHUFFLE, EVALUATE = 1, 2, 3
"""Purposes of the random streams."""


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
        tokenizer = _checked_tokenizer(processing_class)
        shared = model if isinstance(model, SharedBase) else SharedBase(model)
        _add_parts(shared, args, peft_config or LoraConfig())
        self.shared = shared
        self.tokenizer = tokenizer
        self.reward_funcs = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
        self.gold_func = gold_func
        self.prompts = PromptSet(train_dataset, tokenizer, args.max_prompt_length)
        self.eval_prompts = (
            None
            if eval_dataset is None
            else PromptSet(eval_dataset, tokenizer, args.max_prompt_length)
        )
        self.kl_controller = AdaptiveKL(args.kl_coef, args.kl_target, args.kl_horizon)
        self.rollout: Rollout | None = None
        self.samples: list[dict[str, Any]] = []
        self.watch = Watch()
        super().__init__(
            model=shared,
            args=args,
            processing_class=tokenizer,
            data_collator=_first,
            callbacks=[*(callbacks or []), _UpdateEnd(self)],
        )
        # the callback that ends an update must log before those of the caller read the log
        self.callback_handler.callbacks.sort(key=lambda c: not isinstance(c, _UpdateEnd))

    # transformers.Trainer's hooks

    def get_train_dataloader(self) -> DataLoader[dict[str, int]]:
        """Numbers of micro-steps; the prompts are drawn when an update begins."""
        micro = self.args.gradient_accumulation_steps * self.args.max_steps
        steps = [{"micro_step": number} for number in range(micro)]
        return DataLoader(steps, batch_size=1, collate_fn=_first)  # type: ignore[arg-type]

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
        rows, tokens = self._micro_batch(update, within)
        with self.watch.phase("optimise"):
            return self._backward(self.rollout.rows(rows.to(self.shared.device)), tokens)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip the policy's and the critic's gradients apart; returns the policy's norm."""
        norms = {
            part: nn.utils.clip_grad_norm_(
                self.shared.trainable_parameters(part), self.args.max_grad_norm
            )
            for part in ("policy", "critic")
        }
        self.watch.step({part: float(norm) for part, norm in norms.items()})
        return norms["policy"]

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm found while clipping."""
        return grad_norm

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the policy's adapter, the critic (adapter and head) and the tokenizer."""
        folder = Path(output_dir or str(self.args.output_dir))
        self.shared.save_adapter("policy", folder)
        self.shared.save_adapter("critic", folder / "critic", head=True)
        self.tokenizer.save_pretrained(folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save transformers' checkpoint and, beside it, what only PPO knows."""
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

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Answer the held-out prompts with the same random draws every time.

        Returns:
            Score, gold reward (where given), KL (k1 and k3, nats a response), length, EOS rate.
        """
        prompts = self.eval_prompts
        if eval_dataset is not None:
            prompts = PromptSet(eval_dataset, self.tokenizer, self.args.max_prompt_length)
        if prompts is None:
            raise UserError("no held-out prompts", remedy="pass eval_dataset")
        batch = prompts.batch(range(len(prompts)))
        responses = self._sample(batch, stream(self.args.seed, EVALUATE))
        texts = [decode_response(self.tokenizer, response.ids) for response in responses]
        rollout = self._measured(batch, responses)
        estimates = kl_estimates(rollout.logprobs, rollout.reference)
        mask, rows = rollout.mask, len(rollout)
        metrics = {
            "score": float(score_responses(self.reward_funcs, batch, texts).mean()),
            "kl": float(torch.where(mask, estimates.k1, 0.0).sum() / rows),
            "kl_k3": float(torch.where(mask, estimates.k3, 0.0).sum() / rows),
            "length": float(mask.sum(-1).float().mean()),
            "eos_rate": float(rollout.finished.float().mean()),
        }
        if self.gold_func is not None:
            metrics["gold"] = float(score_responses([self.gold_func], batch, texts).mean())
        named = {f"{metric_key_prefix}/{name}": value for name, value in metrics.items()}
        self.log(dict(named))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics=named
        )
        return named

    # one update

    @property
    def _micro_steps(self) -> int:
        """Micro-batches of one update."""
        return int(self.args.steps_per_update * self.args.gradient_accumulation_steps)

    def _collect(self, update: int) -> Rollout:
        """Sample, score and measure the responses of one update."""
        self.watch = Watch()
        size, rank = self.args.local_rollout_size, self.args.process_index
        processes = self.args.world_size
        start = update * size * processes
        drawn = scheduled_indices(len(self.prompts), start, size * processes, self.args.seed)
        batch = self.prompts.batch(drawn[rank::processes])
        with self.watch.phase("sample"):
            responses = self._sample(batch, stream(self.args.seed, SAMPLE, rank, update))
        self.watch.count("sample", sum(len(response.ids) for response in responses))
        texts = [decode_response(self.tokenizer, response.ids) for response in responses]
        with self.watch.phase("score"):
            scores = score_responses(self.reward_funcs, batch, texts)
        with self.watch.phase("measure"):
            rollout = self._measured(batch, responses)
        rollout, metrics = collect(rollout, scores, self.kl_controller.beta, self.args)
        self.watch.fixed = {
            "update": update + 1,
            "episode": (update + 1) * size * processes,
            "kl/beta": self.kl_controller.beta,
            **metrics,
        }
        self.samples = [
            {"update": update + 1, "prompt": prompt, "response": text, "score": float(score)}
            for prompt, text, score in zip(batch.prompts[:4], texts, scores, strict=False)
        ]
        self.kl_controller.update(metrics["kl/k1"], size * processes)
        return rollout

    def _sample(self, batch: PromptBatch, generator: torch.Generator) -> list[Response]:
        """One response a prompt from the policy."""
        sampling = Sampling(
            max_new_tokens=self.args.response_length,
            stop_ids=frozenset({int(self.tokenizer.eos_token_id)}),
            temperature=self.args.temperature,
            pad_id=int(self.tokenizer.pad_token_id),
        )
        with self.shared.active("policy"), self.compute_loss_context_manager():
            return generate(self.shared.causal, batch.ids, sampling, generator)

    @torch.no_grad()
    def _measured(self, batch: PromptBatch, responses: list[Response]) -> Rollout:
        """The rollout with log-probabilities of policy and reference, and values (B, T + 1)."""
        shared, temperature = self.shared, self.args.temperature
        pad_id = int(self.tokenizer.pad_token_id)
        rollout = start_rollout(batch.ids, responses, pad_id, shared.device)
        size = self.args.per_device_train_batch_size
        for first in range(0, len(rollout), size):
            index = torch.arange(first, min(first + size, len(rollout)), device=shared.device)
            part = rollout.rows(index)
            measured: dict[str, Tensor] = {}
            for adapter, name in (
                ("policy", "logprobs"),
                (None, "reference"),
                ("critic", "values"),
            ):
                with shared.active(adapter), self.compute_loss_context_manager():
                    hidden = response_hidden(shared, part)
                    measured[name] = (
                        state_values(shared, hidden)
                        if adapter == "critic"
                        else token_statistics(
                            shared, hidden, part.response_ids, temperature
                        ).logprobs
                    )
            for name, value in measured.items():
                getattr(rollout, name)[index, : value.shape[1]] = value.float()
        return rollout

    def _micro_batch(self, update: int, within: int) -> tuple[Tensor, int]:
        """Rows of a micro-batch, and the valid tokens of the optimizer batch it belongs to."""
        assert self.rollout is not None
        accumulation = self.args.gradient_accumulation_steps
        size = self.args.per_device_train_batch_size
        epoch, position = divmod(within, self.args.num_mini_batches * accumulation)
        order = torch.randperm(
            len(self.rollout),
            generator=stream(self.args.seed, SHUFFLE, self.args.process_index, update, epoch),
        )
        step = position // accumulation
        batch = order[step * accumulation * size : (step + 1) * accumulation * size]
        rows = order[position * size : (position + 1) * size]
        return rows, int(self.rollout.mask[batch.to(self.rollout.mask.device)].sum())

    def _backward(self, part: Rollout, tokens: int) -> Tensor:
        """Gradients of the policy's, then the critic's loss on one micro-batch."""
        shared, args = self.shared, self.args
        with shared.active("policy"):
            with self.compute_loss_context_manager():
                hidden = response_hidden(shared, part)
                statistics = token_statistics(shared, hidden, part.response_ids, args.temperature)
            policy = policy_loss(
                statistics.logprobs,
                part.logprobs,
                part.advantages,
                part.mask,
                tokens,
                args.cliprange,
            )
            self.accelerator.backward(policy.loss)
        entropy = float(torch.where(part.mask, statistics.entropy, 0.0).sum())
        self.watch.policy(policy, entropy, float(part.mask.sum()))
        with shared.active("critic"):
            with self.compute_loss_context_manager():
                values = state_values(shared, response_hidden(shared, part))[:, :-1]
            value = value_loss(
                values, part.values, part.returns, part.mask, tokens, args.cliprange_value
            )
            self.accelerator.backward(args.vf_coef * value.loss)
        self.watch.value(value)
        return policy.loss.detach() + args.vf_coef * value.loss.detach()

    def end_update(self) -> None:
        """Log the update that has just ended."""
        row = self.watch.summary()
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"not finite after update {row['update']:.0f}: {', '.join(bad)}",
                where="ppo",
                remedy="lower the learning rate or clip scores; earlier checkpoints are kept",
            )
        row["learning_rate"] = self._get_learning_rate()
        self.log(row)


class _UpdateEnd(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Tells the trainer that the last optimizer step of an update is done."""

    def __init__(self, trainer: PPOTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: PPOConfig, state: Any, control: Any, **_: Any) -> None:
        """Log at rollout boundaries."""
        if state.global_step % args.steps_per_update == 0:
            self._trainer.end_update()


def _first(rows: list[dict[str, int]]) -> dict[str, int]:
    """A batch is one numbered micro-step."""
    return rows[0]


def _checked_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """The tokenizer, if it has the EOS and pad tokens that sampling needs."""
    if tokenizer is None:
        raise UserError("no tokenizer", remedy="pass processing_class")
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise UserError("the tokenizer needs an EOS and a pad token", where="processing_class")
    return tokenizer


def _add_parts(shared: SharedBase, args: PPOConfig, lora: LoraConfig) -> None:
    """Add the policy's fresh adapter, and the critic with its zero head."""
    folder = Path(args.critic_adapter) if args.critic_adapter else None
    shared.add_adapter("critic", lora, folder=folder, trainable=True, seed=args.seed + 1)
    shared.add_head("critic", trainable=True)
    shared.add_adapter("policy", lora, trainable=True, seed=args.seed)
