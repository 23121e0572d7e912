"""Killed anywhere and resumed = never killed (docs/ppo.md item 23), with real kills."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KILLS = 20

# Imports once; then every line on its input names a folder, in which a child of it trains, and the
# seconds after which that child is killed, or `-`.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from align.artifacts import MetricsLog
from align.callbacks import StageCallback, last_complete_checkpoint
from align.config import LoraConfig
from align.ppo.config import PPOConfig
from align.ppo.trainer import PPOTrainer
from align.progress import Progress

WORDS = ["<pad>", "<eos>", "<unk>", *"abcdefghijkl"]

def train(folder):
    torch.manual_seed(0)
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>",
                                        pad_token="<pad>", unk_token="<unk>")
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, eos_token_id=1, pad_token_id=0))
    args = PPOConfig(
        output_dir=str(folder / "checkpoints"), use_cpu=True, disable_tqdm=True, seed=1,
        per_device_train_batch_size=4, num_mini_batches=2, num_ppo_epochs=1, total_episodes=96,
        response_length=5, max_prompt_length=8, learning_rate=1e-2, checkpoint_updates=1,
        save_total_limit=2, eval_updates=3, kl_target=0.05, kl_horizon=100,
        score_normalisation="running")
    log = MetricsLog(folder / "metrics.jsonl")
    trainer = PPOTrainer(
        model=model, args=args, processing_class=tokenizer, peft_config=LoraConfig(r=4),
        reward_funcs=lambda completions, **_: [float(c.split().count("a")) for c in completions],
        train_dataset=[{"prompt": p} for p in ("a b", "c", "d e f", "g h", "i j k l", "b")],
        eval_dataset=[{"prompt": "l"}, {"prompt": "k a"}],
        callbacks=[StageCallback("ppo", Progress(), log)])
    last = last_complete_checkpoint(folder / "checkpoints")
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.save_model(str(folder / "final"))

for line in sys.stdin:
    seconds, name = line.strip().split(" ", 1)
    folder = Path(name)
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            train(folder)
        os._exit(0)
    if seconds != "-":
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)  # no harm to one that has ended: nobody has waited for it
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
"""


class Nursery:
    """A process whose children train and may be killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def train(self, folder: Path, seconds: float | None = None) -> bool:
        """Train in a folder; with a limit, kill it then. Returns whether it came to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{'-' if seconds is None else seconds} {folder}\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        assert status in (0, signal.SIGKILL)
        return status == 0


@contextmanager
def nursery(project: Path, folder: Path) -> Iterator[Nursery]:
    script = folder / "train.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(script)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield Nursery(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def outcome(folder: Path) -> dict[str, str]:
    """Hashes of all that a finished run leaves: weights, state of PPO, optimizer and log."""
    files = [*(folder / "final").rglob("*.safetensors"), folder / "metrics.jsonl"]
    last = folder / "checkpoints" / "checkpoint-24"
    files += [last / "ppo_state.json", *last.rglob("*.safetensors")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(content(path)).hexdigest()
        for path in files
    }


def content(path: Path) -> bytes:
    """A file's bytes; of the log, what no clock decides."""
    if path.suffix != ".jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    measured = ("seconds/", "tokens_per_second/", "memory_gb")
    # the last row sums up a process's own time, so a run killed behind its end has two of them
    kept = [
        {k: v for k, v in row.items() if not k.startswith(measured)}
        for row in rows
        if "train_runtime" not in row
    ]
    return json.dumps(kept).encode()


@pytest.mark.slow
def test_runs_killed_at_random_end_with_the_bits_of_one_never_killed(
    project: Path, tmp_path: Path
) -> None:
    # Kills fall anywhere: at the start, in an update, while a checkpoint is being written or an
    # old one deleted. A run that comes to its end meanwhile is compared, and another one begun.
    chance = random.Random(7)
    with nursery(project, tmp_path) as children:
        begin = time.perf_counter()
        assert children.train(tmp_path / "whole")
        duration = time.perf_counter() - begin
        expected = outcome(tmp_path / "whole")
        assert len(expected) == 6  # policy and critic, each final and in the checkpoint; state; log
        runs, kills, resumed = 0, 0, 0
        while kills < KILLS:
            folder = tmp_path / f"run-{runs}"
            while kills < KILLS and not children.train(folder, chance.uniform(0, 0.35 * duration)):
                kills += 1
                resumed += any(folder.glob("checkpoints/*/complete.json"))
            assert children.train(folder)
            assert outcome(folder) == expected
            runs += 1
    assert resumed > KILLS / 4
