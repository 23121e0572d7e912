"""The three parts of PPO on a shared base: policy, reference and critic.

With LoRA the policy is an adapter and the reference is the base without it; trained fully, the
policy is the base itself and the reference a frozen copy. The critic reads values from the policy's
own trunk (`head`), from a LoRA on the frozen base (`adapter`), or from one of its own (`model`).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from peft import LoraConfig as PeftLora
from torch import Tensor
from transformers import PreTrainedModel

from align.config import LoraConfig
from align.errors import UserError
from align.part_files import restore_part, save_part
from align.ppo.config import PPOConfig
from align.shared import SharedBase

PARTS = ("policy", "critic")
"""Parts that train, each with gradients and a norm of its own."""


def add_parts(
    shared: SharedBase,
    args: PPOConfig,
    lora: LoraConfig | PeftLora | None,
    ref_model: PreTrainedModel | None = None,
    value_model: PreTrainedModel | None = None,
) -> None:
    """Add reference, critic and policy; the policy is in force afterwards.

    Args:
        shared: The base; it may already hold a reward model.
        args: Says what the critic is, where its adapter starts from, and the seed.
        lora: Shape of the adapters; None trains the base's own weights.
        ref_model: The reference, if it is not the model that PPO starts from.
        value_model: A critic of its own; its score head, if it has one, becomes the critic's.

    Raises:
        UserError: Parts that do not go together.
    """
    if ref_model is None and lora is None:
        ref_model = copy.deepcopy(shared.base)
    if ref_model is not None:
        shared.add_model("reference", ref_model)
    _add_critic(shared, args, lora, value_model)
    if lora is None:
        shared.add_model("policy", shared.base, trainable=True)
    else:
        shared.add_adapter("policy", lora, trainable=True, seed=args.seed)


def _add_critic(
    shared: SharedBase,
    args: PPOConfig,
    lora: LoraConfig | PeftLora | None,
    value_model: PreTrainedModel | None,
) -> None:
    """Add the critic's trunk, unless it is the policy's, and its head."""
    kind = "model" if value_model is not None else args.critic
    weight: Tensor | None = None
    if kind == "adapter" and lora is None:
        raise UserError(
            "a critic's adapter needs a frozen base, and full fine-tuning has none",
            where="critic",
            allowed="head, model",
        )
    if kind == "adapter":
        folder = Path(args.critic_adapter) if args.critic_adapter else None
        shared.add_adapter("critic", lora, folder=folder, trainable=True, seed=args.seed + 1)
    elif kind == "model":
        if value_model is None and shared.adapters:
            raise UserError(
                f"a critic copied from the base would hold its adapters {shared.adapters}",
                where="critic",
                allowed="head, adapter, or a value_model",
            )
        score = getattr(value_model, "score", None)
        weight = None if score is None else score.weight.detach().float()
        # the trunk alone: a vocabulary or score head in it would neither learn nor be read
        trunk = copy.deepcopy(shared.base) if value_model is None else value_model
        shared.add_model("critic", trunk.base_model, trainable=True)
    shared.add_head("critic", weight=weight, trainable=True)


def parameter_groups(shared: SharedBase, args: PPOConfig) -> list[dict[str, Any]]:
    """Exactly the policy's and the critic's parameters, for an optimizer without weight decay."""
    critic = args.learning_rate if args.critic_learning_rate is None else args.critic_learning_rate
    rates = {"policy": args.learning_rate, "critic": critic}
    return [
        {"params": shared.trainable_parameters(part), "lr": rates[part], "weight_decay": 0.0}
        for part in PARTS
    ]


def save_parts(shared: SharedBase, folder: Path) -> None:
    """Write the policy into a folder and the critic below it."""
    save_part(shared, "policy", folder)
    save_part(shared, "critic", folder / "critic")


def restore_parts(shared: SharedBase, folder: Path) -> None:
    """Put back what `save_parts` wrote."""
    restore_part(shared, "policy", folder)
    restore_part(shared, "critic", folder / "critic")
