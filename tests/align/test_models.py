"""Loading, building and saving models."""

import json
import math
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from align.adapters import add_lora, peft_settings, save_adapter
from align.config import LoraConfig
from align.errors import UserError
from align.models import (
    ModelReference,
    build_model,
    disable_dropout,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    save_model,
)

IDS = torch.arange(10, 30).reshape(2, 10)


def base_of(folder: Path) -> ModelReference:
    return ModelReference(str(folder), dtype="float32")


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS.to(model.device)).logits


class TestBuild:
    def test_number_of_parameters(self, tiny_tokenizer, tiny_architecture) -> None:
        model = build_model(tiny_architecture, tiny_tokenizer, seed=0)
        h, i, v, layers = 32, 64, len(tiny_tokenizer), 2
        # attention 4 H^2, feed-forward 3 H I, two norms a block; one norm; tied embeddings once
        expected = layers * (4 * h * h + 3 * h * i + 2 * h) + h + v * h
        assert sum(p.numel() for p in model.parameters()) == expected

    def test_an_untrained_model_knows_nothing(self, tiny_tokenizer, tiny_architecture) -> None:
        model = build_model(tiny_architecture, tiny_tokenizer, seed=0)
        ids = torch.randint(0, len(tiny_tokenizer), (8, 64), generator=torch.Generator())
        loss = model(input_ids=ids, labels=ids).loss.item()
        assert loss == pytest.approx(math.log(len(tiny_tokenizer)), abs=0.05)

    def test_the_seed_fixes_every_weight(self, tiny_tokenizer, tiny_architecture) -> None:
        torch.manual_seed(3)
        expected_draw = torch.rand(1)
        torch.manual_seed(3)
        same, again, other = (
            build_model(tiny_architecture, tiny_tokenizer, seed).state_dict() for seed in (5, 5, 6)
        )
        assert torch.equal(torch.rand(1), expected_draw)  # the caller's stream is untouched
        assert all(torch.equal(same[name], again[name]) for name in same)
        embedding = "model.embed_tokens.weight"
        assert not torch.equal(same[embedding], other[embedding])

    def test_dropout_is_on_while_training(self, tiny_tokenizer, tiny_architecture) -> None:
        architecture = tiny_architecture.model_copy(update={"dropout": 0.5})
        model = build_model(architecture, tiny_tokenizer, seed=0).train()
        assert not torch.equal(logits(model), logits(model))


