"""PPO with a critic and any reward on one shared base, as a `transformers.Trainer`.

Source: Schulman 2017 (1707.06347), Ziegler 2019 (1909.08593), and the implementation details of
2403.17031. Departures: policy, critic and reference are parts of one model instead of copies
(`align.ppo.parts`); policy and critic gradients are clipped apart, so that a large value error
cannot shrink the policy's step. transformers' loop owns optimizer steps, schedules, checkpoints and
callbacks: its "batches" are numbered micro-steps, and an update's first one samples its rollout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
)

from align.config import LoraConfig
from align.errors import UserError
from align.ppo.actor import make_actor, ppo_sampling
from align.ppo.alarms import alarms
from align.ppo.card import write_card
from align.ppo.classifier import reward_functions
from align.ppo.collector import Collector
from align.ppo.config import PPOConfig
from align.ppo.learner import Learner
from align.ppo.memory import Memory
from align.ppo.parts import add_parts, parameter_groups, restore_parts, save_parts
from align.ppo.passes import Passes
from align.ppo.pretraining import text_set
from align.ppo.prompts import PromptSet
from align.ppo.rollout import Rollout
from align.ppo.terms import RewardFunction, as_terms
from align.ppo.watch import Watch, check_finite
from align.shared import SharedBase


class PPOTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Train a policy with PPO.

    Args:
        model: A causal LM, its id or folder, or a `SharedBase`, which may hold a reward model.
        reward_funcs: One or more of: a callable `(prompts, completions, **columns) -> list[float]`,
            a sequence classifier with one label, the id or folder of one, or a `RewardTerm`.
        args: Hyper-parameters.
        train_dataset: Rows with `prompt` (text or messages); other columns reach the functions.
        eval_dataset: Held-out rows of the same form.
        processing_class: The tokenizer; default: the model's.
        reward_processing_classes: Tokenizers of the classifiers among `reward_funcs`.
        peft_config: LoRA of the policy (and of the critic); None trains all weights.
        callbacks: Callbacks of transformers.
        gold_func: A reward that is only watched on held-out prompts, never trained on.
        ref_model: Reference of the KL penalty; default: the model as it is before PPO.
        value_model: A critic with weights of its own, on the same tokenizer.
        ptx_dataset: Rows with `text` for the pretraining loss (`ptx_coef`).

    Example:
        >>> trainer = PPOTrainer(
        ...     model="HuggingFaceTB/SmolLM2-135M-Instruct",
        ...     reward_funcs=lambda prompts, completions, **_: [len(c) for c in completions],
        ...     args=PPOConfig(output_dir="out", total_episodes=256),
        ...     train_dataset=[{"prompt": "Once upon a time"}],
        ...     peft_config=LoraConfig(r=16),
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
        model: PreTrainedModel | SharedBase | str,
        reward_funcs: Any,
        args: PPOConfig,
        train_dataset: Any,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: Any = None,
        peft_config: LoraConfig | PeftLora | None = None,
        callbacks: list[TrainerCallback] | None = None,
        gold_func: RewardFunction | None = None,
        ref_model: PreTrainedModel | None = None,
        value_model: PreTrainedModel | None = None,
        ptx_dataset: Any = None,
    ) -> None:
        if isinstance(model, str):
            processing_class = processing_class or AutoTokenizer.from_pretrained(model)
            model = AutoModelForCausalLM.from_pretrained(model)
        sampling = ppo_sampling(args, processing_class)
        assert processing_class is not None
        shared = model if isinstance(model, SharedBase) else SharedBase(model)
        add_parts(shared, args, peft_config, ref_model, value_model)
        self.shared, self.args = shared, args
        self.tokenizer: PreTrainedTokenizerBase = processing_class
        self.reward_funcs = reward_functions(
            reward_funcs, reward_processing_classes, args.reward_weights, args.device
        )
        self.terms = as_terms(self.reward_funcs, args.reward_weights)
        self.prompts = self._prompt_set(train_dataset)
        self.memory = Memory.start(args, self.terms)
        self.rollout: Rollout | None = None
        self.samples: list[dict[str, Any]] = []
        self.watch = Watch()
        super().__init__(
            model=shared,
            args=args,
            eval_dataset=None if eval_dataset is None else self._prompt_set(eval_dataset),
            processing_class=processing_class,
            data_collator=_micro_step,
            callbacks=[*(callbacks or []), _UpdateEnd(self)],
        )
        # the callback that ends an update must log before those of the caller read the log
        self.callback_handler.callbacks.sort(key=lambda c: not isinstance(c, _UpdateEnd))
        passes = Passes(shared, args.temperature, self.accelerator.autocast)
        texts = text_set(ptx_dataset, processing_class, args)
        self.learner = Learner(passes, args, self.accelerator, texts)
        self.collector = Collector(
            make_actor(passes, processing_class, sampling, args, self.learner.processes.anyone),
            self.terms,
            gold_func,
            args,
            self.memory,
            self.learner.processes,
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
            self.optimizer = kind(parameter_groups(self.shared, self.args), **options)
        return self.optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, int], num_items_in_batch: Any = None
    ) -> Tensor:
        """Losses and gradients of one micro-batch; samples a rollout when an update begins."""
        update, within = divmod(inputs["micro_step"], self._micro_steps)
        if within == 0 or self.rollout is None:
            self.rollout = self._collect(update)
            self.learner.stopped = False
        with self.watch.phase("optimise"):
            part, tokens = self.learner.micro_batch(self.rollout, update, within)
            loss = self.learner.backward(part, tokens, update, self.watch)
            if update >= self.args.critic_warmup_updates:
                self.learner.text_step(inputs["micro_step"], self.watch)
            return loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip the policy's and the critic's gradients apart; returns the policy's norm."""
        return self.learner.end_gradients(self.args.max_grad_norm, self.watch)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm found while clipping; without clipping, it is found here."""
        unclipped = grad_norm is None
        return self.learner.end_gradients(math.inf, self.watch) if unclipped else grad_norm

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the policy (adapter or model), the critic, the tokenizer and a model card."""
        folder = Path(output_dir or str(self.args.output_dir))
        save_parts(self.shared, folder)
        self.tokenizer.save_pretrained(folder)
        self._write_card(folder)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write the card beside the model again; `save_model` has done it already."""
        if self.is_world_process_zero():
            self._write_card(Path(str(self.args.output_dir)))

    def _write_card(self, folder: Path) -> None:
        write_card(folder, self.args, self.terms, self.shared, self.state.log_history)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save transformers' checkpoint and, beside it, what only PPO knows."""
        if self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            self.memory.save(folder)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Restore policy, critic, and what only PPO knows."""
        restore_parts(self.shared, Path(resume_from_checkpoint))
        self.memory.load(Path(resume_from_checkpoint))
        self.rollout = None

    def _load_best_model(self) -> None:
        """Restore the weights that `metric_for_best_model` named best; what happened stays."""
        restore_parts(self.shared, Path(str(self.state.best_model_checkpoint)))

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
        given = eval_dataset is not None
        prompts = self._prompt_set(eval_dataset) if given else self.eval_dataset
        if prompts is None:
            raise UserError("no held-out prompts", remedy="pass eval_dataset")
        found = self.collector.evaluate(prompts, self._updates_done)
        self.samples = found.samples
        if not given:
            self._warn(self.memory.judge(found.scores))
        named = {f"{metric_key_prefix}/{name}": value for name, value in found.metrics.items()}
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
        rate = self._get_learning_rate()
        found = self.collector.collect(self.prompts, update, self.watch)
        self.watch.fixed = {"learning_rate": rate, **found.metrics}
        self.samples = found.samples
        return found.rollout

    def end_update(self) -> None:
        """Log the update that has just ended.

        Raises:
            UserError: A number is not finite, or every optimizer step had to be skipped.
        """
        together = self.learner.processes
        row = self.watch.summary(together.sum, together.largest)
        check_finite(row, all_skipped=self.watch.skipped == self.args.steps_per_update)
        self.log(row)
        first = next((r for r in self.state.log_history if "update" in r), row)
        self._warn(alarms(first, row, self.args.kl_budget))

    @property
    def _updates_done(self) -> int:
        return int(self.state.global_step // self.args.steps_per_update)

    def _warn(self, found: dict[str, str]) -> None:
        self.memory.warn(found, self._updates_done, aloud=self.is_world_process_zero())

    def _prompt_set(self, rows: Any) -> PromptSet:
        return PromptSet(rows, self.tokenizer, self.args.max_prompt_length)


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
