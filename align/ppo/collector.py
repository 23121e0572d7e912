"""Prompts answered, scored and measured: the rollouts of training, and evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from align.errors import UserError
from align.ppo.actor import Actor
from align.ppo.alarms import Evaluated
from align.ppo.config import PPOConfig
from align.ppo.experience import collect
from align.ppo.memory import Memory
from align.ppo.processes import Processes
from align.ppo.prompts import (
    EVALUATE,
    SAMPLE,
    PromptBatch,
    PromptSet,
    scheduled_indices,
    stream,
)
from align.ppo.rollout import Rollout
from align.ppo.scoring import Scores, ask, said, sample_rows, score_responses, spread_of
from align.ppo.terms import RewardFunction, RewardTerm, combine, measure
from align.ppo.watch import Watch, part_means, response_metrics, spread_means


class Collected(NamedTuple):
    """The rollout of an update, its metrics, and a few of its responses for people to read."""

    rollout: Rollout
    metrics: dict[str, float]
    samples: list[dict[str, Any]]


class Evaluation(NamedTuple):
    """Metrics on held-out prompts, the scores behind them, and a few responses."""

    metrics: dict[str, float]
    scores: Evaluated
    samples: list[dict[str, Any]]


@dataclass(frozen=True)
class Collector:
    """Lets the actor answer prompts and turns scores into experience.

    Attributes:
        actor: Responds and measures.
        terms: Reward functions with their weights, which are trained on.
        gold: A reward that is only watched.
        args: PPO's arguments.
        memory: KL coefficient and scale of scores; both learn from what is collected.
        processes: Those that collect together.
    """

    actor: Actor
    terms: Sequence[RewardTerm]
    gold: RewardFunction | None
    args: PPOConfig
    memory: Memory
    processes: Processes

    def collect(self, prompts: PromptSet, update: int, watch: Watch) -> Collected:
        """Sample, score and measure this process's responses of one update.

        Args:
            prompts: Where the prompts are drawn from.
            update: Number of the update.
            watch: Is told times and tokens.
        """
        args, memory, together = self.args, self.memory, self.processes
        rank, count, beta = args.process_index, args.world_size, memory.kl.beta
        size = args.local_rollout_size * count
        drawn = scheduled_indices(len(prompts), update * size, size, args.seed)
        batch = prompts.batch(drawn[rank::count])
        with watch.phase("sample"):
            responses = self.actor.respond(batch, stream(args.seed, SAMPLE, rank, update))
        tokens = sum(len(response.ids) for response in responses)
        for phase, times in (("sample", 1), ("measure", 1), ("optimise", args.num_ppo_epochs)):
            watch.count(phase, tokens * times)
        texts = self.actor.texts(responses)
        with watch.phase("score"):
            scores = self._score(batch.answered(responses), texts)
        with watch.phase("measure"):
            last = args.truncation == "bootstrap"
            measured = self.actor.measure(batch, responses, last_value=last)
        scaled = memory.scale(scores.total.to(measured.mask.device), together.sum)
        rollout, metrics = collect(measured, scores.total, beta, args, together.sum, scaled)
        if self._apart:
            metrics |= part_means(scores.parts, measured.mask.device, together.sum)
        metrics |= spread_means(scores.spread, measured.mask.device, together.sum)
        silent = int(together.sum(scores.total.isnan().sum()))
        if silent:
            metrics["score/unscored"] = silent / size
        memory.kl.update(metrics["kl/k1"], size)
        seen = {"update": update + 1, "episode": (update + 1) * size, "kl/beta": beta}
        samples = sample_rows(batch, texts, scores.total, update)
        return Collected(rollout, seen | metrics, samples)

    def evaluate(self, prompts: PromptSet, update: int) -> Evaluation:
        """Answer held-out prompts with the same random draws every time.

        Args:
            prompts: All of them are answered, by every process.
            update: Updates done, for the samples.
        """
        batch = prompts.batch(range(len(prompts)))
        responses = self.actor.respond(batch, stream(self.args.seed, EVALUATE))
        texts, answered = self.actor.texts(responses), batch.answered(responses)
        scores = score_responses(self.terms, answered, texts, scales=self.memory.terms)
        metrics = {
            "score": float(scores.total.nanmean()),
            **response_metrics(self.actor.measure(batch, responses)),
            "n": len(batch),
        }
        gold: list[float | None] = []
        if self.gold is not None:
            golden = score_responses([self.gold], answered, texts).total
            gold = said(golden)
            metrics["gold"] = float(golden.nanmean())
        if self._apart:
            metrics |= part_means(scores.parts, scores.total.device)
        samples = sample_rows(batch, texts, scores.total, update)
        found = Evaluated(said(scores.total), gold, metrics["kl"], update)
        return Evaluation(metrics, found, samples)

    @property
    def _apart(self) -> bool:
        """Whether the functions' own scores tell more than their sum."""
        return len(self.terms) > 1 or not self.terms[0].plain

    def _score(self, batch: PromptBatch, texts: Sequence[str]) -> Scores:
        """Scores of this process's responses; scales that learn have seen them.

        Raises:
            UserError: No process has a response that was scored.
        """
        scales, together = self.memory.terms, self.processes.sum
        parts = {term.name: ask(term, batch, texts) for term in self.terms}
        measure(parts, scales, together)
        total = combine(parts, self.terms, scales)
        if not together((~total.isnan()).sum()):
            raise UserError(f"no reward function scored any response, such as {texts[0]!r}")
        return Scores(total, parts, spread_of(self.terms))
