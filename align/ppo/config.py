"""Arguments of `PPOTrainer`: transformers' own plus PPO's, under TRL's names where TRL had them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from transformers import TrainingArguments

from align.errors import UserError
from align.ppo.rewards import Truncation
from align.ppo.scale import Normalisation

Critic = Literal["head", "adapter", "model"]


def _help(text: str, default: Any) -> Any:
    """A dataclass field with its explanation, as transformers' argument parser reads it."""
    return field(default=default, metadata={"help": text})


@dataclass
class PPOConfig(TrainingArguments):  # type: ignore[misc]  # transformers is untyped
    """`transformers.TrainingArguments` with PPO's arguments.

    One update samples `per_device_train_batch_size * gradient_accumulation_steps *
    num_mini_batches` responses a process, then takes `num_ppo_epochs * num_mini_batches` optimizer
    steps on them. All of TrainingArguments works as usual; defaults that differ are below.

    Raises:
        UserError: A value is outside its range.
    """

    learning_rate: float = _help("Peak learning rate of the policy; for LoRA. Full: 3e-6.", 3e-5)
    lr_scheduler_type: str = _help("Annealed to zero over all optimizer steps.", "linear")
    adam_epsilon: float = _help("Epsilon of Adam (2403.17031, detail 5).", 1e-5)
    logging_strategy: str = _help("The trainer logs once an update by itself.", "no")
    report_to: str = _help("Trackers of transformers, such as tensorboard or wandb.", "none")
    save_strategy: str = _help("See `checkpoint_updates`.", "no")

    total_episodes: int = _help("Responses sampled in all, over all processes.", 1024)
    generation_batch_size: int | None = _help("Responses sampled together; default: all.", None)
    static_cache: bool | None = _help(
        "Sample over a static cache, on GPUs a CUDA graph a step, where the model can; default: on "
        "GPUs.",
        None,
    )
    num_ppo_epochs: int = _help("Epochs over one rollout.", 4)
    num_mini_batches: int = _help("Optimizer steps an epoch.", 1)
    max_prompt_length: int = _help("Longest prompt P in tokens; longer ones are left out.", 512)
    response_length: int = _help("Most tokens T of a response.", 53)
    temperature: float = _help("Sampling temperature, also of every log-probability.", 1.0)
    kl_coef: float = _help("Weight beta of the KL penalty a token.", 0.05)
    kl_target: float | None = _help("Wanted KL (nats a response); adapts beta.", None)
    kl_horizon: float = _help("Responses over which beta adapts.", 10_000)
    cliprange: float = _help("Half width of the ratio's trust interval.", 0.2)
    cliprange_value: float = _help("Most a value may move from the old one.", 0.2)
    vf_coef: float = _help("Weight of the value loss.", 0.1)
    critic: Critic = _help(  # noqa: RUF009 - a field, as transformers spells it
        "Values from the policy's trunk (head), from a LoRA of their own (adapter) or from a model "
        "of their own (model).",
        "head",
    )
    critic_warmup_updates: int = _help("First updates that train the critic alone.", 0)
    critic_learning_rate: float | None = _help("Default: `learning_rate`.", None)
    critic_adapter: str | None = _help("Folder of a LoRA the critic starts from.", None)
    recompute_logprobs: bool = _help(
        "Measure the policy again even where the sampler's numbers are exact (float32).", False
    )
    entropy_coef: float = _help("Weight of an entropy bonus (nats a token).", 0.0)
    ptx_coef: float = _help("Weight of the pretraining (PTX) loss on `ptx_dataset`.", 0.0)
    ptx_max_length: int = _help("Most tokens of a pretraining text.", 256)
    early_stop_kl: float | None = _help(
        "Approximate KL (nats a token) on a minibatch that ends an update's epochs.", None
    )
    kl_budget: float | None = _help("KL (nats a response) above which a warning is given.", None)
    gamma: float = _help("Discount.", 1.0)
    lam: float = _help("Lambda of GAE.", 0.95)
    whiten_rewards: bool = _help("Scale rewards to variance 1 (mean kept).", False)
    reward_weights: list[float] | None = _help(  # noqa: RUF009 - as transformers spells it
        "Weight of each reward function; default 1.", None
    )
    score_normalisation: Normalisation = _help(  # noqa: RUF009 - a field, as transformers spells it
        "Scores to mean 0, std 1: none, reference (first update's), running (all so far).", "none"
    )
    score_clip: float | None = _help("Scores are clipped to +- this, after normalisation.", None)
    truncation: Truncation = _help(  # noqa: RUF009 - a field, as transformers spells it
        "What a response without EOS gets: penalty, replace, bootstrap, none.", "penalty"
    )
    truncation_penalty: float = _help("Subtracted (penalty) or put in place (replace).", 1.0)
    checkpoint_updates: int | None = _help("Updates between checkpoints.", None)
    eval_updates: int | None = _help("Updates between evaluations on held-out prompts.", None)

    def __post_init__(self) -> None:
        """Check the ranges and put checkpoints and evaluations on rollout boundaries."""
        self._check()
        self.max_steps = self.updates_total * self.steps_per_update
        if self.checkpoint_updates is not None:
            self.save_strategy = "steps"
            self.save_steps = self.checkpoint_updates * self.steps_per_update
        if self.eval_updates is not None:
            self.eval_strategy = "steps"
            self.eval_steps = self.eval_updates * self.steps_per_update
        super().__post_init__()
        self._check_boundaries()

    @property
    def steps_per_update(self) -> int:
        """Optimizer steps on one rollout."""
        return self.num_ppo_epochs * self.num_mini_batches

    @property
    def local_rollout_size(self) -> int:
        """Responses one process samples for one update."""
        sequences = self.per_device_train_batch_size * self.gradient_accumulation_steps
        return int(sequences * self.num_mini_batches)

    @property
    def updates_total(self) -> int:
        """Updates that `total_episodes` make, over all processes."""
        import os

        processes = int(os.environ.get("WORLD_SIZE", "1"))
        return max(self.total_episodes // (self.local_rollout_size * processes), 1)

    def _check_boundaries(self) -> None:
        """Refuse checkpoints inside an update: the rest of its rollout would be sampled anew."""
        for strategy, name in (("steps", "save_steps"), ("best", "eval_steps")):
            steps = getattr(self, name)
            if self.save_strategy == strategy and steps % self.steps_per_update:
                raise UserError(
                    f"{name}={steps} lies inside an update",
                    allowed=f"multiples of its {self.steps_per_update} optimizer steps",
                    remedy="set checkpoint_updates or eval_updates instead",
                )

    def _check(self) -> None:
        """Name the first argument outside its range."""
        ranges = {
            "num_ppo_epochs": (1, 1000), "num_mini_batches": (1, 10**6),
            "total_episodes": (1, 10**12), "response_length": (1, 10**6),
            "max_prompt_length": (1, 10**7), "temperature": (1e-6, 100), "kl_coef": (0, 1e6),
            "cliprange": (0, 10), "cliprange_value": (0, 1e9), "vf_coef": (0, 1e6),
            "entropy_coef": (0, 1e6), "ptx_coef": (0, 1e6), "ptx_max_length": (2, 10**7),
            "critic_warmup_updates": (0, 10**9), "gamma": (0, 1), "lam": (0, 1),
            "truncation_penalty": (0, 1e9),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name}={value!r}", allowed=f"{low} to {high}")
        choices = {
            "truncation": get_args(Truncation),
            "critic": get_args(Critic),
            "score_normalisation": get_args(Normalisation),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r}", allowed=", ".join(allowed))
