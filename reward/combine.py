"""From a run's list of rewards to the functions and terms that PPO adds up.

`align.ppo.terms` has the arithmetic. A function is named in the table below or as
`package.module:name`; the latter is imported only when it is named, with the working directory
as the last place to look.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.complaints import nearest
from align.config import FunctionConfig, RewardTermConfig, ScaleConfig
from align.config.rewards import REWARD_MODEL
from align.errors import UserError
from align.settings import check_value
from reward.answers import bleu, exact_answer, number, rouge_l
from reward.classifier import classifier
from reward.counterfactual import counterfactual_penalty
from reward.functions import (
    RewardFunction,
    length_penalty,
    overlong_penalty,
    pattern,
    refusal,
    repetition_penalty,
    signed,
    token_count,
)
from reward.lexical import language, profanity_penalty, vader_sentiment
from reward.scorer import scorer

if TYPE_CHECKING:
    from align.ppo.terms import RewardTerm

FUNCTIONS: Mapping[str, Callable[..., RewardFunction]] = {
    "bleu": bleu,
    "classifier": classifier,
    "counterfactual_penalty": counterfactual_penalty,
    "exact_answer": exact_answer,
    "language": language,
    "length_penalty": length_penalty,
    "number": number,
    "overlong_penalty": overlong_penalty,
    "pattern": pattern,
    "profanity_penalty": profanity_penalty,
    "refusal": refusal,
    "repetition_penalty": repetition_penalty,
    "rouge_l": rouge_l,
    "scorer": scorer,
    "token_count": token_count,
    "vader_sentiment": vader_sentiment,
}
"""Name in the configuration -> maker, whose parameters are the options."""


def build_terms(
    entries: Sequence[RewardTermConfig], reward_model: RewardFunction | None
) -> list[RewardTerm]:
    """The terms of PPO's score.

    Args:
        entries: `ppo.rewards`.
        reward_model: The run's; needed where an entry names it.

    Raises:
        UserError: A function is unknown, cannot be imported, or an option does not fit.
    """
    from align.ppo.terms import Moments, RewardTerm

    terms = []
    for place, entry in enumerate(entries):
        scale: Any = entry.normalise
        if isinstance(scale, ScaleConfig):
            scale = Moments(scale.mean, scale.std)
        terms.append(
            RewardTerm(
                build_function(entry, f"ppo.rewards.{place}", reward_model),
                weight=entry.weight,
                clip=entry.clip,
                normalise=scale,
                name=entry.name or "",
            )
        )
    return terms


def check_rewards(entries: Sequence[RewardTermConfig]) -> None:
    """Build every function once, before anything runs; a model is loaded on its first use only.

    Raises:
        UserError: As `build_terms`.
    """
    for place, entry in enumerate(entries):
        build_function(entry, f"ppo.rewards.{place}", _later)


def build_function(
    entry: FunctionConfig, where: str, reward_model: RewardFunction | None
) -> RewardFunction:
    """One reward function.

    Args:
        entry: Its name and options.
        where: Dotted key of the entry.
        reward_model: The run's.

    Raises:
        UserError: As `build_terms`.
    """
    name, options = entry.function, dict(entry.options)
    if name == REWARD_MODEL:
        if options:
            raise UserError(f"{REWARD_MODEL} has no options", where=f"{where}.options")
        assert reward_model is not None
        return reward_model
    if ":" in name:
        return _users(name, options, where)
    if name not in FUNCTIONS:
        raise UserError(
            f"no reward function is called {name!r}",
            where=f"{where}.function",
            allowed=f"{nearest(name, [REWARD_MODEL, *FUNCTIONS])}, or package.module:name",
        )
    if "of" in inspect.signature(FUNCTIONS[name]).parameters and "of" in options:
        inner = _inner(options["of"], f"{where}.options.of")
        options["of"] = build_function(inner, f"{where}.options.of", reward_model)
    check_options(FUNCTIONS[name], options, f"{where}.options")
    try:
        return FUNCTIONS[name](**options)
    except UserError as error:
        place = f"{where}.options ({error.where})" if error.where else where
        raise UserError(
            error.what, where=place, allowed=error.allowed, remedy=error.remedy
        ) from error


def check_options(maker: Callable[..., Any], options: Mapping[str, Any], where: str) -> None:
    """Check options against a maker's parameters: names, types, and that none is missing.

    Raises:
        UserError: The first that does not fit.
    """
    parameters = inspect.signature(maker).parameters
    hints = typing.get_type_hints(maker)
    for name, value in options.items():
        if name not in parameters:
            raise UserError(
                f"unknown option {name!r}",
                where=f"{where}.{name}",
                allowed=nearest(name, parameters) or "no options",
            )
        if name != "of":
            check_value(f"{where}.{name}", value, hints[name])
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise UserError(f"option {name!r} is missing", where=where)


def _inner(given: Any, where: str) -> FunctionConfig:
    """The entry of the function that another is about."""
    if not isinstance(given, dict) or not {"function"} <= {*given} <= {"function", "options"}:
        raise UserError(
            f"{given!r}", where=where, allowed="a mapping with `function` and `options`"
        )
    return FunctionConfig.model_validate(given)


def _users(name: str, options: dict[str, Any], where: str) -> RewardFunction:
    """A function of the user's, with its options as keyword arguments."""
    function = import_function(name, f"{where}.function")
    _check_keywords(function, options, f"{where}.options")
    module, _, attribute = name.partition(":")
    return signed(partial(function, **options), attribute, module=module, **options)


def import_function(name: str, where: str) -> Callable[..., Any]:
    """The function `package.module:name`; the working directory is the last place to look.

    Raises:
        UserError: It cannot be imported, or is no function.
    """
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        function: Any = importlib.import_module(module)
        for part in attribute.split("."):
            function = getattr(function, part)
    except Exception as error:  # whatever the import of a user's module raises
        raise UserError(
            f"cannot import {name!r} ({type(error).__name__}: {error})",
            where=where,
            remedy="install its package, or run where its module lies",
        ) from error
    if not callable(function):
        raise UserError(f"{name!r} is no function", where=where)
    imported: Callable[..., Any] = function
    return imported


def _check_keywords(function: Callable[..., Any], options: Mapping[str, Any], where: str) -> None:
    """Refuse options that a user's function does not name: `**columns` would swallow them."""
    parameters = inspect.signature(function).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for name in options:
        if name not in named or name in ("prompts", "completions"):
            known = [other for other in named if other not in ("prompts", "completions")]
            raise UserError(
                f"unknown option {name!r}",
                where=f"{where}.{name}",
                allowed=nearest(name, known) or "no options",
            )


def _later(**_: Any) -> list[float | None]:
    """Stands for the reward model, which is made later."""
    raise AssertionError("the reward model is not there yet")
