"""One PPO run of TRL 1.12: `python -m workers.trl_ppo WORK` prints one JSON line.

Run by TRL's own environment. Policy, critic and reward model are three copies of the base; the
reference is the policy with its LoRA off, which is TRL's cheapest way. The critic starts from a
zero head, as ours does. TRL makes its accelerator without its arguments, so `bf16` among them does
nothing; mixed precision reaches it through accelerate's own variable, and covers the optimisation
alone, not sampling and the passes before it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PrinterCallback,
    set_seed,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer
from workers.measure import (
    Recorder,
    Stopwatch,
    device_of,
    id_tokenizer,
    load_policy,
    load_prompts,
    report,
    reward_head,
    toy_hits,
    weights_dtype,
)
from workers.work import Work


class _States(NamedTuple):
    hidden_states: tuple[Tensor]


class _Hits(nn.Module):
    """Stands where a trunk would: its "hidden states" are counts of hits in the response."""

    def __init__(self, work: Work, vocab_size: int) -> None:
        super().__init__()
        self._length, self._vocab_size = work.response_length, vocab_size

    def forward(self, input_ids: Tensor, **_: Any) -> _States:
        hits = toy_hits(input_ids, self._vocab_size)
        hits[:, : -self._length] = 0
        return _States((hits.cumsum(1)[..., None] / self._length,))


class ToyReward(nn.Module):
    """The toy score in the form of a reward model: `score(trunk(ids).hidden_states[-1])`."""

    base_model_prefix = "hits"

    def __init__(self, work: Work, vocab_size: int) -> None:
        super().__init__()
        self.hits, self.score = _Hits(work, vocab_size), nn.Identity()


class _Read(nn.Module):
    """Stands where a trunk would: every "hidden state" of a row is that of its response's EOS."""

    def __init__(self, trunk: nn.Module, eos: int) -> None:
        super().__init__()
        self._trunk, self._eos = trunk, eos

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> _States:
        rows = [ids[mask.bool()] for ids, mask in zip(input_ids, attention_mask, strict=True)]
        end = input_ids.new_tensor([self._eos])
        whole = [row if row[-1] == self._eos else torch.cat([row, end]) for row in rows]
        padded = nn.utils.rnn.pad_sequence(whole, batch_first=True)
        lengths = torch.tensor([len(row) for row in whole], device=padded.device)
        mask = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
        hidden = self._trunk(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        last = hidden[torch.arange(len(whole)), lengths - 1]
        return _States((last[:, None].expand(-1, input_ids.shape[1], -1),))


class StageReward(nn.Module):
    """A finished reward stage's scores, with mean 0 and standard deviation 1 on its own data.

    A response that EOS does not end is scored as if it did, as ours scores it.
    """

    base_model_prefix = "read"

    def __init__(self, work: Work) -> None:
        super().__init__()
        assert work.eos is not None
        model = AutoModelForSequenceClassification.from_pretrained(
            work.classifier, num_labels=1, dtype=weights_dtype(work), local_files_only=True
        )
        settings = json.loads((Path(work.score) / "adapter" / "reward_config.json").read_text())
        self._head, self._settings = model.score, settings
        self.read = _Read(model.base_model, work.eos)

    def score(self, hidden: Tensor) -> Tensor:
        """Normalised scores (B, S, 1) of hidden states (B, S, H)."""
        raw: Tensor = self._head(hidden)
        return (raw - self._settings["mean"]) / self._settings["std"]


def reward_of(work: Work, vocabulary: int, width: int) -> nn.Module:
    """The reward model that the work names."""
    if work.score == "toy":
        return ToyReward(work, vocabulary)
    if work.score == "model":
        return classifier(work, reward_head(width, work.seed))
    return StageReward(work)


def classifier(work: Work, head: Tensor | None) -> PreTrainedModel:
    """The base as a sequence classifier with one output and this head; None: zeros."""
    model = AutoModelForSequenceClassification.from_pretrained(
        work.model, num_labels=1, dtype=weights_dtype(work), local_files_only=True
    )
    with torch.no_grad():
        model.score.weight.zero_() if head is None else model.score.weight.copy_(head)
    return model.to(device_of(work))


def lora(work: Work, task: str) -> LoraConfig:
    """Shape of an adapter."""
    return LoraConfig(
        r=work.lora_r, lora_alpha=work.lora_alpha, target_modules="all-linear", task_type=task
    )


def critic(work: Work) -> PreTrainedModel:
    """The value model; with LoRA its adapter (in float32, as the policy's) and head train."""
    model = classifier(work, None)
    if work.critic == "lora":
        inject_adapter_in_model(lora(work, "SEQ_CLS"), model)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
        model.score.requires_grad_(True)
    return model


def trainer_arguments(work: Work) -> dict[str, Any]:
    """Arguments of TRL's `PPOConfig`; what the work names itself comes last."""
    own: dict[str, Any] = {
        "use_cpu": device_of(work) == "cpu",
        "num_sample_generations": 0,
        "gradient_checkpointing": False,  # True would change nothing: its loop never acts on it
        "local_rollout_forward_batch_size": work.batch,
    }
    if work.eos is not None:
        own |= {"stop_token": "eos", "missing_eos_penalty": 1.0}
    # its rollout is per device x accumulation, and accumulation runs on over mini-batches
    own |= work.trainer_arguments
    if work.mini_batches > 1:
        own |= {"per_device_train_batch_size": work.batch, "gradient_accumulation_steps": 1}
    return own


def time_phases(watch: Stopwatch, reward: nn.Module) -> None:
    """Time the functions that TRL's loop calls before it optimises."""
    timed = {
        "batch_generation": lambda *_: "sample",
        "get_reward": lambda model, *_: "score" if model is reward else "measure",
        "forward": lambda *_: None if torch.is_grad_enabled() else "measure",
    }
    for name, phase in timed.items():
        setattr(ppo_trainer, name, watch.timed(phase, getattr(ppo_trainer, name)))


def train(work: Work, folder: str) -> Recorder:
    """Train, and return what was recorded."""
    set_seed(work.seed)  # TRL shuffles and starts its adapters from the global generators
    policy = load_policy(work)
    vocabulary, width = policy.config.vocab_size, policy.config.hidden_size
    reward = reward_of(work, vocabulary, width).to(device_of(work))
    watch = Stopwatch()
    recorder = Recorder("objective/scores", watch.take)
    trainer = PPOTrainer(
        args=PPOConfig(output_dir=folder, **trainer_arguments(work)),
        processing_class=id_tokenizer(vocabulary, vocabulary + 1, work.eos),
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=critic(work),
        train_dataset=Dataset.from_dict({"input_ids": load_prompts(work.prompts)}),
        peft_config=lora(work, "CAUSAL_LM"),
        callbacks=[recorder],
    )
    trainer.remove_callback(PrinterCallback)
    time_phases(watch, reward)
    trainer.train()
    return recorder


if __name__ == "__main__":
    the_work = Work.from_json(sys.argv[1])
    if the_work.dtype == "autocast":
        os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    with tempfile.TemporaryDirectory() as scratch:
        recorded = train(the_work, scratch)
    print(report(the_work, recorded, "trl"))
