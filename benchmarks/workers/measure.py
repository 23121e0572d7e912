"""What both workers of a PPO benchmark share: tokens, weights, clocks and the report.

Tokens are named by their numbers ("000017 004093"), so that text and ids are the same thing: a
reward function of ours, which gets text, sees exactly the ids that the peer's reward model sees.
Unless the work names it, EOS is a number beyond the model's vocabulary. It has no logit, so neither
side ever samples it and every response is T tokens long; the same holds for the peer's pad, from
which it guesses lengths.
"""

from __future__ import annotations

import json
import math
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from workers.work import Work


def device_of(work: Work) -> str:
    """The device to compute on."""
    if work.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return work.device


def weights_dtype(work: Work) -> torch.dtype:
    """Number format of the base's weights."""
    return torch.bfloat16 if work.dtype == "bfloat16" else torch.float32


def load_policy(work: Work) -> PreTrainedModel:
    """The base model as a causal LM, on its device."""
    dtype = weights_dtype(work)
    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=dtype, local_files_only=True)
    return model.to(device_of(work))


def load_prompts(file: str) -> list[list[int]]:
    """Token ids of the prompts in a file."""
    prompts: list[list[int]] = json.loads(Path(file).read_text(encoding="utf-8"))
    return prompts


def token_name(number: int) -> str:
    """Text of a token; names have one width, so that none is part of another."""
    return f"{number:06d}"


def as_text(ids: Iterable[int]) -> str:
    """Token ids as the text that stands for them."""
    return " ".join(map(token_name, ids))


def as_ids(text: str) -> list[int]:
    """Token ids of a text."""
    return [int(word) for word in text.split()]


def id_tokenizer(vocab_size: int, pad_id: int, eos_id: int | None) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are named by their numbers.

    Args:
        vocab_size: Tokens of the model.
        pad_id: The pad token: one of the model's, or `vocab_size + 1`.
        eos_id: The token that ends a response; None: one beyond the vocabulary.
    """
    names = {token_name(number): number for number in range(vocab_size + 2)}
    backend = Tokenizer(models.WordLevel(names, unk_token=token_name(vocab_size)))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=token_name(vocab_size if eos_id is None else eos_id),
        pad_token=token_name(pad_id),
        padding_side="left",
    )


def reward_head(hidden_size: int, seed: int) -> Tensor:
    """Weight (1, H) of the reward model's head: N(0, 1 / sqrt(H + 1)) (Stiennon 2020)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, hidden_size, generator=generator) / math.sqrt(hidden_size + 1)


def toy_hits(ids: Tensor, vocab_size: int) -> Tensor:
    """1.0 where a token counts in the toy score: the first 64th of the vocabulary, but 0.

    Those are the commonest tokens of a byte-pair vocabulary, so a policy can learn to use them. Id
    0 is left out because it is our pad, which text does not show.
    """
    return ((ids > 0) & (ids < vocab_size // 64)).float()


def clock() -> float:
    """Seconds, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """A result, and its seconds by the wall's clock and of the process's threads."""
    start, own = clock(), time.process_time()
    result = work()
    return result, (clock() - start, time.process_time() - own)


class Stopwatch:
    """Seconds by phase since they were last taken."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    def timed(
        self, phase: Callable[..., str | None], function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """A function that does the same, its time counted under `phase(*args)` unless None."""

        def run(*args: Any, **options: Any) -> Any:
            name = phase(*args)
            if name is None:
                return function(*args, **options)
            start = clock()
            result = function(*args, **options)
            self._seconds[name] += clock() - start
            return result

        return run

    def take(self, _: dict[str, Any]) -> dict[str, float]:
        """The seconds so far; the next ones start from zero."""
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken


class Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Keeps each update's end, score and phases; both systems log at the end of an update.

    Args:
        score: Name of the mean score in the trainer's log.
        phases: Seconds of the phases before optimisation, from the row logged.
    """

    def __init__(self, score: str, phases: Callable[[dict[str, Any]], dict[str, float]]) -> None:
        self._score, self._phases = score, phases
        self._start = 0.0
        self.ended: list[float] = []
        self.scores: list[float] = []
        self.phases: list[dict[str, float]] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock: loading is not training."""
        self._start = clock()

    def on_log(self, _: Any, __: Any, ___: Any, logs: dict[str, Any], **____: Any) -> None:
        """End an update."""
        if self._score in logs:
            self.ended.append(clock() - self._start)
            self.scores.append(float(logs[self._score]))
            self.phases.append(self._phases(logs))


def report(
    work: Work, recorder: Recorder, package: str, held: dict[str, list[float]] | None = None
) -> str:
    """The one line a worker prints: seconds, phases, scores, memory (GB), versions.

    `held` are scores on held-out prompts.

    What of an update's seconds is no other phase is `optimise`: rewards, advantages, all epochs.
    """
    starts = [0.0, *recorder.ended[:-1]]
    seconds = [end - start for start, end in zip(starts, recorder.ended, strict=True)]
    phases = [
        {**parts, "optimise": whole - sum(parts.values())}
        for whole, parts in zip(seconds, recorder.phases, strict=True)
    ]
    device = device_of(work)
    cuda = device == "cuda"
    return json.dumps(
        {
            "seconds": seconds,
            "ended": recorder.ended,
            "phases": phases,
            "scores": recorder.scores,
            "held": held or {},
            "memory_gb": peak_memory(cuda),
            "device": device,
            "accelerator": torch.cuda.get_device_name() if cuda else None,
            "versions": {name: version(name) for name in (package, "torch", "transformers")},
        }
    )


def peak_memory(cuda: bool) -> float:
    """Peak memory in GB: what was allocated on the GPU, or the process's resident set."""
    if cuda:
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def eval_report(outcomes: dict[str, Any], package: str) -> str:
    """The one line a worker of evaluations prints: outcomes, memory (GB), versions."""
    return json.dumps(
        {
            "outcomes": outcomes,
            "memory_gb": peak_memory(cuda=False),
            "versions": {name: version(name) for name in (package, "torch", "transformers")},
        }
    )
