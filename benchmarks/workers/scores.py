"""Scores that workers in our own environment share, and answers to held-out prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from workers.measure import as_ids, as_text, load_policy, load_prompts, toy_hits
from workers.work import Work

from align.generation import Response, Sampling, generate
from reward.load import load_reward

ScoreFunction = Callable[..., list[float]]
AT_ONCE = 32
"""Held-out prompts answered together."""


def score_function(work: Work, vocab_size: int) -> ScoreFunction:
    """The work's score of prompts and completions, both texts of token numbers."""
    return toy_score(work, vocab_size) if work.score == "toy" else stage_score(Path(work.score))


def toy_score(work: Work, vocab_size: int) -> ScoreFunction:
    """Share of a response's T tokens that count."""

    def score(completions: Sequence[str], **_: Any) -> list[float]:
        rows = [torch.tensor(as_ids(text)) for text in completions]
        return [float(toy_hits(row, vocab_size).sum()) / work.response_length for row in rows]

    return score


def stage_score(folder: Path) -> ScoreFunction:
    """The reward model of a finished stage, mean 0 and standard deviation 1 on its own data."""
    model = load_reward(folder)
    end, zero, unit = model.tokenizer.eos_token_id, model.settings.mean, model.settings.std

    def score(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        raw = model.score_ids([[*as_ids(prompt), *as_ids(text), end] for prompt, text in pairs])
        return [(value - zero) / unit for value in raw]

    return score


def held_scores(policy: PreTrainedModel, work: Work, vocab_size: int) -> dict[str, list[float]]:
    """Scores of the policy's answers to the held-out prompts, with the same draws for everyone.

    Args:
        policy: Causal LM with its adapter in force.
        work: Its `held` names the prompts; without it nothing is done.
        vocab_size: Tokens of the model.

    Returns:
        By prompt: `score`, and `kl`, the log-probability of the answer under the policy minus that
        under the model it started from, nats.
    """
    if not work.held:
        return {}
    prompts = load_prompts(work.held)
    policy.eval()
    draws = torch.rand(
        len(prompts), work.response_length, generator=torch.Generator().manual_seed(0)
    )
    stops = frozenset() if work.eos is None else frozenset({work.eos})
    sampling = Sampling(work.response_length, stops, work.temperature)
    answers = []
    for first in range(0, len(prompts), AT_ONCE):
        rows = slice(first, first + AT_ONCE)
        answers += generate(policy, prompts[rows], sampling, draws=draws[rows])
    score = score_function(work, vocab_size)
    texts = [as_text(token for token in answer.ids if token not in stops) for answer in answers]
    return {
        "score": score(prompts=[as_text(ids) for ids in prompts], completions=texts),
        "kl": drift(work, prompts, answers),
    }


@torch.no_grad()
def drift(work: Work, prompts: Sequence[Sequence[int]], answers: Sequence[Response]) -> list[float]:
    """How much likelier each answer is under its policy than under the first model, nats."""
    first = load_policy(work).eval()
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt, *answer.ids]], device=first.device)
        logits = first(input_ids=ids).logits[0, len(prompt) - 1 : -1].double() / work.temperature
        under_first = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])
        found.append(sum(answer.logprobs) - float(under_first.sum()))
    return found
