"""A part of a shared base on disk: a peft folder or a model, and its scalar head beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from align.adapters import WEIGHTS, save_adapter
from align.errors import UserError

if TYPE_CHECKING:
    from align.shared import SharedBase

HEAD = "head.safetensors"
"""File of a scalar head."""


def save_part(shared: SharedBase, name: str, folder: Path) -> None:
    """Write a part: an adapter as a peft folder or a model, and its scalar head beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in shared.adapters:
        save_adapter(shared.peft_model, name, folder)
    elif shared.has_part(name):
        shared.model_of(name).save_pretrained(folder)
    if name in shared.heads:
        state = shared.heads[name].state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, folder / HEAD)


def restore_part(shared: SharedBase, name: str, folder: Path) -> None:
    """Put back what `save_part` wrote into a part that exists here."""
    if name in shared.adapters:
        restore_adapter(shared, name, folder)
    elif shared.has_part(name):
        model = shared.model_of(name)
        saved = type(model).from_pretrained(folder, dtype=model.dtype)
        model.load_state_dict(saved.state_dict())
    if name in shared.heads:
        shared.heads[name].load_state_dict(load_file(folder / HEAD))


def restore_adapter(shared: SharedBase, name: str, folder: Path) -> None:
    """Load a saved adapter; heads saved beside it are left to their owners.

    Raises:
        UserError: There are no weights, or none that fit.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"no {WEIGHTS}", where=str(folder))
    state = {key: value for key, value in load_file(path).items() if "lora_" in key}
    try:
        shared.load_adapter_state(name, state)
    except RuntimeError as error:
        raise UserError(
            f"the adapter's weights have other shapes than the model ({str(error)[:200]})",
            where=str(folder),
            remedy="use it with the base model it was trained on",
        ) from error
