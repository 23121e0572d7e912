"""Loading, building and saving models; adapters merged against the formula and against peft."""

import json
import math
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from align import gguf
from align.adapters import add_lora, merge_adapters, peft_settings, save_adapter
from align.config import ArchitectureConfig, LoraConfig
from align.errors import UserError
from align.models import (
    ModelReference,
    build_model,
    disable_dropout,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    relative_model,
    resolve_reference,
    save_model,
)
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


def make_adapter(base: Path, folder: Path, seed: int, **lora: object) -> Path:
    """A LoRA with random weights in both matrices."""
    tuned = add_lora(plain_model(base), peft_settings(LoraConfig(r=4, alpha=6, **lora)))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    save_adapter(tuned, "default", folder)
    return folder


@pytest.fixture(scope="module")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters on the tiny model; the second changes two kinds of layers only."""
    place = tmp_path_factory.mktemp("adapters")
    first = make_adapter(tiny_folder, place / "first", seed=1)
    second = make_adapter(
        tiny_folder, place / "second", seed=2, target_modules=("q_proj", "down_proj")
    )
    return first, second


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


class TestReference:
    def stage(self, run: Path, name: str, base: str, adapters: list[str]) -> Path:
        folder = run / name
        folder.mkdir(parents=True)
        model = {"base": base, "adapters": adapters}
        (folder / "manifest.json").write_text(json.dumps({"model": model}), "utf-8")
        return folder

    def test_a_stage_is_what_its_manifest_says(self, tmp_path: Path) -> None:
        (tmp_path / "run" / "1-pretrain" / "model").mkdir(parents=True)
        (tmp_path / "run" / "2-sft" / "adapter").mkdir(parents=True)
        for where in (tmp_path / "run", tmp_path / "moved"):
            if where.name == "moved":
                shutil.move(tmp_path / "run", where)
            else:
                self.stage(where, "4-ppo", "../1-pretrain/model", ["../2-sft/adapter", "adapter"])
                (where / "4-ppo" / "adapter").mkdir()
            assert resolve_reference(str(where / "4-ppo")) == ModelReference(
                base=str(where / "1-pretrain" / "model"),
                adapters=(str(where / "2-sft" / "adapter"), str(where / "4-ppo" / "adapter")),
            )

    def test_a_stage_on_a_hub_model(self, tmp_path: Path) -> None:
        folder = self.stage(tmp_path, "2-sft", "someone/some-model", [])
        assert resolve_reference(str(folder)).base == "someone/some-model"

    def test_what_a_stage_writes_reads_back(
        self, workplace: Path, tiny_folder: Path, adapters
    ) -> None:
        reference = ModelReference(str(tiny_folder), (str(adapters[0]),), revision="abc")
        folder = workplace / "runs" / "2-sft"
        (folder / "adapter").mkdir(parents=True)
        entry = relative_model(reference, folder, ("adapter",))
        assert not Path(entry["base"]).is_absolute()
        (folder / "manifest.json").write_text(json.dumps({"model": entry}), "utf-8")
        found = resolve_reference("runs/2-sft")
        assert Path(found.base).samefile(tiny_folder)
        assert Path(found.adapters[0]).samefile(adapters[0])
        assert found.adapters[1] == "runs/2-sft/adapter"
        assert found.revision == "abc"

    def test_folder_file_and_hub_id(self, tiny_folder: Path, tmp_path: Path) -> None:
        assert resolve_reference(str(tiny_folder)) == ModelReference(str(tiny_folder))
        (tmp_path / "a.gguf").touch()
        file = str(tmp_path / "a.gguf")
        assert resolve_reference(file) == ModelReference(file)
        assert resolve_reference("gpt2") == ModelReference("gpt2")
        hub = "HuggingFaceTB/SmolLM2-135M"
        assert resolve_reference(hub) == ModelReference(hub)

    @pytest.mark.parametrize(
        ("name", "complaint"),
        [
            ("runs/demmo", r"no such file or folder; in runs: demo"),
            ("runs/a.gguf", r"no such file or folder; in runs: demo"),
            ("./x", r"no such file or folder"),
            ("a/b/c", r"no such file or folder; in a/b: nothing"),
            ("no model", r"no hub id"),
            ("notes.txt", r"not a model file"),
            ("runs/demo", r"no model in this folder: notes"),
            ("runs", r"no model in this folder: demo"),
        ],
    )
    def test_mistakes(self, workplace: Path, name: str, complaint: str) -> None:
        (workplace / "runs" / "demo" / "notes").mkdir(parents=True)
        (workplace / "notes.txt").touch()
        with pytest.raises(UserError, match=complaint):
            resolve_reference(name)

    def test_an_adapter_is_no_model(self, adapters) -> None:
        with pytest.raises(UserError, match="no model by itself; name its base"):
            resolve_reference(str(adapters[0]))

    @pytest.mark.parametrize(
        ("manifest", "complaint"),
        [
            ('{"model": null}', "makes no model"),
            ('{"model": {"base": "model"}}', "makes no model"),
            ("[]", "makes no model"),
            ("{", "broken manifest"),
        ],
    )
    def test_a_stage_without_a_model(self, tmp_path: Path, manifest: str, complaint: str) -> None:
        (tmp_path / "manifest.json").write_text(manifest, "utf-8")
        with pytest.raises(UserError, match=complaint):
            resolve_reference(str(tmp_path))

    def test_a_hub_model_out_of_reach(self) -> None:
        with pytest.raises(UserError, match="someone/no-model-of-this-name: cannot load the token"):
            load_model(resolve_reference("someone/no-model-of-this-name"))


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key projection in llama.cpp's order: rotated pairs lie side by side."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def write_gguf(model: LlamaForCausalLM, tokenizer, path: Path) -> None:
    """What llama.cpp's converter writes for a Llama with a byte-level BPE, in float32."""
    from gguf import GGUFWriter, TokenType

    config, heads = model.config, model.config.num_attention_heads
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    special = {token["content"] for token in content["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    kinds = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in content["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    trunk = model.model
    writer.add_tensor("token_embd.weight", trunk.embed_tokens.weight.detach().numpy())
    writer.add_tensor("output_norm.weight", trunk.norm.weight.detach().numpy())
    for number, layer in enumerate(trunk.layers):
        for ours, theirs in names.items():
            weight = layer.get_submodule(ours).weight.detach()
            if theirs in ("attn_q", "attn_k"):
                weight = interleaved(weight, heads)
            writer.add_tensor(f"blk.{number}.{theirs}.weight", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class TestGGUF:
    def test_the_model_in_the_file(
        self, chatml_tokenizer, tiny_architecture, tmp_path: Path
    ) -> None:
        pytest.importorskip("gguf")
        model = build_model(tiny_architecture, chatml_tokenizer, seed=3).eval()
        write_gguf(model, chatml_tokenizer, tmp_path / "tiny.gguf")
        loaded = load_model(base_of(tmp_path / "tiny.gguf"))
        torch.testing.assert_close(logits(loaded.model), logits(model), rtol=0, atol=1e-5)
        assert not hasattr(loaded.model.config, "quantization_config")
        text = "the big cat , 12 boats"
        ids = loaded.tokenizer(text)["input_ids"]
        assert ids == chatml_tokenizer(text)["input_ids"]
        assert loaded.tokenizer.chat_template == chatml_tokenizer.chat_template
        assert loaded.tokenizer.pad_token == "<|endoftext|>"
        save_model(loaded.model, loaded.tokenizer, tmp_path / "saved")
        saved = load_model(base_of(tmp_path / "saved"))
        assert torch.equal(logits(saved.model), logits(loaded.model))

    def test_a_file_is_converted_once(self, tiny_folder, tmp_path: Path, monkeypatch) -> None:
        calls = []

        def convert(file: Path, folder: Path) -> None:
            calls.append(file)
            shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)

        monkeypatch.setattr(gguf, "convert", convert)
        file = tmp_path / "tiny.gguf"
        file.write_bytes(b"one")
        for _ in range(2):
            loaded = load_model(base_of(file))
            assert torch.equal(logits(loaded.model), logits(plain_model(tiny_folder)))
        assert calls == [file]
        file.write_bytes(b"other")  # another file of that name
        load_tokenizer(base_of(file))
        assert calls == [file, file]
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["tiny.gguf", "tiny.gguf.converted"]

    def test_an_interrupted_conversion_leaves_nothing(self, tmp_path: Path, monkeypatch) -> None:
        def convert(file: Path, folder: Path) -> None:
            (folder / "half").touch()
            raise KeyboardInterrupt

        monkeypatch.setattr(gguf, "convert", convert)
        (tmp_path / "a.gguf").touch()
        with pytest.raises(KeyboardInterrupt):
            gguf.converted(tmp_path / "a.gguf")
        assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]

    def test_no_gguf(self, tmp_path: Path) -> None:
        file = tmp_path / "a.gguf"
        with pytest.raises(UserError, match="no such file"):
            gguf.converted(file)
        pytest.importorskip("gguf")
        file.write_bytes(b"something else entirely")
        with pytest.raises(UserError, match="cannot read this GGUF file"):
            gguf.converted(file)
        assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]

    def test_what_stands_in_the_way(self, tmp_path: Path, monkeypatch) -> None:
        file = tmp_path / "a.gguf"
        file.touch()

        def refuse(**_: object) -> str:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(gguf.tempfile, "mkdtemp", refuse)
        monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: True)
        with pytest.raises(UserError, match=r"cannot write .* \(Permission denied\); copy the"):
            gguf.converted(file)
        monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match="needs the package gguf; pip install gguf"):
            gguf.converted(file)


