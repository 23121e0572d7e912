"""The training stages: architecture or model, SFT, reward model, PPO."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from align.config.audit import CanaryConfig
from align.config.base import Positive, Rate, Section, Share
from align.config.data import SourceConfig
from align.config.reward import EnsembleConfig, ReferenceConfig, SwapConfig
from align.config.rewards import REWARD_MODEL, RewardTermConfig


class LoraConfig(Section):
    """Low-rank adapter (Hu 2021, 2106.09685) through peft."""

    r: Annotated[int, Field(gt=0, le=1024)] = 16
    """Rank."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Scale: the update is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while SFT or reward training; never on in PPO."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers that get an adapter."""


class ArchitectureConfig(Section):
    """Size of a Llama-style decoder trained from scratch."""

    hidden_size: Positive = 128
    """Width H."""
    layers: Positive = 4
    """Number of blocks."""
    heads: Positive = 4
    """Attention heads; must divide `hidden_size`."""
    intermediate_size: Positive = 384
    """Width of the feed-forward layer."""
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 1024
    """Size of the byte-level BPE vocabulary trained on the same text."""
    context: Positive = 128
    """Longest sequence in tokens."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on attention weights while pretraining."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide hidden_size ({self.hidden_size})")
        return self


class ModelConfig(Section):
    """A model to load; leave the section out to pretrain one."""

    base: str
    """Hub id, local folder, .gguf file or a folder of a finished stage."""
    adapters: tuple[str, ...] = ()
    """LoRA folders merged in this order."""
    revision: str | None = None
    """Commit of a hub model."""
    trust_remote_code: bool = False
    """Allow code from the model's repository to run."""


class TrainConfig(Section):
    """What every supervised stage has in common."""

    data: SourceConfig
    """Training rows."""
    eval_data: SourceConfig | None = None
    """Held-out rows; default: a seeded share (`data.holdout`) of `data`."""
    epochs: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Passes over the data."""
    learning_rate: Rate = 2e-4
    """Peak learning rate (AdamW)."""
    batch_size: Positive = 16
    """Sequences an optimizer step and process; split over `gradient_accumulation`."""
    gradient_accumulation: Positive = 1
    """Micro-batches an optimizer step; must divide `batch_size`. More of them hold rows of more
    similar lengths: less memory, and less padding."""
    max_length: Positive = 128
    """Longest sequence in tokens; longer ones are cut (text) or left out and counted (dialogue)."""
    warmup: Share = 0.05
    """Share of the steps with a rising learning rate; then cosine to zero."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    checkpoint_steps: Positive = 100
    """Steps between two resumable checkpoints."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the trainer's own dataclass, checked against it."""

    @model_validator(mode="after")
    def _accumulation_divides(self) -> Self:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation ({self.gradient_accumulation}) must divide "
                f"batch_size ({self.batch_size})"
            )
        return self


class PretrainConfig(TrainConfig):
    """Next-token training from scratch on packed blocks."""

    architecture: ArchitectureConfig = ArchitectureConfig()
    """Size of the model."""
    canaries: CanaryConfig | None = None
    """Secrets to plant, for the privacy part of `align audit`; default: none."""
    patience: Positive | None = 3
    """Stop after so many evaluations without a lower held-out loss; the best weights are kept."""


class SFTConfig(TrainConfig):
    """Supervised fine-tuning on dialogues, loss on the assistant's tokens (TRL SFTTrainer)."""

    lora: LoraConfig | None = LoraConfig()
    """Adapter; null trains all weights."""
    packing: bool = False
    """Pack several dialogues into one block (bfd); for speed on GPUs."""
    canaries: CanaryConfig | None = None
    """Secrets to plant, for the privacy part of `align audit`; default: none."""


class RewardConfig(TrainConfig):
    """Reward model from preference pairs, Bradley-Terry loss (TRL RewardTrainer)."""

    lora: LoraConfig | None = LoraConfig()
    """Adapter; null trains all weights."""
    center: Annotated[float, Field(ge=0)] = 0.01
    """Weight of (s_chosen + s_rejected)^2, which keeps the scores' mean near 0 (2312.09244)."""
    augment: SwapConfig | None = None
    """Train on every pair twice, once with words exchanged, against a bias of the labels."""
    normalise: ReferenceConfig | None = None
    """Samples that fix the scores' zero and unit; default: the responses of the held-out pairs."""
    ensemble: EnsembleConfig | None = None
    """Several members on one base, against over-optimisation; needs `lora`."""

    @model_validator(mode="after")
    def _members_are_adapters(self) -> Self:
        if self.ensemble is not None and self.lora is None:
            raise ValueError("ensemble needs lora: its members are adapters")
        return self


