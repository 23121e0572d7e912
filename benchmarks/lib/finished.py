"""The PPO stage of a finished run as the work of a benchmark."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lib.side_by_side import run_worker
from peers import PROJECT
from workers.work import Work

from align.files import write_json_atomic

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from align.config import RunConfig, SourceConfig

CACHE = PROJECT / "models" / "benchmarks"


def run_work(folder: Path) -> Work:
    """Its model, prompts, lengths, settings and reward model.

    Raises:
        SystemExit: It holds no reward model or no PPO section.
    """
    from align.models import load_tokenizer
    from align.settings import load_run
    from align.stages import model_of

    config, reward = load_run(folder / "config.yaml"), folder / "3-reward"
    ppo = config.ppo
    if ppo is None or ppo.eval_data is None or not (reward / "manifest.json").is_file():
        raise SystemExit(f"{folder}: no finished reward model, PPO section or held-out prompts")
    policy, sft = model_of(config, folder, "sft"), folder / "2-sft"
    assert policy is not None
    tokenizer = load_tokenizer(policy)
    made = f"{folder.resolve().parent.parent.name}-{config.name}"
    return Work(
        model=(
            _merged(sft, f"{made}-sft")
            if sft.is_dir()
            else _prepared(base=str(Path(policy.base).resolve()))
        ),
        seed=config.seed,
        prompts=_prompts(ppo.data, config, tokenizer, f"{made}-prompts"),
        held=_prompts(ppo.eval_data, config, tokenizer, f"{made}-held"),
        score=str(reward.resolve()),
        classifier=_merged(reward, f"{made}-reward"),
        dtype="float32" if config.dtype == "auto" else config.dtype,
        updates=ppo.episodes // ppo.batch_size,
        batch=ppo.batch_size,
        micro_batch=ppo.micro_batch_size,
        mini_batches=ppo.mini_batches,
        epochs=ppo.ppo_epochs,
        response_length=ppo.response_length,
        eos=None if ppo.truncation == "none" else tokenizer.eos_token_id,
        temperature=ppo.temperature,
        learning_rate=ppo.learning_rate,
        kl_coef=ppo.kl_coef,
    )


def _merged(stage: Path, name: str) -> str:
    """Folder of a stage with its adapters merged."""
    return _prepared(stage=str(stage.resolve()), to=str(CACHE / name))


def _prepared(**request: str) -> str:
    """Folder of the model that a request makes."""
    folder: str = run_worker(sys.executable, "workers.prepare", json.dumps(request))["model"]
    return folder


def _prompts(
    source: SourceConfig, config: RunConfig, tokenizer: PreTrainedTokenizerBase, name: str
) -> str:
    """File with the token ids of the prompts that are short enough."""
    from align.data.encoding import encode_prompt
    from align.data.sources import load_rows
    from align.stages import data_context

    assert config.ppo is not None
    rows = load_rows(source, "prompts", data_context(config)).rows
    ids = [encode_prompt(tokenizer, row["prompt"]) for row in rows]
    file = CACHE / f"{name}.json"
    write_json_atomic(file, [row for row in ids if len(row) <= config.ppo.max_prompt_length])
    return str(file)
