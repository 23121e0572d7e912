"""Exported models: the adapters inside, nothing of ours needed, all or nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from align import export
from align.adapters import add_lora, peft_settings, save_adapter
from align.config import LoraConfig
from align.errors import UserError
from align.export import export_model
from align.files import folder_hash
from align.models import ModelReference, load_model
from align.quiet import quiet_peft, quiet_transformers

IDS = torch.arange(10, 30).reshape(2, 10)


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "adapter"
    model = load_model(ModelReference(str(tiny_folder))).model
    tuned = add_lora(model, peft_settings(LoraConfig(r=4)))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    save_adapter(tuned, "default", folder)
    return folder


@pytest.fixture
def reference(tiny_folder: Path, adapter: Path) -> ModelReference:
    return ModelReference(str(tiny_folder), (str(adapter),), dtype="float32")


@torch.no_grad()
def test_logits_equal_the_adapter_s(reference: ModelReference, tmp_path: Path) -> None:
    export_model(reference, tmp_path / "out")
    with quiet_transformers():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
        base = AutoModelForCausalLM.from_pretrained(reference.base).eval()
    before = base(input_ids=IDS).logits
    with quiet_peft():
        tuned = PeftModel.from_pretrained(base, reference.adapters[0])
    expected = tuned(input_ids=IDS).logits
    # merged weights are summed in another order: float32 rounding, logits of size 1
    torch.testing.assert_close(plain(input_ids=IDS).logits, expected, rtol=0, atol=5e-5)
    assert (expected - before).abs().max() > 0.01
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|end|>"


def test_equal_exports_have_equal_bytes(reference: ModelReference, tmp_path: Path) -> None:
    first, second = (export_model(reference, tmp_path / name) for name in ("a", "b"))
    assert folder_hash(first) == folder_hash(second)


def test_the_adapter_is_not_merged_again(reference: ModelReference, tmp_path: Path) -> None:
    out = export_model(reference, tmp_path / "out")
    with pytest.raises(UserError, match="adapter is already in the base"):
        load_model(replace(reference, base=str(out)))
    again = export_model(ModelReference(str(out), dtype="float32"), tmp_path / "again")
    with pytest.raises(UserError, match="adapter is already in the base"):
        load_model(replace(reference, base=str(again)))
    assert len(json.loads((again / "merged.json").read_text("utf-8"))["adapters"]) == 1


def test_nothing_is_overwritten(reference: ModelReference, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine").write_text("x", "utf-8")
    with pytest.raises(UserError, match="something here already"):
        export_model(reference, folder)
    with pytest.raises(UserError, match="something here already"):
        export_model(reference, folder / "mine")
    assert [path.name for path in folder.iterdir()] == ["mine"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (export_model(reference, empty) / "model.safetensors").is_file()


def test_interrupted_it_leaves_nothing(reference, tmp_path: Path, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_json_atomic", stop)
    with pytest.raises(KeyboardInterrupt):
        export_model(reference, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_outlives_what_it_came_from(reference, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(reference.base, base)
    out = export_model(replace(reference, base=str(base)), tmp_path / "out")
    shutil.rmtree(base)
    assert load_model(ModelReference(str(out))).model.num_parameters() > 0
