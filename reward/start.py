"""What reward training starts from: a sequence classifier with one label, its tokens, its scorer.

A causal LM lends its own trunk, in memory, to a new head N(0, 1 / sqrt(H + 1)) without bias
(Stiennon 2020, 2009.01325). Any other model - BERT, ModernBERT, a classifier - is loaded by
transformers as its sequence classifier, with the head that belongs to it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from align.adapters import WEIGHTS, add_lora, peft_settings
from align.config import RewardConfig
from align.data.encoding import encode_prompt, encode_response
from align.errors import UserError
from align.models import disable_dropout, load_model
from align.quiet import quiet_transformers
from align.references import ModelReference
from align.shared import initial_head
from reward.encoder import EncoderReward, encoder_text, load_encoder_tokenizer
from reward.model import RewardModel
from reward.parts import ModelTrunk, RewardSettings
from reward.upper import blocks_of, lower_weights

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Start:
    """A classifier before training.

    Attributes:
        model: One label, weights of its head random.
        tokenizer: Its tokenizer.
        fresh: Names of the modules whose weights are random: they train beside an adapter.
        causal: Whether it is a causal LM under a head, whose adapter is kept apart.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fresh: tuple[str, ...]
    causal: bool

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        return longest_of(self.model, self.tokenizer)

    def encode(self, prompt: Any, response: Any) -> list[int]:
        """Token ids of a whole prompt and response, as the scorer sees them."""
        if self.causal:
            parts = encode_prompt(self.tokenizer, prompt), encode_response(self.tokenizer, response)
            return parts[0] + parts[1]
        text = encoder_text(self.tokenizer, prompt, response)
        return list(self.tokenizer(text)["input_ids"])

    def scorer(self, model: Any) -> RewardModel:
        """The trained model (with or without an adapter) as a scorer of raw scores."""
        settings = RewardSettings(max_length=self.context)
        if not self.causal:
            return EncoderReward(model, self.tokenizer, settings)
        classifier = model.get_base_model() if isinstance(model, PeftModel) else model
        score = classifier.score
        trained = score.modules_to_save["default"] if isinstance(model, PeftModel) else score
        head = nn.Linear(trained.in_features, 1, bias=False, device=trained.weight.device)
        head.weight.data.copy_(trained.weight.data)
        return RewardModel(ModelTrunk(classifier), head, self.tokenizer, settings)


def longest_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens that both the model and its tokenizer allow."""
    own = getattr(model.config, "max_position_embeddings", None)
    allowed: int = tokenizer.model_max_length
    return allowed if own is None else min(own, allowed)


def load_start(reference: ModelReference, seed: int) -> Start:
    """Load what training starts from, on the CPU; the trainer places it.

    Raises:
        UserError: transformers has no classifier for the model, or it cannot be loaded.
    """
    if is_causal(reference):
        causal, tokenizer, _ = load_model(reference, device="cpu")
        return Start(build_classifier(causal, seed), tokenizer, ("score",), causal=True)
    if reference.adapters:
        raise UserError(
            "adapters are merged into causal LMs only", where=reference.base, remedy="export it"
        )
    options: dict[str, Any] = {
        "revision": reference.revision,
        "trust_remote_code": reference.trust_remote_code,
    }
    tokenizer = load_encoder_tokenizer(reference.base, options)
    try:
        with torch.random.fork_rng(devices=[]), quiet_transformers():
            torch.manual_seed(seed)
            model, info = AutoModelForSequenceClassification.from_pretrained(
                reference.base,
                num_labels=1,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError) as error:
        raise UserError(
            f"no sequence classifier: {str(error)[:200]}", where=reference.base
        ) from error
    disable_dropout(model)
    model.config.pad_token_id, model.config.problem_type = tokenizer.pad_token_id, "regression"
    tokenizer.model_max_length = longest_of(model, tokenizer)
    random = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    return Start(model, tokenizer, _training_modules(model, random), causal=False)


def is_causal(reference: ModelReference) -> bool:
    """Whether the model is a causal LM (GGUF files are)."""
    if reference.base.endswith(".gguf"):
        return True
    try:
        config = AutoConfig.from_pretrained(
            reference.base,
            revision=reference.revision,
            trust_remote_code=reference.trust_remote_code,
        )
    except (OSError, ValueError):
        return True  # loading it says what is wrong
    names = config.architectures or ()
    return not names or any(n in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for n in names)


def build_classifier(causal: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A sequence classifier with one label on the causal LM's own trunk (shared, not copied).

    Raises:
        UserError: transformers has no classifier for this architecture.
    """
    config = copy.deepcopy(causal.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise UserError(
            f"no sequence classifier for {config.model_type}", where="reward", allowed="Llama, Qwen"
        ) from error
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise UserError(f"{type(model).__name__} has no linear `score` head", where="reward")
    setattr(model, model.base_model_prefix, causal.base_model)
    weight = initial_head(config.hidden_size, seed)
    model.score = nn.Linear(config.hidden_size, 1, bias=False)
    model.score.weight.data.copy_(weight)
    return model.to(causal.device)


def adapted(start: Start, section: RewardConfig, seed: int) -> PeftModel | PreTrainedModel:
    """The classifier under a fresh adapter that trains with the head, or with all weights free."""
    if section.lora is None:
        return start.model.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = add_lora(
            start.model,
            peft_settings(section.lora, task_type="SEQ_CLS", modules_to_save=list(start.fresh)),
        )
    # peft adds every name that a classifier's head may have
    model.peft_config["default"].modules_to_save = list(start.fresh)
    return model


def share_lower(model: PeftModel, folder: Path, upper: int) -> None:
    """Take the lower layers of an adapter from a folder, and let the last `upper` train alone."""
    classifier = model.get_base_model()
    lower = lower_weights(classifier, folder / WEIGHTS, upper)
    named = {key.replace(".weight", ".default.weight"): value for key, value in lower.items()}
    assert not model.load_state_dict(named, strict=False).unexpected_keys
    for block in list(blocks_of(classifier))[:-upper]:
        block.requires_grad_(False)


def _training_modules(model: PreTrainedModel, random: set[str]) -> tuple[str, ...]:
    """Names of the head's modules, and of those of the trunk whose weights are random."""
    trunk = model.base_model_prefix
    heads = {n for n, child in model.named_children() if n != trunk and list(child.parameters())}
    return tuple(sorted(heads | {k.removeprefix(f"{trunk}.").split(".")[0] for k in random}))
