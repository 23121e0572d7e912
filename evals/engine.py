"""Log-likelihoods and generation whose numbers do not depend on batch size, padding or order.

Requests that begin alike are scored together, and what they share runs once (`evals.sharing`).
Batches hold a number of tokens, not of sequences; running out of memory halves it and goes on.
Several processes share the batches of one, so how many there are changes no number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from align.generation import Response, Sampling, generate
from align.packing import packed
from align.progress import NullProgress, Progress
from align.team import ALONE, Team
from evals.passes import Passes
from evals.requests import Request, batches, deal, merge_prefixes, prefix_id, windows
from evals.sharing import alone, beginning, cut, share, tree_order
from evals.stops import Answer, Stops

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Responses are sampled in blocks of this size whatever the budget, so that draws stay the same.
_SAMPLED_TOGETHER = 64


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

    Every process of a team calls the same methods with the same arguments, and gets all results.

    Args:
        model: Causal LM in evaluation mode, adapters merged.
        tokenizer: Its tokenizer, with BOS or EOS.
        batch_tokens: Tokens a forward pass, padding included.
        progress: Where to report.
        team: The processes that share the work.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int = 8192,
        progress: Progress | None = None,
        team: Team = ALONE,
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.batch_tokens, self.team = batch_tokens, team
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
            own = [rows[index] for index in batch], [paths[index] for index in batch]
            return self._passes.score(*own, wanted, self.batch_tokens)

        def plan(waiting: list[int], budget: int) -> list[list[int]]:
            places = cut([paths[index] for index in waiting], budget)
            return [[waiting[place] for place in batch] for batch in places]

        sizes = [len(row) for row in rows]
        scored = self._in_batches(plan(tree_order(paths), self.batch_tokens), sizes, plan, run)
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

        sizes = [len(prompt) + max_new_tokens for prompt in prompts]
        whole = _plan(sizes, range(len(prompts)), self.batch_tokens)
        with packed(self.model):
            return self._in_batches(whole, sizes, partial(_plan, sizes), run)

    def sample(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, seed: int
    ) -> list[Response]:
        """Sampled responses, in the order of the prompts; the same for any order and batch size.

        Draws are made in fixed blocks of the sorted prompts with a generator each, so a response
        depends on the set of prompts and the seed alone. A block is a batch while memory lasts.
        """
        self._check_room(prompts, max_new_tokens)
        sampling = self._sampling(max_new_tokens, temperature)
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), tuple(prompts[i])))
        starts = range(0, len(order), _SAMPLED_TOGETHER)
        blocks = [order[start : start + _SAMPLED_TOGETHER] for start in starts]
        draws = torch.empty(len(prompts), max_new_tokens)
        for start, block in zip(starts, blocks, strict=True):
            generator = torch.Generator().manual_seed(_seed(seed, start))
            draws[block] = torch.rand(len(block), max_new_tokens, generator=generator)

        def run(batch: list[int]) -> list[Response]:
            rows = [prompts[index] for index in batch]
            return generate(self.model, rows, sampling, draws=draws[batch])

        sizes = [len(prompt) + max_new_tokens for prompt in prompts]
        with packed(self.model):
            return self._in_batches(blocks, sizes, partial(_plan, sizes), run)

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
        whole: list[list[int]],
        sizes: Sequence[int],
        plan: Callable[[list[int], int], list[list[int]]],
        run: Callable[[list[int]], list[Outcome]],
    ) -> list[Outcome]:
        """Call `run` on batches, those of one process each; all outcomes from index 0 on.

        Args:
            whole: Batches of all indices, the same on every process.
            sizes: Tokens of each index.
            plan: Cuts indices into batches by token budget. Out of memory halves the budget for
                what is left; one sequence that does not fit raises.
            run: Outcomes of a batch.
        """
        costs = [len(batch) * max(sizes[index] for index in batch) for batch in whole]
        waiting = [whole[place] for place in deal(costs, self.team.count)[self.team.rank]]
        results: dict[int, Outcome] = {}
        with self.progress.task(self.label, sum(map(len, waiting))) as task:
            while waiting:
                left: list[int] = []
                for batch in waiting:
                    done = None if left else self._attempt(batch, run)
                    if done is None:
                        left += batch
                        continue
                    results.update(zip(batch, done, strict=True))
                    task.advance(len(batch))
                waiting = plan(left, self.batch_tokens)
        return self._gather(results)

    def _gather(self, mine: dict[int, Outcome]) -> list[Outcome]:
        """The outcomes of all processes, which go on with the smallest budget of any."""
        outcomes: dict[int, Outcome] = {}
        for found, tokens in self.team.exchange((mine, self.batch_tokens)):
            outcomes |= found
            self.batch_tokens = min(self.batch_tokens, tokens)
        return [outcomes[index] for index in range(len(outcomes))]

    def _attempt(
        self, batch: list[int], run: Callable[[list[int]], list[Outcome]]
    ) -> list[Outcome] | None:
        """The batch's results, or None after halving the budget because memory ran out."""
        try:
            return run(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not _out_of_memory(error):
                raise
        # Outside the handler: the exception keeps the failed pass's tensors alive.
        self.batch_tokens = max(1, self.batch_tokens // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.progress.note(f"out of memory: going on with {self.batch_tokens} tokens a batch")
        return None


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out; CPUs have no exception of their own for it."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def _plan(sizes: Sequence[int], indices: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of sequences in batches by token budget."""
    places = batches([sizes[index] for index in indices], budget)
    return [[indices[place] for place in batch] for batch in places]


def _seed(seed: int, block: int) -> int:
    """A 63-bit seed of a block of draws."""
    digest = hashlib.sha256(f"evals {seed} {block}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
