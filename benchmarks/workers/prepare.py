"""Makes the weights and prompts that both sides load: `python -m workers.prepare REQUEST`.

SmolLM2 is read from its GGUF file and written once as safetensors; its prompts are cut from text
of the generated world. Other sizes are Llamas with random weights and random prompts, for machines
without the file. Prints `{"model": folder, "prompts": file}`; where an existing model is converted
or merged, `model` alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from align.data.world import World
from align.files import write_json_atomic
from align.gguf import converted
from align.quiet import quiet_transformers
from reward.export import export_stage

PROMPTS = 256
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
             "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "initializer_range": 0.2},
    "135m": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
             "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
    "1b": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
           "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
}  # fmt: skip
"""Shapes: tiny for trying out (weights large enough to learn a toy), SmolLM2-135M, Llama-3.2-1B."""


def world_prompts(tokenizer_folder: Path, length: int) -> list[list[int]]:
    """Pieces of `length` tokens of the world's text."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    ids: list[int] = []
    documents = World(seed=0).text(PROMPTS * 4)
    for document in documents:
        ids += tokenizer(document["text"] + "\n", add_special_tokens=False)["input_ids"]
    return [ids[i * length : (i + 1) * length] for i in range(min(PROMPTS, len(ids) // length))]


def random_prompts(vocab_size: int, length: int) -> list[list[int]]:
    """Prompts of random tokens."""
    generator = torch.Generator().manual_seed(0)
    prompts: list[list[int]] = torch.randint(
        1, vocab_size, (PROMPTS, length), generator=generator
    ).tolist()
    return prompts


def random_model(size: str, folder: Path) -> None:
    """Write a Llama of this size with seeded weights, which bfloat16 holds exactly."""
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SIZES[size], tie_word_embeddings=True))
        with quiet_transformers():
            model.to(torch.bfloat16).save_pretrained(folder)


def prepare(request: dict[str, str | int]) -> dict[str, str]:
    """Make what is missing, and say where it is.

    Args:
        request: `size` ("smollm2" or one of SIZES), `gguf` (SmolLM2's file), `cache` (folder for
            what is made here), `prompt_length` in tokens; or `base`, a GGUF file to convert; or
            `stage` to merge into a folder `to`, which is left as it is if it is there.
    """
    if "base" in request:
        return {"model": str(converted(Path(str(request["base"]))))}
    if "stage" in request:
        folder = Path(str(request["to"]))
        if not folder.exists():
            export_stage(str(request["stage"]), folder)
        return {"model": str(folder)}
    size, length = str(request["size"]), int(request["prompt_length"])
    place = Path(str(request["cache"])) / size
    place.mkdir(parents=True, exist_ok=True)
    if size == "smollm2":
        model = converted(Path(str(request["gguf"])))
        prompts = world_prompts(model, length)
    else:
        model = place / "model"
        random_model(size, model)
        prompts = random_prompts(int(SIZES[size]["vocab_size"]), length)
    write_json_atomic(place / f"prompts-{length}.json", prompts)
    return {"model": str(model), "prompts": str(place / f"prompts-{length}.json")}


if __name__ == "__main__":
    print(json.dumps(prepare(json.loads(sys.argv[1]))))
