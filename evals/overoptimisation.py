"""Over-optimisation: what proxy and gold reward gain as a policy moves away from its start.

Gao 2022 (2210.10760): with d = sqrt(KL) to the policy that optimisation starts from, the gain is
d (alpha - beta d) for best-of-n and d (alpha - beta log d) for reinforcement learning. Both are
linear in alpha and beta. All prompts share the same d, so the least-squares fit is the mean of
one fit a prompt, and its interval is that of a mean over prompts: no resampling is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from evals.best_of import best_of, best_of_kl, sizes
from evals.stats import Array, Estimate, mean_estimate

Form = Literal["bon", "rl"]
FORMULAS = {"bon": "d (alpha - beta d)", "rl": "d (alpha - beta log d)"}


@dataclass(frozen=True)
class Course:
    """One reward along an optimisation: at every step of it, every prompt's reward."""

    kl: Array
    """(K,) nats a response to the start; the first one is the start."""
    rewards: Array
    """(K, P)."""
    unit: float
    """What gains are counted in: the standard deviation (population) of the start's responses."""

    @property
    def distances(self) -> Array:
        """Square root of the KL, (K,); a KL estimated below 0 is 0."""
        return np.sqrt(np.maximum(self.kl, 0.0))


def basis(distances: Array, form: Form) -> Array:
    """Columns whose weights are alpha and beta, (K, 2): [d, -d^2] or [d, -d log d]; 0 at d = 0."""
    safe = np.where(distances > 0, distances, 1.0)
    second = distances**2 if form == "bon" else distances * np.log(safe)
    return np.stack([distances, -second], axis=1)


def fit(distances: Array, gains: Array, form: Form, confidence: float = 0.95) -> dict[str, Any]:
    """Least-squares alpha and beta with intervals over prompts, and the curve's peak.

    Args:
        distances: (K,).
        gains: (K, P) gains over the start.
        form: See `FORMULAS`.
        confidence: Coverage.

    Returns:
        form, alpha, beta (estimates; None where fewer than two distances tell them apart), peak
        (the d of the largest gain; None where beta is not shown to be above 0).
    """
    columns = basis(distances, form)
    if np.linalg.matrix_rank(columns) < columns.shape[1]:
        return {"form": form, "alpha": None, "beta": None, "peak": None}
    weights = np.linalg.pinv(columns) @ gains
    alpha, beta = (mean_estimate(row, confidence=confidence) for row in weights)
    found = peak(alpha.value, beta.value, form) if beta.low > 0 else None
    return {"form": form, "alpha": asdict(alpha), "beta": asdict(beta), "peak": found}


def peak(alpha: float, beta: float, form: Form) -> float:
    """The d at which a curve with beta > 0 is highest: alpha/(2 beta), or exp(alpha/beta - 1)."""
    return alpha / (2 * beta) if form == "bon" else math.exp(alpha / beta - 1)


def curve(distances: Array, alpha: float, beta: float, form: Form) -> Array:
    """The fitted gains (K,)."""
    return np.asarray(basis(distances, form) @ np.array([alpha, beta]))


def gain(course: Course, step: int, since: int = 0, confidence: float = 0.95) -> Estimate:
    """Mean paired gain of one step over another, in its unit."""
    return mean_estimate(
        (course.rewards[step] - course.rewards[since]) / course.unit, None, confidence
    )


def optimisation(
    courses: dict[str, Course],
    steps: Sequence[dict[str, Any]],
    form: Form,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The ledger's entry on one optimisation.

    Args:
        courses: `proxy` and, where there is one, `gold`; of the same prompts and steps.
        steps: What names each step (`update` or `n`), K of them.
        form: Curve to fit.
        confidence: Coverage.

    Returns:
        prompts, form, points (the step, kl, distance, and a gain a reward), and for each reward
        fits, units (raw reward of one standard deviation) and changes (see `change`). A reward
        that does not vary at the start is left out.
    """
    used = {name: course for name, course in courses.items() if course.unit > 0}
    kl, distances = courses["proxy"].kl, courses["proxy"].distances
    points = [
        {**step, "kl": float(kl[k]), "distance": float(distances[k])}
        | {name: asdict(gain(course, k, 0, confidence)) for name, course in used.items()}
        for k, step in enumerate(steps)
    ]
    gains = {
        name: (course.rewards - course.rewards[0]) / course.unit for name, course in used.items()
    }
    return {
        "prompts": int(courses["proxy"].rewards.shape[1]),
        "form": form,
        "points": points,
        "fits": {name: fit(distances, own, form, confidence) for name, own in gains.items()},
        "units": {name: course.unit for name, course in used.items()},
        "changes": changes(used, confidence),
    }


def changes(courses: dict[str, Course], confidence: float = 0.95) -> dict[str, Any]:
    """How every reward changed to the last step: since the start, and since gold was best.

    The best step is chosen by the same numbers, so a fall since then is found too often; the
    change since the start is not chosen.
    """
    judge = courses.get("gold") or courses.get("proxy")
    if judge is None:
        return {}
    best = int(judge.rewards.mean(axis=1).argmax())
    return {
        "best": best,
        "since_start": {n: asdict(gain(p, -1, 0, confidence)) for n, p in courses.items()},
        "since_best": {n: asdict(gain(p, -1, best, confidence)) for n, p in courses.items()},
    }


def best_of_n(scores: dict[str, Array], confidence: float = 0.95) -> dict[str, Any]:
    """The entry on best-of-n.

    Args:
        scores: `proxy` and, where there is one, `gold`: (P, N) of the same responses.
        confidence: Coverage.
    """
    proxy = scores["proxy"]
    steps = sizes(proxy.shape[1])
    kl = np.array([best_of_kl(n) for n in steps])
    courses = {
        name: Course(kl, np.stack([best_of(proxy, values, n) for n in steps]), float(values.std()))
        for name, values in scores.items()
    }
    found = optimisation(courses, [{"n": n} for n in steps], "bon", confidence)
    return found | {"samples": int(proxy.shape[1])}


def over_training(rows: Sequence[dict[str, Any]], confidence: float = 0.95) -> dict[str, Any]:
    """The entry on PPO.

    Args:
        rows: One an evaluation: update, kl, scores and gold (lists over the same prompts; gold is
            empty where there is none). The first is the start. A prompt to whose response one has
            no score (None) is left out.
        confidence: Coverage.
    """
    kl = np.array([row["kl"] for row in rows])
    names = {"proxy": "scores"} | ({"gold": "gold"} if all(row["gold"] for row in rows) else {})
    scores = np.array([[row[key] for row in rows] for key in names.values()], dtype=np.float64)
    kept = scores[:, :, np.isfinite(scores).all(axis=(0, 1))]
    rewards = dict(zip(names, kept, strict=True))
    courses = {name: Course(kl, own, float(own[0].std())) for name, own in rewards.items()}
    return optimisation(courses, [{"update": row["update"]} for row in rows], "rl", confidence)
