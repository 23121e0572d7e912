"""GGUF files: converted once to a safetensors folder, because transformers reads them slowly.

The folder lies beside the file (`NAME.gguf.converted`). Quantised weights become the float32
numbers that they stand for; training changes those, and the file itself is never written.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from align.errors import UserError
from align.files import write_json_atomic
from align.quiet import quiet_gguf, quiet_transformers

STAMP = "source.json"


def converted(file: Path) -> Path:
    """The safetensors folder of a GGUF file, made now if it is missing or older than the file.

    Raises:
        UserError: There is no such file, it cannot be read, or its folder cannot be written.
    """
    if not file.is_file():
        raise UserError("no such file", where=str(file))
    folder = file.with_name(f"{file.name}.converted")
    stamp = {"bytes": file.stat().st_size, "modified": file.stat().st_mtime_ns}
    if _is_of(folder, stamp):
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise UserError(
            "reading GGUF needs the package gguf", where=str(file), remedy="pip install gguf"
        )
    try:
        work = Path(tempfile.mkdtemp(dir=file.parent, prefix=f".{file.name}."))
    except OSError as error:
        raise UserError(
            f"cannot write the converted model beside it ({error.strerror})",
            where=str(file),
            remedy="copy the file to a folder that you can write",
        ) from error
    try:
        with quiet_transformers():
            convert(file, work)
        write_json_atomic(work / STAMP, stamp)
        for path in (work, *work.glob("*.safetensors")):
            path.chmod(0o755 if path == work else 0o644)  # as any other file a user makes
        if not _is_of(folder, stamp):  # another process may have been as quick
            shutil.rmtree(folder, ignore_errors=True)
            work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _is_of(folder: Path, stamp: dict[str, int]) -> bool:
    """Whether a folder was made from the file that has this stamp."""
    mark = folder / STAMP
    return mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == stamp


def convert(file: Path, folder: Path) -> None:
    """Write a GGUF model as a plain float32 transformers folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
        with quiet_gguf():
            read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **place)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot read this GGUF file: {str(error)[:300]}", where=str(file)
        ) from error
    settings = read.config.to_dict()
    # A model that still carries its GGUF quantisation refuses to be saved.
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    config = type(read.config).from_dict(settings)
    config._name_or_path = ""
    with torch.device("meta"):
        plain = type(read)(config)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = read.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
