"""A vocabulary of words, tiny random Llamas, and trainers small enough to run in a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from align.config import LoraConfig
from align.ppo.config import PPOConfig
from align.ppo.parts import add_parts
from align.ppo.trainer import PPOTrainer
from align.shared import SharedBase

WORDS = ["<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
"""The vocabulary: ids are places in this list, a text is words between blanks."""
PROMPTS = ["a b c", "d", "e f g h i", "j k", "l m n o", "p", "q r s", "t u v w x y"]
LORA = LoraConfig(r=4, alpha=8)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer("<pad>")


@pytest.fixture(scope="session")
def tokenizer_padding_with_eos() -> PreTrainedTokenizerFast:
    return word_tokenizer("<eos>")


def word_tokenizer(pad: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token=pad, unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def make_model() -> Callable[..., LlamaForCausalLM]:
    """A random Llama over the words; a larger `spread` makes it surer of its words."""

    def make(seed: int = 0, spread: float = 4.0, **more: Any) -> LlamaForCausalLM:
        shape = {
            "vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 1,
            "pad_token_id": 0,
        }  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = LlamaForCausalLM(LlamaConfig(**shape | more))
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data *= spread
        return model.eval()

    return make


def fill(shared: SharedBase, seed: int = 0) -> None:
    """Random weights in both matrices of both adapters and in the critic's head."""
    generator = torch.Generator().manual_seed(seed)
    for part in ("policy", "critic"):
        for parameter in shared.trainable_parameters(part):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2


@pytest.fixture
def make_parts(
    make_model: Callable[..., LlamaForCausalLM], tmp_path: Path
) -> Callable[..., SharedBase]:
    """Any kind of policy and critic; adapters and heads are random, the policy is active."""

    def make(
        lora: LoraConfig | None, critic: str, model: dict[str, Any] | None = None, **given: Any
    ) -> SharedBase:
        base = SharedBase(make_model(**model or {}))
        args = PPOConfig(output_dir=str(tmp_path), use_cpu=True, critic=critic)
        add_parts(base, args, lora, **given)
        generator = torch.Generator().manual_seed(5)
        for name, parameter in base.named_parameters():
            if parameter.requires_grad and ("lora_" in name or "heads." in name):
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        return base

    return make


@pytest.fixture
def shared(make_model: Callable[..., LlamaForCausalLM]) -> SharedBase:
    """Policy and critic that differ from the base; the policy is active."""
    base = SharedBase(make_model())
    base.add_adapter("critic", LORA, trainable=True, seed=1)
    base.add_head("critic", trainable=True)
    base.add_adapter("policy", LORA, trainable=True, seed=2)
    fill(base)
    return base


def count_of_a(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """A toy score: how often the word "a" stands in the response."""
    return [float(text.split().count("a")) for text in completions]


@pytest.fixture
def make_trainer(
    make_model: Callable[..., LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> Callable[..., PPOTrainer]:
    """A trainer of two updates: 8 prompts, 8 responses, 2 minibatches, 2 epochs."""

    def make(
        *,
        model: LlamaForCausalLM | SharedBase | None = None,
        score: Callable[..., list[float]] = count_of_a,
        prompts: list[Any] | None = None,
        parts: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> PPOTrainer:
        settings = {
            "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1, "num_mini_batches": 2, "num_ppo_epochs": 2,
            "total_episodes": 16, "response_length": 6, "max_prompt_length": 16,
            "learning_rate": 1e-2, "critic": "adapter", "disable_tqdm": True, "use_cpu": True,
            "seed": 3,
        }  # fmt: skip
        rows = prompts if prompts is not None else [{"prompt": text} for text in PROMPTS]
        return PPOTrainer(
            model=model if model is not None else make_model(),
            reward_funcs=score,
            args=PPOConfig(**settings | arguments),
            train_dataset=rows,
            **{"processing_class": tokenizer, "peft_config": LORA} | (parts or {}),
        )

    return make


@pytest.fixture
def rows_logged() -> Callable[[PPOTrainer], list[dict[str, float]]]:
    """The metrics of every update, without those that a clock or the machine decides."""

    def rows(trainer: PPOTrainer) -> list[dict[str, float]]:
        measured = ("seconds/", "tokens_per_second/", "memory_gb")
        return [
            {key: value for key, value in row.items() if not key.startswith(measured)}
            for row in trainer.state.log_history
            if "update" in row
        ]

    return rows