class TestPlace:
    def test_device(self) -> None:
        assert pick_device() == pick_device("cpu") == "cpu"
        with pytest.raises(UserError, match="device: no cuda device; allowed: cpu"):
            pick_device("cuda")

    def test_dtype(self) -> None:
        assert pick_dtype("auto", "cpu") == pick_dtype("float32", "cuda") == torch.float32
        assert pick_dtype("bfloat16", "cpu") == torch.bfloat16


@pytest.mark.slow
@pytest.mark.real_data
def test_smollm2_from_gguf(project: Path, tmp_path: Path) -> None:
    """The quantised file answers, and is free of its quantisation."""
    given = os.environ.get("ALIGNKIT_SMOLLM2")
    files = [Path(given)] if given else sorted((project / "models").glob("SmolLM2*.gguf"))
    if not files or not files[0].is_file():
        pytest.skip("no SmolLM2 GGUF under models/ nor named by ALIGNKIT_SMOLLM2")
    file = tmp_path / files[0].name
    file.symlink_to(files[0].resolve())
    model, tokenizer, _ = load_model(resolve_reference(str(file)), device="cpu")
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert isinstance(model.config, LlamaConfig)
    assert not hasattr(model.config, "quantization_config")
    assert model.num_parameters() == 134_515_008  # as published for SmolLM2-135M
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, ids["input_ids"].shape[1] :])
    save_model(model, tokenizer, tmp_path / "saved")
