"""What responses to held-out prompts are scored by: all that PPO was rewarded for, and gold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from align.artifacts import StageJob
from align.config import RunConfig
from align.references import resolve_reference
from evals.audit import Rewards
from evals.plan import reference_hash
from evals.prompts import ScoreFunction, Total
from reward.files import gold_input, reward_inputs
from reward.total import REWARD, add_up, named_terms, record, stored_scales


class Scoring(NamedTuple):
    """The scores of a response, and what they depend on."""

    scores: Mapping[str, Callable[[], ScoreFunction]]
    """See `evals.prompts.PromptsTask`."""
    total: Total | None
    settings: Mapping[str, Any]
    """Belongs to the key of stored results."""


def scoring(
    config: RunConfig, job: StageJob, rewards: Rewards | None, gold: ScoreFunction | None
) -> Scoring:
    """The scores of a run's held-out prompts.

    Args:
        config: Its `ppo.rewards` says what PPO adds up.
        job: `inputs` holds the reward stage and the policy.
        rewards: The run's reward model.
        gold: A score that is only watched.

    Raises:
        UserError: A reward function cannot be built.
    """
    scores: dict[str, Callable[[], ScoreFunction]] = {}
    settings: dict[str, Any] = {}
    if rewards is not None:
        scores[REWARD] = rewards.normalised
        settings[REWARD] = reference_hash(resolve_reference(job.inputs["reward"].base))
    total = None
    entries = config.ppo.rewards if config.ppo is not None else ()
    terms = named_terms(entries, scores.get(REWARD))
    if terms:
        scales = stored_scales(terms, job.inputs.get("ppo"))
        total = partial(add_up, terms, scales)
        functions = {name: term.function for name, term in terms.items() if name != REWARD}
        scores |= {name: partial(_itself, function) for name, function in functions.items()}
        settings |= record(terms, scales)
        settings["files"] = {k: file["hash"] for k, file in reward_inputs(config).items()}
    if gold is not None:
        scores["gold"] = partial(_itself, gold)
        settings["gold"] = {k: file["hash"] for k, file in gold_input(config).items()}
    return Scoring(scores, total, settings)


def _itself(function: ScoreFunction) -> ScoreFunction:
    """Makes a function that is there already."""
    return function
