"""A tiny random Llama, a byte-level tokenizer, and results on disk: checked by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Barrier, Lock, Thread
from typing import Any

import numpy as np
import pytest

from align import models
from align.team import Team
from evals.engine import Engine
from evals.samples import save_result
from evals.task import TaskResult

TEXT = [
    "The cook praised the soup and the baker sold bread.",
    "Question: is the review good or bad? Answer: good\n",
    "translate: a red house is ein rotes Haus, a blue car is ein blaues Auto.",
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

DEFINITION = {
    "task": "quiz",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc"}],
    "metadata": {"version": 2.0},
}
ASKED = {"definition": DEFINITION, "version": 2.0, "num_fewshot": 3, "chat": False}


def make_tokenizer() -> Any:
    """Byte-level BPE of 400 entries with BOS, EOS, a pad of its own and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXT * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(vocabulary: int, seed: int = 0, context: int = 96) -> Any:
    """Two layers, width 32, weights large enough that predictions differ clearly."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@dataclass(frozen=True)
class Threaded(Team):
    """One of several threads that stand for processes."""

    board: tuple[list[Any], Barrier] = ([], Barrier(1))

    def exchange(self, mine: Any) -> list[Any]:
        values, barrier = self.board
        values[self.rank] = mine
        barrier.wait(60)
        found = list(values)
        barrier.wait(60)
        return found


def run_in_threads(count: int, work: Callable[[Team], Any]) -> list[Any]:
    """What `work` gives in each of `count` processes."""
    board: tuple[list[Any], Barrier] = ([None] * count, Barrier(count))
    given: list[Any] = [None] * count

    def run(rank: int) -> None:
        try:
            given[rank] = work(Threaded(rank, count, board))
        except BaseException:
            board[1].abort()
            raise

    threads = [Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return given


@pytest.fixture
def in_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[int, Callable[[Team], Any]], list[Any]]:
    """What work gives in each of several processes that are threads of this one.

    They load models one after the other: transformers changes its own classes while it loads, and
    two at once leave them changed.
    """
    one_by_one, load = Lock(), models.load_model

    def locked(*args: Any, **kwargs: Any) -> Any:
        with one_by_one:
            return load(*args, **kwargs)

    monkeypatch.setattr(models, "load_model", locked)
    return run_in_threads


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Any) -> Any:
    return make_model(len(tiny_tokenizer))


@pytest.fixture
def engine(tiny_model: Any, tiny_tokenizer: Any) -> Engine:
    return Engine(tiny_model, tiny_tokenizer, batch_tokens=256)


@pytest.fixture(scope="session")
def model_of(tiny_tokenizer: Any) -> Callable[..., Any]:
    """A tiny model of any seed, and context."""
    return partial(make_model, len(tiny_tokenizer))


def store_task(
    folder: Path,
    stats: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    ids: Sequence[str] | None = None,
    estimates: Sequence[Mapping[str, Any]] = (),
    **key: Any,
) -> Path:
    """Write one finished task below a model's folder, `stats` being columns or rows.

    `settings` of a kind stand alone; others change those of a definition.
    """
    given = dict(settings or {})
    asked = given if "kind" in given else ASKED | given
    rows = {name: np.asarray(values, dtype=np.float64) for name, values in stats.items()}
    rows = {name: v if v.ndim == 2 else np.stack([v, v * 0 + 1], 1) for name, v in rows.items()}
    n = len(next(iter(rows.values())))
    names = tuple(ids or (f"item-{index}" for index in range(n)))
    result = TaskResult(names, rows, [{"prompt": name} for name in names])
    common = {"model": folder.parent.name, "dtype": "auto", "device": "cpu", "code": "c" * 20}
    own = {"task": folder.name, "items": "-".join(names), "settings": asked}
    save_result(folder, result, common | own | key)
    content = {"n": n, "missing": 0, "estimates": list(estimates)}
    (folder / "result.json").write_text(json.dumps(content), encoding="utf-8")
    return folder.parent


@pytest.fixture
def store() -> Callable[..., Path]:
    """Writes results whose every number the test has chosen; returns the model's folder."""
    return store_task
