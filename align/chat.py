"""Talk with a model: one answer, or a conversation that remembers what was said."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from align.data.encoding import decode_response, encode_prompt
from align.generation import Sampling, generate
from align.models import load_model, pick_device
from align.references import resolve_reference


@dataclass(frozen=True)
class ChatSettings:
    """How to answer."""

    temperature: float = 0.7
    """0 takes the likeliest token."""
    max_tokens: int = 256
    """Longest answer, in tokens."""
    seed: int = 0
    """Seed of the sampling."""


class Conversation:
    """A model and what has been said so far.

    Args:
        model: Stage folder, model folder, .gguf file or hub id.
        settings: How to answer.

    Raises:
        UserError: if there is no such model.
    """

    def __init__(self, model: str, settings: ChatSettings) -> None:
        loaded = load_model(resolve_reference(model), device=pick_device())
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._sampling = Sampling(
            max_new_tokens=settings.max_tokens,
            stop_ids=frozenset({self._tokenizer.eos_token_id}),
            temperature=settings.temperature,
            pad_id=self._tokenizer.pad_token_id,
        )
        self.messages: list[dict[str, str]] = []

    def answer(self, text: str) -> str:
        """The model's answer to `text`; both are added to the conversation."""
        self.messages.append({"role": "user", "content": text})
        ids = encode_prompt(self._tokenizer, self.messages)
        response = generate(self._model, [ids], self._sampling, self._generator)[0]
        said = decode_response(self._tokenizer, response.ids)
        self.messages.append({"role": "assistant", "content": said})
        return said
