"""A tiny base with an SFT adapter, and a reward stage trained on it once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import StageJob, StageRecord, StageResult, write_manifest
from align.config import ArchitectureConfig, RunConfig
from align.data.sources import DataContext
from align.progress import NullProgress, Progress

PAIRS: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "user", "content": f"say something about {thing}"}],
        "chosen": [{"role": "assistant", "content": f"the {thing} is good{tail}"}],
        "rejected": [{"role": "assistant", "content": f"the {thing} is bad{tail}"}],
    }
    for thing in ("tea", "bread", "soup", "rain", "snow", "wine", "milk", "fish")
    for tail in ("", " and old", " and new today", " and cold , they say")
]


class FixedWorld:
    """Hands out the pairs under every name."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def rows(self, name: str, n: int) -> list[dict[str, Any]]:
        return self._rows[:n]


def make_config(**reward: Any) -> RunConfig:
    """A run with a reward section for the tiny model."""
    section = {
        "data": {"world": "preferences", "limit": len(PAIRS)},
        "eval_data": {"world": "heldout_preferences", "limit": len(PAIRS)},
        "batch_size": 8,
        "epochs": 3,
        "learning_rate": 1e-2,
        "max_length": 64,
        "checkpoint_steps": 4,
        "lora": {"r": 4, "alpha": 8},
    }
    document = {"name": "tiny", "device": "cpu", "model": {"base": "base"}}
    return RunConfig.model_validate({**document, "reward": {**section, **reward}})


@pytest.fixture(scope="session")
def sft_reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A saved base and an SFT adapter that changes it clearly."""
    import torch

    from align.adapters import add_lora, peft_settings
    from align.config import LoraConfig
    from align.models import ModelReference, build_model, save_adapter, save_model
    from align.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("sft")
    texts = [row[side][0]["content"] for row in PAIRS for side in ("prompt", "chosen", "rejected")]
    tokenizer = train_tokenizer(texts * 2, 330)
    shape = ArchitectureConfig(
        hidden_size=32, layers=2, heads=2, intermediate_size=48, vocab_size=330, context=96
    )
    model = build_model(shape, tokenizer, seed=1)
    save_model(model, tokenizer, folder / "base")
    adapted = add_lora(model, peft_settings(LoraConfig(r=2, alpha=4)))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    save_adapter(adapted, "default", folder / "adapter")
    return ModelReference(str(folder / "base"), (str(folder / "adapter"),))


@pytest.fixture(scope="session")
def run_reward(sft_reference: Any) -> Callable[..., StageResult]:
    """Train a reward model in a folder and complete it with its manifest."""
    from reward.train import train_reward

    def run(
        folder: Path,
        config: RunConfig | None = None,
        rows: list[dict[str, Any]] | None = None,
        progress: Progress | None = None,
        base: Any = None,
    ) -> StageResult:
        folder.mkdir(parents=True, exist_ok=True)
        data = DataContext(root=None, world=FixedWorld(rows or PAIRS), seed=0)
        job = StageJob(folder, {"base": base or sft_reference}, data, progress or NullProgress())
        result = train_reward(config or make_config(), job)
        write_manifest(folder, StageRecord("3-reward", {}, {}, ""), result)
        return result

    return run


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory, run_reward: Callable[..., Any]) -> Path:
    """The folder of a trained reward stage."""
    folder: Path = tmp_path_factory.mktemp("run") / "3-reward"
    run_reward(folder)
    return folder


@pytest.fixture(scope="session")
def stage_pairs() -> list[dict[str, Any]]:
    """The pairs the stage is trained and judged on."""
    return PAIRS


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., RunConfig]:
    """Makes runs with other reward settings."""
    return make_config
