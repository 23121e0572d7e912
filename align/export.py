"""A model with its adapters merged, as a plain transformers folder that needs nothing of ours."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from align.adapters import MERGED, adapter_hashes, merged_hashes
from align.errors import UserError
from align.files import make_folder, write_json_atomic
from align.models import load_model, save_model
from align.references import ModelReference


def export_model(reference: ModelReference, folder: Path) -> Path:
    """Merge a model's adapters and save the result; appears whole or not at all.

    Beside the model `merged.json` names the adapters by hash, so that none is merged again.

    Args:
        reference: What to export, in the number format it names.
        folder: Where to; it may exist if it is empty.

    Returns:
        `folder`.

    Raises:
        UserError: There is something in `folder`, or the model cannot be loaded.
    """

    def write(work: Path) -> None:
        model, tokenizer, _ = load_model(reference, device="cpu")
        save_model(model, tokenizer, work)
        hashes = [*merged_hashes(reference.base), *adapter_hashes(reference.adapters)]
        write_json_atomic(work / MERGED, {"adapters": hashes})

    return write_folder(folder, write)


def write_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder that appears whole or not at all.

    Args:
        folder: Where to; it may exist if it is empty.
        write: Is given a folder to write into.

    Raises:
        UserError: There is something in `folder`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            "there is something here already", where=str(folder), allowed="a new or empty folder"
        )
    parent = make_folder(folder.absolute().parent)
    work = Path(tempfile.mkdtemp(dir=parent, prefix=f".{folder.name}."))
    try:
        write(work)
        work.chmod(0o755)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder
