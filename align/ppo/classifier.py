"""A classifier with one label as a reward function: any model, its own tokenizer and template."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.data.encoding import pair_text, render_prompt, response_text
from align.errors import UserError
from align.ppo.terms import RewardFunction, RewardTerm

REWARD_CONFIG = "reward_config.json"
"""File of a reward model of ours."""


@dataclass(frozen=True)
class ClassifierReward:
    """Scores responses with a sequence classifier.

    Responses arrive as text, so the classifier's tokenizer and chat template may differ from the
    policy's. Conversations go through its template; plain prompts and responses are joined. A model
    of ours reads the text it was trained on (`pair_text`; of an encoder without EOS).

    Attributes:
        model: A classifier with one label.
        tokenizer: Its tokenizer.
        batch_size: Responses a pass.
        ours: Whether `align export` or a reward stage wrote the model.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 16
    ours: bool = False

    @property
    def __name__(self) -> str:
        """What metrics call it: the model's name."""
        return str(self.model.config._name_or_path or type(self.model).__name__).split("/")[-1]

    @torch.no_grad()
    def __call__(self, prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        """One score a response: the label's logit."""
        texts = [self._text(*pair) for pair in zip(prompts, completions, strict=True)]
        scores: list[float] = []
        for first in range(0, len(texts), self.batch_size):
            batch = self.tokenizer(
                texts[first : first + self.batch_size],
                padding=True,
                padding_side="right",
                truncation=True,
                return_tensors="pt",
                # a template writes its own special tokens
                add_special_tokens=self.ours or isinstance(prompts[0], str),
            ).to(self.model.device)
            scores += self.model(**batch).logits[:, 0].float().tolist()
        return scores

    def _text(self, prompt: Any, completion: Any) -> str:
        """Prompt and response as the classifier reads them."""
        if self.ours and hasattr(self.model, "score"):  # a causal LM under a head
            return pair_text(self.tokenizer, prompt, completion)
        if self.ours:
            return render_prompt(self.tokenizer, prompt) + response_text(completion)
        if isinstance(prompt, str):
            return prompt + str(completion)
        return str(self.tokenizer.apply_chat_template([*prompt, *completion], tokenize=False))


def as_reward(given: Any, tokenizer: PreTrainedTokenizerBase | None, device: torch.device) -> Any:
    """A reward function from a function, a classifier, or the id or folder of one.

    Args:
        given: A callable is returned as it is; in a `RewardTerm` its function is replaced.
        tokenizer: The classifier's; default: the one beside it.
        device: Where a classifier computes.

    Raises:
        UserError: The model has not exactly one label, or no pad token for batches.
    """
    if isinstance(given, RewardTerm):
        return replace(given, function=as_reward(given.function, tokenizer, device))
    if callable(given) and not isinstance(given, PreTrainedModel):
        return given
    model = given
    if isinstance(given, str):
        model = AutoModelForSequenceClassification.from_pretrained(given)
    name = str(model.config._name_or_path)
    if model.config.num_labels != 1:
        raise UserError(
            f"{model.config.num_labels} labels", where=f"reward model {name}", allowed="1 label"
        )
    if tokenizer is None and not name:
        raise UserError("a reward model without name", remedy="pass reward_processing_classes")
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UserError("the tokenizer has no pad token", where=f"reward model {name}")
    # where the model looks for the last real token of a padded row
    model.config.pad_token_id = tokenizer.pad_token_id
    ours = (Path(name) / REWARD_CONFIG).is_file()
    if ours:  # as the reward stage cuts texts that are too long
        tokenizer.truncation_side = "left"
    return ClassifierReward(model.to(device).eval().requires_grad_(False), tokenizer, ours=ours)


def reward_functions(
    given: Any, tokenizers: Any, weights: list[float] | None, device: torch.device
) -> list[RewardFunction | RewardTerm]:
    """Reward functions from one or several functions, classifiers, ids or folders.

    Args:
        given: One or a list; see `as_reward`.
        tokenizers: One for all classifiers or a list beside `given`.
        weights: Only their number is checked here.
        device: Where classifiers compute.

    Raises:
        UserError: There are not as many weights or tokenizers as functions.
    """
    rewards = list(given) if isinstance(given, list | tuple) else [given]
    each = tokenizers if isinstance(tokenizers, list | tuple) else [tokenizers] * len(rewards)
    for name, values in (
        ("reward_weights", rewards if weights is None else weights),
        ("reward_processing_classes", each),
    ):
        if len(values) != len(rewards):
            raise UserError(f"{len(values)} {name} for {len(rewards)} reward functions")
    pairs = zip(rewards, each, strict=True)
    return [as_reward(reward, tokenizer, device) for reward, tokenizer in pairs]
