"""LoRA adapters on disk: checked, merged into their base, saved with the same bytes every time."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import LoraConfig as PeftLora
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from align.config import LoraConfig
from align.errors import UserError
from align.files import file_hash, make_folder, write_json_atomic
from align.quiet import quiet_peft
from align.references import ModelReference, listing

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import nn
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MERGED = "merged.json"
"""Beside an exported model: the hashes of the adapters that it already contains."""
PREFIX = "base_model.model."


def peft_settings(lora: LoraConfig, **more: Any) -> PeftLora:
    """Our LoRA section as peft's configuration."""
    targets: Any = lora.target_modules
    return PeftLora(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        **{"task_type": "CAUSAL_LM", **more},
    )


def adapter_settings(lora: LoraConfig | PeftLora | None, folder: Path | None) -> PeftLora:
    """Configuration of a fresh adapter, or the one saved in a folder (dropout off).

    Raises:
        UserError: The folder's adapter is no LoRA.
    """
    if folder is not None:
        if not (folder / CONFIG).is_file():
            raise UserError(f"no {CONFIG}", where=str(folder))
        settings = PeftLora.from_pretrained(str(folder))
        if not isinstance(settings, PeftLora):
            raise UserError("the adapter is not a LoRA", where=str(folder), allowed="peft LoRA")
    else:
        # a copy: peft writes the target modules it found into the configuration it is given
        settings = copy.deepcopy(lora) if isinstance(lora, PeftLora) else None
        settings = settings or peft_settings(lora or LoraConfig())
    settings.task_type, settings.modules_to_save, settings.lora_dropout = "CAUSAL_LM", None, 0.0
    settings.inference_mode = False
    return settings


def add_lora(
    model: PreTrainedModel, settings: PeftLora, adapter_name: str = "default"
) -> PeftModel:
    """A model with a fresh LoRA adapter in force (peft's `get_peft_model`)."""
    with quiet_peft():
        return get_peft_model(model, settings, adapter_name=adapter_name)


def adapter_hashes(places: Sequence[str]) -> list[str]:
    """SHA-256 of each adapter's weights.

    Raises:
        UserError: A folder that holds no adapter in safetensors.
    """
    for folder in map(Path, places):
        if not folder.is_dir():
            raise UserError("no such adapter folder", where=str(folder))
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise UserError(f"no {name} among: {listing(folder)}", where=str(folder))
    return [file_hash(Path(place) / WEIGHTS) for place in places]


def merged_hashes(base: str) -> list[str]:
    """Hashes of the adapters that an exported model already contains."""
    path = Path(base) / MERGED
    return list(json.loads(path.read_text("utf-8"))["adapters"]) if path.is_file() else []


def check_adapters(reference: ModelReference) -> None:
    """Refuse an adapter named twice, or one that the base already contains."""
    seen = dict.fromkeys(merged_hashes(reference.base), f"the base {reference.base}")
    for place, digest in zip(reference.adapters, adapter_hashes(reference.adapters), strict=True):
        if digest in seen:
            raise UserError(
                f"this adapter is already in {seen[digest]}",
                where=place,
                remedy="merge every adapter once",
            )
        seen[digest] = place


def merge_adapters(model: PreTrainedModel, places: Sequence[str]) -> PreTrainedModel:
    """Add every adapter's update to the weights, in order: W <- W + (alpha / r) B A.

    Raises:
        UserError: An adapter that is no causal LM's LoRA, or that does not fit the model.
    """
    for place in places:
        folder = Path(place)
        settings = _read_settings(folder)
        if not isinstance(settings, PeftLora) or settings.modules_to_save:
            raise UserError(
                f"a {settings.peft_type} adapter that also replaces {settings.modules_to_save}"
                if isinstance(settings, PeftLora)
                else f"a {settings.peft_type} adapter",
                where=place,
                allowed="LoRA adapter of a causal LM",
            )
        check_fit(model, folder)
        settings.task_type, settings.inference_mode = "CAUSAL_LM", True
        settings.base_model_name_or_path = None  # else peft warns that the base is another
        tuned = add_lora(model, settings)
        result = set_peft_model_state_dict(tuned, load_file(folder / WEIGHTS))
        missing = [key for key in result.missing_keys if "lora_" in key]
        if missing or result.unexpected_keys:
            raise _misfit(folder, f"{len(missing)} weights missing, first {missing[:1]}")
        model = tuned.merge_and_unload(safe_merge=True)
    return model


def _read_settings(folder: Path) -> PeftConfig:
    """The configuration of an adapter on disk."""
    try:
        return PeftLora.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"broken {CONFIG}: {str(error)[:200]}", where=str(folder)) from error


def _open_weights(folder: Path) -> Any:
    """The adapter's tensors, opened but not read."""
    try:
        return safe_open(folder / WEIGHTS, framework="pt")
    except SafetensorError as error:
        raise UserError(f"broken {WEIGHTS}: {str(error)[:200]}", where=str(folder)) from error


def check_fit(model: nn.Module, folder: Path) -> None:
    """Refuse an adapter whose layers the model lacks or has in another size."""
    modules = dict(model.named_modules())
    with _open_weights(folder) as file:
        for key in file.keys():  # noqa: SIM118 - a safetensors handle is not iterable
            name, _, rest = key.removeprefix(PREFIX).partition(".lora_")
            weight = getattr(modules.get(name), "weight", None)
            if weight is None:
                raise _misfit(folder, f"it changes {name}, which the model does not have")
            shape, side = file.get_slice(key).get_shape(), 1 if rest.startswith("A") else 0
            if rest[:1] in "AB" and shape[side] != weight.shape[side]:
                raise _misfit(
                    folder, f"{name} has {tuple(weight.shape)} weights, the adapter {shape}"
                )


def _misfit(folder: Path, why: str) -> UserError:
    return UserError(
        f"the adapter does not fit the base: {why}",
        where=str(folder),
        remedy="use the adapter with the model it was trained on",
    )


def save_adapter(model: PeftModel, adapter_name: str, folder: Path) -> None:
    """Write one adapter: safetensors and configuration, equal bytes for equal weights.

    peft's own `save_pretrained` writes sets in random order, a model card and the base's path.
    """
    make_folder(folder)
    state = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    tensors = {key: state[key].detach().cpu().clone().contiguous() for key in sorted(state)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes for the owner alone
    settings = model.peft_config[adapter_name].to_dict()
    settings |= {"base_model_name_or_path": None, "inference_mode": True, "revision": None}
    write_json_atomic(folder / CONFIG, _plain(dict(sorted(settings.items()))))


def _plain(value: Any) -> Any:
    """JSON with sets as sorted lists and enumerations as their values."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", value)
