"""Rewards from word lists and small models of optional packages; nothing is downloaded.

VADER's lexicon (vaderSentiment), better-profanity's word list and py3langid's model come inside
their packages: `pip install 'alignkit[rewards]'`. A missing package is told before anything runs.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from align.complaints import nearest
from align.errors import UserError
from align.files import file_hash
from reward.functions import RewardFunction, text_reward


def vader_sentiment() -> RewardFunction:
    """Sentiment of English text from -1 to 1: VADER's compound score (Hutto and Gilbert 2014)."""
    module = _package("vader_sentiment", "vaderSentiment.vaderSentiment", "vaderSentiment")
    polarity = module.SentimentIntensityAnalyzer().polarity_scores
    return text_reward(
        "vader_sentiment",
        lambda text: float(polarity(text)["compound"]),
        vaderSentiment=version("vaderSentiment"),
    )


def profanity_penalty(file: str | None = None) -> RewardFunction:
    """Minus the number of words or phrases of a list in the response, compared without case.

    Args:
        file: UTF-8 file with one word or phrase a line; default: better-profanity's list, without
            its spellings with other characters.

    Raises:
        UserError: The file cannot be read or is empty, or the package is missing.
    """
    if file is None:
        _package("profanity_penalty", "better_profanity", "better-profanity", "or give `file`")
        text = files("better_profanity").joinpath("profanity_wordlist.txt").read_text("utf-8")
        found = _any_of(text, "profanity_penalty")
        source = {"better-profanity": version("better-profanity")}
    else:
        found, digest = word_list(Path(file), "profanity_penalty.file")
        source = {"file": digest}
    return text_reward("profanity_penalty", lambda text: 0.0 - len(found.findall(text)), **source)


def word_list(path: Path, where: str) -> tuple[re.Pattern[str], str]:
    """A pattern of whole words and phrases, one a line, and the start of the file's hash.

    Args:
        path: UTF-8 file; case does not count, nor do empty lines.
        where: Key or option, for messages.

    Raises:
        UserError: The file cannot be read or is empty.
    """
    return _any_of(_read(path, where), f"{where}: {path}"), file_hash(path)[:12]


def _any_of(text: str, where: str) -> re.Pattern[str]:
    """Any of the lines as a whole word or phrase, the longest first."""
    words = sorted({line.strip() for line in text.splitlines()} - {""}, key=len, reverse=True)
    if not words:
        raise UserError("no word in it", where=where)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)


def language(code: str) -> RewardFunction:
    """Probability that the response is in a language, by py3langid (97 languages).

    Without a letter it is 0: what cannot be told is not left out, so silence earns nothing.

    Args:
        code: ISO 639-1, such as `en`.

    Raises:
        UserError: The package is missing or does not know the language.
    """
    module = _package("language", "py3langid.langid", "py3langid")
    identifier = _identifier(module)
    known = [str(label) for label in identifier.labels]
    if code not in known:
        raise UserError(f"{code!r}", where="language.code", allowed=nearest(code, known))

    def score(text: str) -> float:
        if not any(map(str.isalpha, text)):
            return 0.0
        return float(dict(identifier.rank(text))[code])

    return text_reward(
        f"language_{code}", score, "language", code=code, py3langid=version("py3langid")
    )


@cache
def _identifier(module: Any) -> Any:
    """The packaged model, once, with probabilities that sum to 1."""
    return module.LanguageIdentifier.from_model_file(module.MODEL_FILE, norm_probs=True)


def _package(name: str, module: str, package: str, other: str = "") -> Any:
    """Import an optional package.

    Raises:
        UserError: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        remedy = f"pip install {package}" + (f", {other}" if other else "")
        raise UserError(
            f"the reward function {name} needs {package}", where="ppo.rewards", remedy=remedy
        ) from error


def _read(path: Path, where: str) -> str:
    """The text of a file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error})", where=where) from error
