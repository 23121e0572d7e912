"""A reward model whose head is its architecture's own: BERT, ModernBERT and other encoders.

Prompt and response are one text; tokens, pooling and head are transformers', so its own pipeline
gives the same scores. Of too long a text the beginning is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import AutoTokenizer

from align.data.encoding import render_prompt, response_text
from align.errors import UserError
from reward.model import RewardModel
from reward.parts import ModelTrunk, RewardSettings, right_padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
"""Chat template of a tokenizer that has none."""


class EncoderReward(RewardModel):
    """Scores responses with a whole classifier; else like `RewardModel`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: RewardSettings,
        *,
        normalised: bool = False,
    ) -> None:
        head: Any = None  # the model's own
        super().__init__(ModelTrunk(model), head, tokenizer, settings, normalised=normalised)
        self.model = model

    def encode(self, prompt: Any, completion: Any) -> list[int]:
        """Token ids of prompt and response as one text, the end of it if it is too long."""
        text = encoder_text(self.tokenizer, prompt, completion)
        limit = self.settings.max_length
        found = self.tokenizer(text, truncation=limit is not None, max_length=limit)
        return list(found["input_ids"])

    def _score_batch(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Raw scores (B,) of one batch."""
        ids, mask = right_padded(sequences, self.trunk.device)
        ids = ids.masked_fill(mask == 0, self.tokenizer.pad_token_id)
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits[:, 0].float()


def encoder_text(tokenizer: PreTrainedTokenizerBase, prompt: Any, completion: Any) -> str:
    """Prompt and response as one text, without special tokens of the tokenizer's own."""
    return render_prompt(tokenizer, prompt) + response_text(completion)


def load_encoder_tokenizer(place: str, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of an encoder, with a chat template, cutting texts at their beginning.

    Raises:
        UserError: There is no tokenizer, or it has no pad token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load the tokenizer: {str(error)[:200]}", where=place) from error
    if tokenizer.pad_token is None:
        raise UserError("the tokenizer has no pad token", where=place)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = TEMPLATE
    keep_ends(tokenizer)
    return tokenizer


def keep_ends(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let whoever truncates with this tokenizer keep a text's end, also after it was saved."""
    tokenizer.truncation_side, tokenizer.padding_side = "left", "right"
    # of attributes that were set, only those given at the start are saved
    tokenizer.init_kwargs |= {"truncation_side": "left", "padding_side": "right"}
