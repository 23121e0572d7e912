"""The work that both sides of a PPO benchmark do, as it travels to their processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Work:
    """One training run. What is not here is each system's own default.

    Attributes:
        model: Folder of the base model (safetensors).
        prompts: File with a JSON list of prompts, each a list of token ids of equal length P.
        seed: Seed of sampling, shuffling, adapters and the reward head.
        dtype: float32; bfloat16 (base in bfloat16, LoRA in float32); or autocast (base in float32,
            trained under the trainer's bfloat16 mixed precision).
        device: cpu or cuda; auto takes the GPU if there is one.
        score: `model` (a sequence classifier with a seeded head), `toy` (share of common tokens),
            or the folder of a finished reward stage of a run on the same base.
        classifier: The same reward stage as a plain sequence classifier's folder, for the peer.
        held: File with held-out prompts to answer and score at the end; empty: none.
        critic: The peer's critic: `lora`, as ours always is, or `full` (all its weights train).
        updates: PPO updates, each on one rollout.
        batch: Responses an update.
        micro_batch: Sequences a forward and backward pass.
        mini_batches: Optimizer steps a pass over a rollout.
        epochs: Passes over a rollout.
        response_length: Most tokens of a response (T).
        eos: The token that ends a response earlier; None: nothing does. A response that it does
            not end scores 1 less.
        temperature: Of sampling and of every log-probability.
        learning_rate: Peak, annealed linearly to zero.
        kl_coef: Weight of the KL penalty.
        lora_r: Rank of each adapter, on all linear layers but the heads.
        lora_alpha: Scale of each adapter.
        extra: Further arguments of the trainer's own configuration.
    """

    model: str
    prompts: str
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"
    score: str = "model"
    classifier: str = ""
    held: str = ""
    critic: str = "lora"
    updates: int = 4
    batch: int = 16
    micro_batch: int = 16
    mini_batches: int = 1
    epochs: int = 4
    response_length: int = 32
    eos: int | None = None
    temperature: float = 1.0
    learning_rate: float = 3e-5
    kl_coef: float = 0.05
    lora_r: int = 16
    lora_alpha: int = 32
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def episodes(self) -> int:
        """Responses sampled in all."""
        return self.updates * self.batch

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments that mean the same in both systems' `PPOConfig`."""
        return {
            "seed": self.seed,
            "total_episodes": self.episodes,
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": self.batch // (self.micro_batch * self.mini_batches),
            "num_mini_batches": self.mini_batches,
            "num_ppo_epochs": self.epochs,
            "response_length": self.response_length,
            "temperature": self.temperature,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "linear",
            "adam_epsilon": 1e-5,
            "kl_coef": self.kl_coef,
            "cliprange": 0.2,
            "cliprange_value": 0.2,
            "vf_coef": 0.1,
            "gamma": 1.0,
            "lam": 0.95,
            "whiten_rewards": False,
            "bf16": self.dtype == "autocast",
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            **self.extra,
        }

    def to_json(self) -> str:
        """The argument a worker is started with."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The work that `to_json` wrote."""
        return cls(**json.loads(text))
