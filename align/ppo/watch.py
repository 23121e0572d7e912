"""What is logged of an update: sums gathered while it runs, means when it ends."""

from __future__ import annotations

import math
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from align.errors import UserError
from align.ppo.advantages import Reduce, local, masked_mean, masked_moments
from align.ppo.losses import PolicyLoss, ValueLoss, explained_variance
from align.ppo.rewards import kl_estimates
from align.ppo.rollout import Rollout


class Watch:
    """Gathers the metrics of one update. Every token mean is over masked tokens.

    What a micro-batch adds waits until its optimizer step is done: a step whose gradients are not
    finite is skipped, and only counted.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._waiting: dict[str, float] = defaultdict(float)
        self._seconds: dict[str, float] = defaultdict(float)
        self._tokens: dict[str, int] = defaultdict(int)
        self._peak = self._waiting_peak = self._gap = 0.0
        self._steps = 0
        self.skipped = self.stopped = 0
        self.fixed: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._seconds[name] += time.perf_counter() - start

    def count(self, name: str, tokens: int) -> None:
        """Add tokens that a phase has processed."""
        self._tokens[name] += tokens

    def policy(self, loss: PolicyLoss, entropy: Tensor, tokens: Tensor) -> None:
        """Add one micro-batch of the policy; `entropy` is a sum over its `tokens`."""
        names = ("policy/loss", "clipped", "approx_kl", "ratio", "entropy", "tokens")
        numbers = (*loss[:4], entropy, tokens, loss.ratio_max)
        # one copy from the device, which may still be computing
        added = torch.stack([number.detach().float() for number in numbers]).tolist()
        for name, value in zip(names, added, strict=False):
            self._waiting[name] += value
        self._waiting_peak = max(self._waiting_peak, added[-1])

    def value(self, loss: ValueLoss) -> None:
        """Add one micro-batch of the critic."""
        self._waiting["value/loss"] += float(loss.loss.detach())
        self._waiting["value_clipped"] += float(loss.clipped)

    def text(self, loss: Tensor) -> None:
        """Add the PTX loss of one micro-batch of text."""
        self._waiting["ptx/loss"] += float(loss)

    def sampler_gap(self, logprobs: Tensor, part: Rollout) -> None:
        """Compare the sampler with the trainer, as long as they have the same weights."""
        if self._steps + self.skipped == 0:
            gap = torch.where(part.mask, part.sampler_logprobs - logprobs, 0.0).abs().max()
            self._gap = max(self._gap, float(gap))

    def moved(self, reduce: Reduce = local) -> float:
        """Approximate KL (nats a token) to the policy that sampled, over the waiting batch."""
        waiting = torch.tensor([self._waiting["approx_kl"], self._waiting["tokens"]])
        moved, tokens = reduce(waiting).tolist()
        return float(moved / max(tokens, 1.0))

    def stop(self) -> None:
        """Count an optimizer step that is left out because the policy has moved far enough."""
        self.stopped += 1
        self._waiting.clear()
        self._waiting_peak = 0.0

    def step(self, norms: dict[str, float]) -> None:
        """End one optimizer step with these gradient norms (before clipping)."""
        if all(map(math.isfinite, norms.values())):
            self._steps += 1
            self._peak = max(self._peak, self._waiting_peak)
            for name, value in self._waiting.items():
                self._sums[name] += value
            for name, norm in norms.items():
                self._sums[f"grad_norm/{name}"] += norm
        else:
            self.skipped += 1
        self._waiting.clear()
        self._waiting_peak = 0.0

    def summary(self, reduce: Reduce = local, largest: Reduce = local) -> dict[str, float]:
        """Metrics of the update: means over steps or tokens of all processes.

        Args:
            reduce: Sums a tensor over all processes.
            largest: The largest of a scalar over all processes.
        """
        per_token = {
            "policy/clip_fraction": "clipped",
            "policy/approx_kl": "approx_kl",
            "policy/ratio_mean": "ratio",
            "policy/entropy": "entropy",
            "value/clip_fraction": "value_clipped",
        }
        names = ["tokens", "policy/loss", "value/loss", *per_token.values()]
        sums = reduce(torch.tensor([self._sums[name] for name in names])).tolist()
        total = dict(zip(names, sums, strict=True))
        steps = max(self._steps, 1)
        row = {name: total[key] / max(total["tokens"], 1.0) for name, key in per_token.items()}
        row |= {name: total[name] / steps for name in ("policy/loss", "value/loss")}
        if "ptx/loss" in self._sums:
            row["ptx/loss"] = float(reduce(torch.tensor(self._sums["ptx/loss"]))) / steps
        for name in ("grad_norm/policy", "grad_norm/critic"):
            row[name] = self._sums[name] / steps
        row["policy/ratio_max"] = float(largest(torch.tensor(self._peak)))
        row["sampler/gap_max"] = float(largest(torch.tensor(self._gap)))
        row |= {"skipped_steps": self.skipped, "stopped_steps": self.stopped}
        row["memory_gb"] = peak_memory()
        for name, seconds in self._seconds.items():
            row[f"seconds/{name}"] = seconds
            if self._tokens[name]:
                row[f"tokens_per_second/{name}"] = self._tokens[name] / max(seconds, 1e-9)
        return self.fixed | row


def rollout_metrics(rollout: Rollout, rewards: Tensor, reduce: Reduce = local) -> dict[str, float]:
    """Metrics of a rollout before it is trained on, all over masked tokens of all processes.

    KL and reward are sums over a response's tokens, averaged over responses; KL in nats.
    """
    mask = rollout.mask
    measured = response_metrics(rollout, reduce)
    scored = ~rollout.scores.isnan()
    score, variance = masked_moments(rollout.scores, scored, reduce)
    return {
        "score/mean": float(score),
        "score/std": float(variance.sqrt()),
        "reward/mean": float(masked_mean(rewards, mask, reduce)) * measured["length"],
        "return/mean": float(masked_mean(rollout.returns, mask, reduce)),
        "kl/k1": measured["kl"],
        "kl/k3": measured["kl_k3"],
        "value/explained_variance": float(
            explained_variance(rollout.values, rollout.returns, mask, reduce)
        ),
        "response/length": measured["length"],
        "response/eos_rate": measured["eos_rate"],
        "response/distinct": float(masked_mean(_is_first(rollout), scored, reduce)),
    }


def _is_first(rollout: Rollout) -> Tensor:
    """(B,) 1 where no earlier row of this process has the same response, else 0."""
    seen: set[tuple[int, ...]] = set()
    first = []
    for ids, mask in zip(rollout.response_ids, rollout.mask, strict=True):
        response = tuple(ids[mask].tolist())
        first.append(float(response not in seen))
        seen.add(response)
    return torch.tensor(first, device=rollout.mask.device)


def response_metrics(rollout: Rollout, reduce: Reduce = local) -> dict[str, float]:
    """KL (k1 and k3, nats a response), entropy (nats a token), length and share that ended.

    Over responses with a token that counts: those without a score have none.

    The entropy is estimated from the sampled tokens: its expectation is that of -log pi.
    """
    mask = rollout.mask
    everyone = mask.any(-1)
    estimates = kl_estimates(rollout.logprobs, rollout.reference)
    length = float(masked_mean(mask.sum(-1).float(), everyone, reduce))
    return {
        "kl": float(masked_mean(estimates.k1, mask, reduce)) * length,
        "kl_k3": float(masked_mean(estimates.k3, mask, reduce)) * length,
        "entropy": -float(masked_mean(rollout.logprobs, mask, reduce)),
        "length": length,
        "eos_rate": float(masked_mean(rollout.finished.float(), everyone, reduce)),
    }


def part_means(
    parts: Mapping[str, Tensor], device: torch.device, reduce: Reduce = local
) -> dict[str, float]:
    """Mean score of each reward function, over the responses that it scored."""
    means = {}
    for name, scores in parts.items():
        scores = scores.to(device)
        means[f"score/{name}"] = float(masked_mean(scores, ~scores.isnan(), reduce))
    return means


def spread_means(
    spread: Mapping[str, Tensor], device: torch.device, reduce: Reduce = local
) -> dict[str, float]:
    """Mean disagreement inside each reward function that has several judges."""
    return {
        f"spread/{name.removeprefix('score/')}": mean
        for name, mean in part_means(spread, device, reduce).items()
    }


def check_finite(row: dict[str, float], *, all_skipped: bool) -> None:
    """Stop where training has broken down.

    Args:
        row: Metrics of an update.
        all_skipped: Whether every optimizer step had to be skipped.

    Raises:
        UserError: A number is not finite, or no step could be taken.
    """
    bad = [name for name, value in row.items() if not math.isfinite(value)]
    if all_skipped:
        bad.append("all gradients")
    if bad:
        raise UserError(
            f"not finite after update {row['update']:.0f}: {', '.join(bad)}",
            where="ppo",
            remedy="lower the learning rate or clip scores; earlier checkpoints are kept",
        )


def peak_memory() -> float:
    """Peak memory of this process in GB: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
