"""Log-likelihoods and generation whose numbers do not depend on batch size, padding or order.

Requests that begin alike are scored together, and what they share runs once (`evals.sharing`).
Batches hold a number of tokens, not of sequences; running out of memory halves it and goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from align.generation import Response, Sampling, generate
from align.progress import NullProgress, Progress
from evals.passes import Passes
from evals.requests import Request, batches, merge_prefixes, prefix_id, windows
from evals.sharing import alone, beginning, cut, share, tree_order
from evals.stops import Answer, Stops

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Responses are sampled in blocks of this size whatever the budget, so that draws stay the same.
_SAMPLED_TOGETHER = 64
# Tokens of a pass from which on a CPU saves nothing by more of them, so that padding is a loss.
_ENOUGH_ON_CPU = 512


Outcome = TypeVar("Outcome")


class LogLikelihoods(NamedTuple):
    """Scores of N requests; NaN where one cannot be scored (see `Engine.problem`)."""

    sums: NDArray[np.float64]
    """Summed log-probability of the continuation in nats, (N,)."""
    tokens: NDArray[np.int64]
    """Tokens of the continuation, (N,)."""
    greedy: NDArray[np.bool_]
    """Whether every token of the continuation is the most likely one, (N,)."""


class Engine:
    """Scores and samples with one model.

    Args:
        model: Causal LM in evaluation mode, adapters merged.
        tokenizer: Its tokenizer, with BOS or EOS.
        batch_tokens: Tokens a forward pass, padding included.
        progress: Where to report.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int = 8192,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.batch_tokens = batch_tokens
        self.progress = progress or NullProgress()
        self.label = "scoring"
        self.device = model.device
        self.prefix_id = prefix_id(tokenizer)
        config = model.config.get_text_config()
        self.max_length = int(config.max_position_embeddings)
        self._passes = Passes(model)

    def problem(self, request: Request) -> str | None:
        """Why a request cannot be scored; None if it can."""
        if not request.continuation:
            return "empty response"
        if len(request.context) + len(request.continuation) - 1 > self.max_length:
            return f"longer than the model's {self.max_length} tokens"
        return None

    def loglikelihoods(self, requests: Sequence[Request]) -> LogLikelihoods:
        """Log-probability of each continuation given its context, in the order of the requests.

        An empty context stands for BOS (else EOS). A request that does not fit the model is never
        cut: its sum is NaN.
        """
        whole = [Request(r.context or (self.prefix_id,), r.continuation) for r in requests]
        usable = [index for index, r in enumerate(whole) if self.problem(r) is None]
        hosts = merge_prefixes([whole[index] for index in usable])
        rows = [host.ids for host in hosts]
        paths = share(rows) if self._passes.shares else alone(rows)
        sums = np.full(len(whole), np.nan)
        greedy = np.zeros(len(whole), dtype=np.bool_)

        def run(batch: list[int]) -> list[list[tuple[float, bool]]]:
            wanted = [[whole[usable[m]] for m in hosts[index].members] for index in batch]
            return self._passes.score(
                [rows[index] for index in batch], [paths[index] for index in batch], wanted
            )

        def plan(waiting: list[int], budget: int) -> list[list[int]]:
            enough = _ENOUGH_ON_CPU if self.device.type == "cpu" else None
            return cut([paths[index] for index in waiting], budget, enough)

        scored = self._in_batches(tree_order(paths), plan, run)
        for host, results in zip(hosts, scored, strict=True):
            for member, (total, best) in zip(host.members, results, strict=True):
                sums[usable[member]], greedy[usable[member]] = total, best
        tokens = np.array([len(r.continuation) for r in whole], dtype=np.int64)
        return LogLikelihoods(sums, tokens, greedy)

    def rolling(self, texts: Sequence[str]) -> LogLikelihoods:
        """Log-likelihood of whole documents in disjoint windows of the model's length.

        The first token is predicted from one BOS, else EOS (lm-evaluation-harness puts two where
        the tokenizer adds its own). An empty document is NaN.
        """
        requests: list[Request] = []
        owners: list[int] = []
        for index, text in enumerate(texts):
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            parts = list(windows(ids, self.prefix_id, self.max_length))
            requests += parts
            owners += [index] * len(parts)
        scores = self.loglikelihoods(requests)
        sums, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
        greedy = np.ones(len(texts), dtype=np.bool_)
        np.add.at(sums, owners, scores.sums)
        np.add.at(tokens, owners, scores.tokens)
        np.logical_and.at(greedy, owners, scores.greedy)
        return LogLikelihoods(np.where(tokens > 0, sums, np.nan), tokens, greedy & (tokens > 0))

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Answer]:
        """Most likely responses (greedy), in the order of the prompts.

        Args:
            prompts: Token ids.
            max_new_tokens: Longest response; prompts too long for it raise ValueError.
            stop: Strings that end a response as EOS does; its text stops before the first.
        """
        self._check_room(prompts, max_new_tokens)
        stops = Stops(self.tokenizer, stop)
        sampling = self._sampling(max_new_tokens, 0.0)

        def run(batch: list[int]) -> list[Answer]:
            rows = [prompts[index] for index in batch]
            shared = beginning(rows) if self._passes.shares else 0
            ended = stops.ended if stop else None
            responses = generate(self.model, rows, sampling, ended=ended, shared=shared)
            return [stops.answer(response) for response in responses]

        def plan(waiting: list[int], budget: int) -> list[list[int]]:
            return batches([len(prompts[index]) + max_new_tokens for index in waiting], budget)

        return self._in_batches(list(range(len(prompts))), plan, run)

    def sample(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, seed: int
    ) -> list[Response]:
        """Sampled responses, in the order of the prompts; the same for any order and batch size.

        Draws are made in fixed blocks of the sorted prompts with a generator each, seeded by the
        block's content, so a response depends on the set of prompts and the seed alone.
        """
        self._check_room(prompts, max_new_tokens)
        sampling = self._sampling(max_new_tokens, temperature)
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), tuple(prompts[i])))
        responses: dict[int, Response] = {}
        with self.progress.task(self.label, len(prompts)) as task:
            for start in range(0, len(order), _SAMPLED_TOGETHER):
                block = order[start : start + _SAMPLED_TOGETHER]
                generator = torch.Generator().manual_seed(_seed(seed, start))
                rows = [prompts[index] for index in block]
                drawn = generate(self.model, rows, sampling, generator)
                responses.update(zip(block, drawn, strict=True))
                task.advance(len(block))
        return [responses[index] for index in range(len(prompts))]

    def close(self) -> None:
        """Let go of the model, so that its memory can be used again."""
        device = self.device
        del self.model, self._passes
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _check_room(self, prompts: Sequence[Sequence[int]], new: int) -> None:
        """Refuse prompts that leave no room for a response."""
        longest = max((len(prompt) for prompt in prompts), default=0)
        if longest + new > self.max_length:
            raise ValueError(
                f"a prompt of {longest} tokens and {new} new ones exceed {self.max_length}"
            )

    def _sampling(self, new: int, temperature: float) -> Sampling:
        """Settings of the sampling loop; pads are never attended to, so EOS serves as one."""
        end = int(self.tokenizer.eos_token_id)
        return Sampling(new, frozenset({end}), temperature, pad_id=end)

    def _in_batches(
        self,
        order: list[int],
        plan: Callable[[list[int], int], list[list[int]]],
        run: Callable[[list[int]], list[Outcome]],
    ) -> list[Outcome]:
        """Call `run` on batches of the indices in `order`; outcomes from index 0 on.

        `plan` cuts a list of waiting indices into batches of places in it, by token budget. Out of
        memory halves the budget for what is left; one sequence that does not fit raises.
        """
        results: dict[int, Outcome] = {}
        waiting = order
        with self.progress.task(self.label, len(order)) as task:
            while waiting:
                left: list[int] = []
                for places in plan(waiting, self.batch_tokens):
                    batch = [waiting[place] for place in places]
                    done = None if left else self._attempt(batch, run)
                    if done is None:
                        left += batch
                        continue
                    results.update(zip(batch, done, strict=True))
                    task.advance(len(batch))
                waiting = left
        return [results[index] for index in range(len(order))]

    def _attempt(
        self, batch: list[int], run: Callable[[list[int]], list[Outcome]]
    ) -> list[Outcome] | None:
        """The batch's results, or None after halving the budget because memory ran out."""
        try:
            return run(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        # Outside the handler: the exception keeps the failed pass's tensors alive.
        self.batch_tokens = max(1, self.batch_tokens // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.progress.note(f"out of memory: going on with {self.batch_tokens} tokens a batch")
        return None


def _seed(seed: int, block: int) -> int:
    """A 63-bit seed of a block of draws."""
    digest = hashlib.sha256(f"evals {seed} {block}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