class TestLoad:
    def test_saved_and_loaded_it_is_the_same(
        self, tiny_tokenizer, tiny_architecture, tmp_path: Path
    ) -> None:
        model = build_model(tiny_architecture, tiny_tokenizer, seed=1).eval()
        save_model(model, tiny_tokenizer, tmp_path / "model")
        loaded = load_model(base_of(tmp_path / "model"))
        assert torch.equal(logits(loaded.model), logits(model))
        assert not loaded.model.training
        assert loaded.model.config._attn_implementation == "sdpa"
        assert loaded.tokenizer.get_vocab() == tiny_tokenizer.get_vocab()

    def test_files_name_no_place_of_this_machine(
        self, tiny_folder: Path, tiny_tokenizer, tmp_path: Path
    ) -> None:
        loaded = load_model(base_of(tiny_folder))
        save_model(loaded.model, loaded.tokenizer, tmp_path / "again")
        tuned = add_lora(loaded.model, peft_settings(LoraConfig(r=2)))
        save_adapter(tuned, "default", tmp_path / "adapter")
        for path in [*(tmp_path / "again").iterdir(), *(tmp_path / "adapter").iterdir()]:
            assert str(tiny_folder).encode() not in path.read_bytes()
            assert str(tmp_path).encode() not in path.read_bytes()
            assert path.stat().st_mode & 0o444 == 0o444  # others may read it

    def test_number_format(self, tiny_folder: Path) -> None:
        loaded = load_model(replace(base_of(tiny_folder), dtype="bfloat16"), device="cpu")
        assert loaded.model.dtype == torch.bfloat16

    def test_dropout_is_off_for_good(self, tiny_tokenizer, tiny_architecture, tmp_path) -> None:
        architecture = tiny_architecture.model_copy(update={"dropout": 0.5})
        save_model(build_model(architecture, tiny_tokenizer, 0), tiny_tokenizer, tmp_path / "m")
        model = load_model(base_of(tmp_path / "m")).model
        evaluated = logits(model)
        assert torch.equal(logits(model.train()), evaluated)
        assert model.config.attention_dropout == 0.0

    def test_disable_dropout_reaches_modules(self) -> None:
        model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.3)))
        disable_dropout(model)
        assert torch.equal(model.train()(torch.ones(100)), torch.ones(100))

    def test_weights_in_a_pickle_are_refused_unread(self, tiny_folder: Path, tmp_path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(tiny_folder, folder)
        (folder / "model.safetensors").unlink()
        trap = tmp_path / "trap"

        class Trap:
            def __reduce__(self) -> tuple[object, ...]:
                return os.mkdir, (str(trap),)

        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
        with pytest.raises(UserError, match=r"no \.safetensors .*pytorch_model\.bin.*safetensors"):
            load_model(base_of(folder))
        save_file({"x": torch.ones(1)}, folder / "other.safetensors")
        with pytest.raises(UserError, match="cannot load the model"):
            load_model(base_of(folder))
        assert not trap.exists()

    def test_missing_weights_are_not_made_up(self, tiny_folder: Path, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(tiny_folder, folder)
        weights = load_file(folder / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"1 weights .* model\.layers\.1\.mlp\.up_proj\.weight"):
            load_model(base_of(folder))

    @pytest.mark.parametrize("gone", ["tokenizer.json", "config.json"])
    def test_a_missing_file_is_named(self, tiny_folder: Path, tmp_path: Path, gone: str) -> None:
        folder = tmp_path / "model"
        shutil.copytree(tiny_folder, folder)
        for path in folder.glob("tokenizer*" if gone == "tokenizer.json" else gone):
            path.unlink()
        with pytest.raises(UserError, match=r"cannot load the .*there: .*model\.safetensors"):
            load_model(base_of(folder))

    def test_broken_weights(self, tiny_folder: Path, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(tiny_folder, folder)
        (folder / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(UserError, match="cannot load the model"):
            load_model(base_of(folder))

    def test_a_tokenizer_of_another_model(self, tiny_folder: Path, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        shutil.copytree(tiny_folder, folder)
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text("utf-8"))
        vocabulary = content["model"]["vocab"]
        content["model"]["vocab"] = vocabulary | {f"more{i}": 320 + i for i in range(5)}
        path.write_text(json.dumps(content), "utf-8")
        with pytest.raises(UserError, match="tokenizer has 325 tokens, the model 320 rows"):
            load_model(base_of(folder))


class TestPad:
    def test_an_unused_special_token_is_taken(self, chatml_tokenizer, tmp_path: Path) -> None:
        chatml_tokenizer.save_pretrained(tmp_path)
        tokenizer = load_tokenizer(ModelReference(str(tmp_path)))
        assert tokenizer.pad_token == "<|endoftext|>"
        assert tokenizer.eos_token == "<|im_end|>"

    def test_one_of_its_own_stays(self, tiny_folder: Path) -> None:
        assert load_tokenizer(ModelReference(str(tiny_folder))).pad_token == "<|pad|>"

    def test_else_a_new_one_with_the_mean_row(
        self, gpt2_like_tokenizer, tiny_architecture, tmp_path: Path
    ) -> None:
        model = build_model(tiny_architecture, gpt2_like_tokenizer, seed=1).eval()
        save_model(model, gpt2_like_tokenizer, tmp_path / "m")
        loaded = load_model(base_of(tmp_path / "m"))
        rows = len(gpt2_like_tokenizer)
        assert loaded.tokenizer.pad_token_id == loaded.model.config.pad_token_id == rows
        got = logits(loaded.model)
        torch.testing.assert_close(got[..., :rows], logits(model), rtol=0, atol=1e-6)
        mean = got[..., :rows].mean(-1)
        torch.testing.assert_close(got[..., rows], mean, rtol=0, atol=1e-5)
        assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight

    def test_a_tokenizer_without_template_gets_a_plain_one(
        self, gpt2_like_tokenizer, tmp_path: Path
    ) -> None:
        gpt2_like_tokenizer.save_pretrained(tmp_path)
        tokenizer = load_tokenizer(ModelReference(str(tmp_path)))
        turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"))]
        text = tokenizer.apply_chat_template(
            [*turns, turns[0]], tokenize=False, add_generation_prompt=True
        )
        assert text == "User: a\nAssistant: b<|endoftext|>\nUser: a\nAssistant: "


class TestPlace:
    def test_device(self) -> None:
        assert pick_device() == pick_device("cpu") == "cpu"
        with pytest.raises(UserError, match="device: no cuda device; allowed: cpu"):
            pick_device("cuda")

    def test_dtype(self) -> None:
        assert pick_dtype("auto", "cpu") == pick_dtype("float32", "cuda") == torch.float32
        assert pick_dtype("bfloat16", "cpu") == torch.bfloat16
