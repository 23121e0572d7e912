"""Adapters merged against the formula and against peft, and what is wrong with a broken one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from align.adapters import merge_adapters
from align.config import ArchitectureConfig
from align.errors import UserError
from align.models import ModelReference, build_model, load_model, save_model
from align.quiet import quiet_peft, quiet_transformers

IDS = torch.arange(10, 30).reshape(2, 10)


def base_of(folder: Path) -> ModelReference:
    return ModelReference(str(folder), dtype="float32")


def plain_model(folder: Path) -> LlamaForCausalLM:
    """The model as transformers alone loads it."""
    with quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS.to(model.device)).logits


class TestAdapters:
    def test_one_is_added_by_the_formula(self, tiny_folder: Path, adapters) -> None:
        merged = load_model(replace(base_of(tiny_folder), adapters=(str(adapters[0]),))).model
        weights = load_file(adapters[0] / "adapter_model.safetensors")
        name = "model.layers.1.mlp.gate_proj"
        a, b = (weights[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        before = plain_model(tiny_folder).get_submodule(name).weight.double()
        # W + (alpha / r) B A, alpha 6 and r 4
        expected = before + 6 / 4 * b @ a
        got = merged.get_submodule(name).weight.double()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)

    def test_two_equal_peft_one_after_the_other(self, tiny_folder: Path, adapters) -> None:
        reference = replace(base_of(tiny_folder), adapters=tuple(map(str, adapters)))
        merged = load_model(reference).model
        model = plain_model(tiny_folder)
        for folder in adapters:
            with quiet_peft():
                model = PeftModel.from_pretrained(model, folder).merge_and_unload()
        torch.testing.assert_close(logits(merged), logits(model), rtol=0, atol=1e-5)
        one = load_model(replace(reference, adapters=(str(adapters[0]),))).model
        assert (logits(merged) - logits(one)).abs().max() > 0.01
        assert not any("lora" in name for name, _ in merged.named_modules())

    def test_merging_is_in_float32_before_the_cast(self, tiny_folder: Path, adapters) -> None:
        reference = replace(base_of(tiny_folder), adapters=tuple(map(str, adapters)))
        exact = load_model(reference).model.state_dict()
        cast = load_model(replace(reference, dtype="bfloat16"), device="cpu").model.state_dict()
        for name, weight in exact.items():
            assert torch.equal(cast[name], weight.bfloat16())

    def test_an_adapter_twice(self, tiny_folder: Path, adapters, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(adapters[0], copy)
        for second in (adapters[0], copy):
            reference = replace(base_of(tiny_folder), adapters=(str(adapters[0]), str(second)))
            with pytest.raises(UserError, match=r"already in .*first; merge every adapter once"):
                load_model(reference)

    def test_an_adapter_of_another_size(self, tiny_tokenizer, adapters, tmp_path: Path) -> None:
        other = ArchitectureConfig(
            hidden_size=48, layers=2, heads=2, intermediate_size=64, vocab_size=320, context=64
        )
        save_model(build_model(other, tiny_tokenizer, 0), tiny_tokenizer, tmp_path / "m")
        with pytest.raises(UserError, match=r"does not fit the base: .*\(48, 64\).*\[32, 4\]"):
            load_model(replace(base_of(tmp_path / "m"), adapters=(str(adapters[0]),)))

    def test_an_adapter_of_a_deeper_model(
        self, tiny_tokenizer, tiny_architecture, adapters, tmp_path: Path
    ) -> None:
        shallow = tiny_architecture.model_copy(update={"layers": 1})
        save_model(build_model(shallow, tiny_tokenizer, 0), tiny_tokenizer, tmp_path / "m")
        with pytest.raises(UserError, match=r"model\.layers\.1\.\S+, which the model does not"):
            load_model(replace(base_of(tmp_path / "m"), adapters=(str(adapters[0]),)))

    def test_an_adapter_with_weights_missing(self, tiny_folder, adapters, tmp_path: Path) -> None:
        folder = tmp_path / "adapter"
        shutil.copytree(adapters[0], folder)
        weights = load_file(folder / "adapter_model.safetensors")
        weights.popitem()
        save_file(weights, folder / "adapter_model.safetensors")
        with pytest.raises(UserError, match="1 weights missing"):
            load_model(replace(base_of(tiny_folder), adapters=(str(folder),)))

    @pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
    def test_an_adapter_without_a_file(self, tiny_folder, adapters, tmp_path, name: str) -> None:
        folder = tmp_path / "adapter"
        shutil.copytree(adapters[0], folder)
        (folder / name).rename(folder / "adapter_model.bin")
        with pytest.raises(UserError, match=rf"no {name} among: .*adapter_model\.bin"):
            load_model(replace(base_of(tiny_folder), adapters=(str(folder),)))

    @pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
    def test_a_broken_adapter(self, tiny_folder, adapters, tmp_path: Path, name: str) -> None:
        folder = tmp_path / "adapter"
        shutil.copytree(adapters[0], folder)
        (folder / name).write_bytes(b"{broken")
        with pytest.raises(UserError, match=f"adapter: broken {name}"):
            load_model(replace(base_of(tiny_folder), adapters=(str(folder),)))

    def test_an_adapter_that_is_not_there(self, tiny_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such adapter folder"):
            load_model(replace(base_of(tiny_folder), adapters=(str(tmp_path / "no"),)))

    def test_an_adapter_that_replaces_layers(self, tiny_folder, adapters, tmp_path: Path) -> None:
        folder = tmp_path / "adapter"
        shutil.copytree(adapters[0], folder)
        path = folder / "adapter_config.json"
        settings = json.loads(path.read_text("utf-8")) | {"modules_to_save": ["score"]}
        path.write_text(json.dumps(settings), "utf-8")
        with pytest.raises(UserError, match=r"replaces .*score.*LoRA adapter of a causal LM"):
            merge_adapters(plain_model(tiny_folder), [str(folder)])

    def test_saved_bytes_are_sorted(self, adapters) -> None:
        settings = json.loads((adapters[0] / "adapter_config.json").read_text("utf-8"))
        assert list(settings) == sorted(settings)
        assert settings["target_modules"] == sorted(settings["target_modules"])
        assert len(settings["target_modules"]) == 14  # two blocks of seven layers
        assert sorted(p.name for p in adapters[0].iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
