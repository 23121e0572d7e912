"""Load, build and save models. A model is a reference: a base and the adapters merged into it.

Weights come from safetensors (or GGUF, see `align.gguf`) only; nothing is unpickled, and code
from a model's repository runs only where the reference says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from align.adapters import check_adapters, merge_adapters, save_adapter
from align.config import ArchitectureConfig
from align.errors import UserError
from align.gguf import converted
from align.products import quicken_linear
from align.quiet import quiet_transformers
from align.references import ModelReference, listing, relative_model, resolve_reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "LoadedModel",
    "ModelReference",
    "build_model",
    "load_model",
    "load_tokenizer",
    "pick_device",
    "pick_dtype",
    "relative_model",
    "resolve_reference",
    "save_adapter",
    "save_model",
]

INITIALIZER_RANGE = 0.05
"""Standard deviation of fresh weights. Llama's 0.02 suits widths in the thousands; a width of 128
learns the same text in about half the steps with this."""
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] }}"
    "{{ eos_token + '\n' if message['role'] == 'assistant' else '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
"""Chat template of a tokenizer that has none."""
PAD_NAMES = ("<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<|finetune_right_pad_id|>", "<unk>")
"""Special tokens that may serve as pad token, best first; then any other unused one."""


class LoadedModel(NamedTuple):
    """A causal LM with its adapters merged, in eval mode, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reference: ModelReference


def pick_device(name: str = "auto") -> str:
    """The device to compute on: `name`, or the first of cuda, mps, cpu that is there.

    Raises:
        UserError: The named device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = [device for device, present in there.items() if present]
    if name == "auto":
        return [*found, "cpu"][0]
    if name not in [*found, "cpu"]:
        raise UserError(f"no {name} device", where="device", allowed=", ".join([*found, "cpu"]))
    return name


def pick_dtype(name: str, device: str) -> torch.dtype:
    """Number format of the weights; auto: bfloat16 on a GPU that has it, else float32."""
    if name == "auto":
        bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if bf16 else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_model(reference: ModelReference, *, device: str | None = None) -> LoadedModel:
    """Load a causal LM with all adapters merged, dropout off for good, in eval mode.

    Adapters are merged in float32 and in order; then the weights take the reference's dtype.

    Args:
        reference: What to load.
        device: Where to put it; default: `pick_device()`.

    Raises:
        UserError: A missing file, weights in an unsafe format, an adapter of another model.
    """
    device = device or pick_device()
    dtype = pick_dtype(reference.dtype, device)
    check_adapters(reference)
    tokenizer = load_tokenizer(reference)
    with quiet_transformers():
        model = _load_base(reference, torch.float32 if reference.adapters else dtype)
    _fit_vocabulary(model, tokenizer, reference.base)
    model = merge_adapters(model, reference.adapters).to(device=device, dtype=dtype)
    disable_dropout(model)
    quicken_linear(model)
    _align_special_tokens(model, tokenizer)
    return LoadedModel(model.eval(), tokenizer, reference)


def load_tokenizer(reference: ModelReference) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; its pad token is never the EOS, and it has a chat template.

    Raises:
        UserError: There is no tokenizer, or it has no EOS.
    """
    place, options = _source(reference)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        raise _cannot_load("tokenizer", reference, error) from error
    if tokenizer.eos_token is None:
        raise UserError("the tokenizer has no EOS token", where=reference.base)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    _choose_pad(tokenizer)
    tokenizer.padding_side = "left"
    return tokenizer


def build_model(
    settings: ArchitectureConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> LlamaForCausalLM:
    """A Llama-style decoder with random weights and tied embeddings; the seed fixes every bit."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.context,
        attention_dropout=settings.dropout,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a plain transformers folder (safetensors) that holds no path of this machine."""
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes for the owner alone


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout of a model to 0, so that train mode changes nothing."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout_p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    config = getattr(model, "config", None)
    for name, value in vars(config).items() if config is not None else ():
        if isinstance(value, float) and name.endswith(("dropout", "drop", "_pdrop")):
            setattr(config, name, 0.0)


def _source(reference: ModelReference) -> tuple[str, dict[str, object]]:
    """Where transformers finds the base, and how it may be read."""
    place = reference.base
    options: dict[str, object] = {"trust_remote_code": reference.trust_remote_code}
    if place.endswith(".gguf"):
        place = str(converted(Path(place)))
    if os.path.isdir(place):
        options["local_files_only"] = True
    else:
        options["revision"] = reference.revision
    return place, options


def _load_base(reference: ModelReference, dtype: torch.dtype) -> PreTrainedModel:
    """The base alone, in `dtype`, with transformers' fused attention."""
    place, options = _source(reference)
    if os.path.isdir(place) and not list(Path(place).glob("*.safetensors")):
        raise UserError(
            f"no .safetensors weights among: {listing(Path(place))}",
            where=place,
            allowed="safetensors (other formats can run code when they are read)",
        )
    options |= {"attn_implementation": "sdpa", "use_safetensors": True}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype, output_loading_info=True, **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise _cannot_load("model", reference, error) from error
    # transformers would go on with random numbers in their place
    absent = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if absent:
        raise UserError(
            f"{len(absent)} weights of a {type(model).__name__} are missing, such as {absent[0]}",
            where=reference.base,
        )
    return model


def _cannot_load(kind: str, reference: ModelReference, error: Exception) -> UserError:
    """What transformers said, in one line, with what lies at a local place."""
    there = Path(reference.base)
    hint = f" (there: {listing(there)})" if there.is_dir() else ""
    return UserError(
        f"cannot load the {kind}{hint}: {str(error)[:300]}",
        where=reference.base,
        allowed="hub id, model folder, .gguf file or folder of a finished stage",
    )


def _choose_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer a pad token other than EOS: an unused special one, else a new one."""
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    used = {tokenizer.eos_token, tokenizer.bos_token}
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    free = sorted(t for t in special - used if t not in tokenizer.chat_template)
    named = [name for name in PAD_NAMES if name in free]
    tokenizer.add_special_tokens({"pad_token": [*named, *free, PAD_NAMES[0]][0]})


@torch.no_grad()
def _fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Give a pad token that had to be added a row: the mean of the others.

    The mean row's logit is the mean logit, so it takes less than 1 / V of the probability.
    """
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) <= rows:
        return
    if len(tokenizer) > rows + 1:
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens, the model {rows} rows", where=where
        )
    model.resize_token_embeddings(rows + 1, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight[rows] = layer.weight[:rows].mean(0)


def _align_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the model's configurations agree with the tokenizer on BOS, EOS and pad."""
    stops = model.generation_config.eos_token_id
    stops = [stops] if isinstance(stops, int) else list(stops or [])
    for config in (model.config, model.generation_config):
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    others = [stop for stop in stops if stop != tokenizer.eos_token_id]
    if others:  # some models end a turn with a token of its own
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, *others]