class PTXConfig(Section):
    """Pretraining text mixed into PPO against the alignment tax (Ouyang 2022, eq. 2)."""

    data: SourceConfig
    """Texts."""
    coef: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the mean loss a token of text."""
    max_length: Annotated[int, Field(ge=2)] = 256
    """Most tokens of a text; the rest is left out."""


class PPOStageConfig(Section):
    """PPO against the reward model or other rewards, on one shared base."""

    data: SourceConfig
    """Prompts to sample from."""
    eval_data: SourceConfig | None = None
    """Held-out prompts; default: a seeded share of `data`."""
    rewards: tuple[RewardTermConfig, ...] = (RewardTermConfig(function=REWARD_MODEL),)
    """What is added up to the score (docs/rewards.md); default: the run's reward model alone."""
    episodes: Positive = 1024
    """Responses sampled in all."""
    batch_size: Positive = 64
    """Responses an update (rollout); must be a multiple of mini_batches * micro_batch_size."""
    mini_batches: Positive = 2
    """Optimizer steps an epoch over one rollout."""
    micro_batch_size: Positive = 32
    """Sequences a forward and backward pass."""
    ppo_epochs: Positive = 4
    """Epochs over one rollout."""
    learning_rate: Rate = 3e-5
    """Peak learning rate, annealed linearly to zero."""
    critic_learning_rate: Rate | None = None
    """Learning rate of the critic; default: the policy's."""
    critic: Literal["head", "adapter", "model"] = "head"
    """Values from the policy's own trunk, from a LoRA started from the reward model, or from a
    model with weights of its own (see docs/ppo.md for cost and learning)."""
    lora: LoraConfig | None = LoraConfig()
    """Adapter of the policy (and of the critic, if it has one); null trains all weights."""
    max_prompt_length: Positive = 64
    """Longest prompt P in tokens; longer prompts are left out and counted."""
    response_length: Positive = 32
    """Most tokens T of a response."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Sampling temperature, also of every log-probability."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    """Weight beta of the KL penalty a token."""
    kl_budget: Annotated[float, Field(gt=0)] | None = None
    """Most KL to the reference (nats a response) that the report calls within budget; a warning
    tells when training exceeds it."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """Wanted KL (nats a response); adapts the penalty's weight from `kl_coef` on."""
    ptx: PTXConfig | None = None
    """Pretraining text to keep what the model knew."""
    truncation: Literal["penalty", "replace", "bootstrap", "none"] = "penalty"
    """What a response cut off without EOS gets (see docs/ppo.md)."""
    truncation_penalty: float = 1.0
    """Subtracted (penalty) from the score of a cut response, or in its place with a minus sign."""
    checkpoint_updates: Positive = 5
    """Updates between two resumable checkpoints."""
    eval_updates: Positive | None = None
    """Updates between evaluations on held-out prompts; must be a multiple of checkpoint_updates."""
    keep: Literal["last", "best"] = "last"
    """The policy that the stage leaves: the last one, or of those evaluated the one that is best by
    the gold reward (by the score where there is none)."""
    gold: str | None = None
    """A reward that is only watched on held-out prompts: folder of a reward stage, classifier with
    one label (folder or hub id), or `package.module:function`; default: the world's rule where the
    prompts are the world's."""
    gold_patience: Positive | None = None
    """Stop after so many evaluations in a row with a gold reward significantly below the best
    (see docs/rewards.md); null: never."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `align.ppo.PPOConfig`, checked against it."""

    @property
    def uses_reward_model(self) -> bool:
        """Whether the run's reward model is among the rewards."""
        return any(f.function == REWARD_MODEL for term in self.rewards for f in term.nested())

    @model_validator(mode="after")
    def _some_reward_counts(self) -> Self:
        if not any(term.weight for term in self.rewards):
            raise ValueError("rewards: none has a weight other than 0")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        unit = self.mini_batches * self.micro_batch_size
        if self.batch_size % unit:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of "
                f"mini_batches * micro_batch_size ({unit})"
            )
        for key, given in (
            ("keep: best", self.keep == "best"),
            ("gold_patience", self.gold_patience),
        ):
            if given and not self.eval_updates:
                raise ValueError(f"{key} needs eval_updates")
        if self.eval_updates and self.eval_updates % self.checkpoint_updates:
            raise ValueError(
                f"eval_updates ({self.eval_updates}) must be a multiple of "
                f"checkpoint_updates ({self.checkpoint_updates})"
            )
        return self
