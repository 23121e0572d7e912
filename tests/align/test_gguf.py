"""GGUF files: one written here by llama.cpp's rules, and a real quantised one."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from align import gguf
from align.errors import UserError
from align.models import (
    ModelReference,
    build_model,
    load_model,
    load_tokenizer,
    resolve_reference,
    save_model,
)
from align.quiet import quiet_gguf, quiet_transformers

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


def test_reading_a_file_shows_no_bar_of_transformers() -> None:
    from transformers import modeling_gguf_pytorch_utils as reader

    bar = reader.tqdm
    with quiet_gguf():
        assert list(reader.tqdm([1, 2], desc="Converting")) == [1, 2]
    assert reader.tqdm is bar
