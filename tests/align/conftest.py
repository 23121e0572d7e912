"""Tiny tokenizers and models (H = 32, two layers) that the tests of training stages start from."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
)

from align.adapters import add_lora, peft_settings, save_adapter
from align.config import ArchitectureConfig, LoraConfig
from align.models import build_model, save_model
from align.quiet import quiet_transformers
from align.tokenizer import train_tokenizer

SENTENCES = [
    "anna is a doctor and likes her work .",
    "the shop in berlin sells red boxes and blue bells .",
    "paul says this is a good radio . i love it .",
    "the big cat takes the small boat to the river .",
    "maria lives in rome and paul lives in oslo .",
    "people say the bad radio works badly at night .",
]
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's template, with marks around what the assistant generates."""


@pytest.fixture(scope="session")
def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Ours without merges: ids can be worked out by hand (see `byte_ids`)."""
    return train_tokenizer([], 262)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Ours, trained on a few sentences."""
    return train_tokenizer(SENTENCES * 3, 320)


def bpe_tokenizer(special: list[str], **named: str) -> PreTrainedTokenizerFast:
    """Somebody else's byte-level BPE: no BOS of its own, special tokens first."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


@pytest.fixture(scope="session")
def chatml_tokenizer() -> PreTrainedTokenizerFast:
    """Like SmolLM2's: `<|im_start|>`, `<|im_end|>`, pad equal to EOS, a default system prompt."""
    return bpe_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHATML,
    )


@pytest.fixture(scope="session")
def gpt2_like_tokenizer() -> PreTrainedTokenizerFast:
    """One special token for everything, no pad token, no chat template."""
    return bpe_tokenizer(["<|endoftext|>"], bos_token="<|endoftext|>", eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def tiny_architecture() -> ArchitectureConfig:
    return ArchitectureConfig(
        hidden_size=32, layers=2, heads=2, intermediate_size=64, vocab_size=320, context=64
    )


def save_tiny(
    tokenizer: PreTrainedTokenizerBase, architecture: ArchitectureConfig, folder: Path
) -> Path:
    """A random model of the tiny shape with any tokenizer, saved; its weights are not small."""
    model = build_model(architecture, tokenizer, seed=7)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= 5  # predictions that differ from token to token
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_architecture: ArchitectureConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A saved model folder."""
    return save_tiny(tiny_tokenizer, tiny_architecture, tmp_path_factory.mktemp("tiny") / "model")


def make_adapter(base: Path, folder: Path, seed: int, **lora: object) -> Path:
    """A LoRA with random weights in both matrices."""
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = add_lora(model, peft_settings(LoraConfig(r=4, alpha=6, **lora)))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    save_adapter(tuned, "default", folder)
    return folder


@pytest.fixture(scope="session")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters on the tiny model; the second changes two kinds of layers only."""
    place = tmp_path_factory.mktemp("adapters")
    first = make_adapter(tiny_folder, place / "first", seed=1)
    second = make_adapter(
        tiny_folder, place / "second", seed=2, target_modules=("q_proj", "down_proj")
    )
    return first, second


class Killed(Exception):
    """Stands for a kill: nothing of ours may catch it."""


class KillAt(TrainerCallback):
    """Stops the process, as it were, at the end of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step == self.step:
            raise Killed


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """A context in which whatever trains is killed at the end of a step."""
    add = Trainer.__init__

    @contextmanager
    def killed(step: int) -> Iterator[None]:
        def start(self: Trainer, *args: Any, **kwargs: Any) -> None:
            add(self, *args, **kwargs)
            self.add_callback(KillAt(step))

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "__init__", start)
            with pytest.raises(Killed):
                yield

    return killed


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every micro-batch that any trainer trains on."""
    made: list[int] = []
    step = Trainer.training_step

    def count(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        made.append(self.state.global_step)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", count)
    return made
