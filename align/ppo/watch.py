"""What is logged of an update: sums gathered while it runs, means when it ends."""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from align.ppo.advantages import masked_mean
from align.ppo.losses import PolicyLoss, ValueLoss, explained_variance
from align.ppo.rewards import kl_estimates
from align.ppo.rollout import Rollout


class Watch:
    """Gathers the metrics of one update. Every token mean is over masked tokens."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._seconds: dict[str, float] = defaultdict(float)
        self._tokens: dict[str, int] = defaultdict(int)
        self._peak = 0.0
        self._steps = 0
        self.fixed: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, tokens: int = 0) -> Iterator[None]:
        """Time a phase; `tokens` it processed."""
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._seconds[name] += time.perf_counter() - start
        self._tokens[name] += tokens

    def count(self, name: str, tokens: int) -> None:
        """Add tokens to a phase whose number is known only at its end."""
        self._tokens[name] += tokens

    def policy(self, loss: PolicyLoss, entropy: float, tokens: float) -> None:
        """Add one micro-batch of the policy; `entropy` is a sum over its `tokens`."""
        self._sums["policy/loss"] += float(loss.loss)
        self._sums["clipped"] += float(loss.clipped)
        self._sums["approx_kl"] += float(loss.approx_kl)
        self._sums["ratio"] += float(loss.ratio)
        self._sums["entropy"] += entropy
        self._sums["tokens"] += tokens
        self._peak = max(self._peak, float(loss.ratio_max))

    def value(self, loss: ValueLoss) -> None:
        """Add one micro-batch of the critic."""
        self._sums["value/loss"] += float(loss.loss)
        self._sums["value_clipped"] += float(loss.clipped)

    def step(self, norms: dict[str, float]) -> None:
        """Add the gradient norms (before clipping) of one optimizer step."""
        self._steps += 1
        for name, norm in norms.items():
            self._sums[f"grad_norm/{name}"] += norm

    def summary(self) -> dict[str, float]:
        """Metrics of the update: means over steps or tokens."""
        tokens, steps = max(self._sums["tokens"], 1.0), max(self._steps, 1)
        per_token = {
            "policy/clip_fraction": "clipped",
            "policy/approx_kl": "approx_kl",
            "policy/ratio_mean": "ratio",
            "policy/entropy": "entropy",
            "value/clip_fraction": "value_clipped",
        }
        per_step = ("policy/loss", "value/loss", "grad_norm/policy", "grad_norm/critic")
        row = {name: self._sums[key] / tokens for name, key in per_token.items()}
        row |= {name: self._sums[name] / steps for name in per_step}
        row |= {"policy/ratio_max": self._peak, "memory_gb": peak_memory()}
        for name, seconds in self._seconds.items():
            row[f"seconds/{name}"] = seconds
            if self._tokens[name]:
                row[f"tokens_per_second/{name}"] = self._tokens[name] / max(seconds, 1e-9)
        return self.fixed | row


def rollout_metrics(rollout: Rollout, rewards: Tensor) -> dict[str, float]:
    """Metrics of a rollout before it is trained on, all over masked tokens.

    KL is in nats a response: the sum over its tokens, averaged over responses.
    """
    estimates = kl_estimates(rollout.logprobs, rollout.reference)
    gap = (rollout.sampler_logprobs - rollout.logprobs).abs()
    rows = len(rollout)

    def per_response(values: Tensor) -> float:
        return float(torch.where(rollout.mask, values, 0.0).sum() / rows)

    scores = rollout.scores
    return {
        "score/mean": float(scores.mean()),
        "score/std": float(scores.std(correction=0)),
        "reward/mean": per_response(rewards),
        "return/mean": float(masked_mean(rollout.returns, rollout.mask)),
        "kl/k1": per_response(estimates.k1),
        "kl/k3": per_response(estimates.k3),
        "sampler/gap_max": float(torch.where(rollout.mask, gap, 0.0).max()),
        "value/explained_variance": float(
            explained_variance(rollout.values, rollout.returns, rollout.mask)
        ),
        "response/length": float(rollout.mask.sum(-1).float().mean()),
        "response/eos_rate": float(rollout.finished.float().mean()),
    }


def peak_memory() -> float:
    """Peak memory of this process in GB: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
