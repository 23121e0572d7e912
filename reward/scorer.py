"""Local scorers of texts: toxicity, sentiment or regard without a download.

A scorer is one of three: a folder that `align scorer` wrote (`reward.scorer_training`), VADER's
lexicon where its package is installed, or labels of any transformers sequence classifier. Its score
of a text is the expected value of the classes, sum over c of p(c) value(c). A text that a scorer
cannot judge has no score; that is missing, never 0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from align.errors import UserError
from align.files import folder_hash
from reward.functions import Completion, RewardFunction, completion_text, signed

if TYPE_CHECKING:
    from sklearn.pipeline import FeatureUnion

CARD, VOCABULARY, WEIGHTS = "scorer.json", "vocabulary.json", "weights.safetensors"
FORMAT = 1
VADER = "vader"
FORMS = f"a folder of `align scorer`, {VADER}, or MODEL:LABEL, MODEL:LABEL=VALUE,..."
WORDS: Mapping[str, Any] = {"ngram_range": (1, 2), "sublinear_tf": True}
CHARACTERS: Mapping[str, Any] = {
    "analyzer": "char_wb",
    "ngram_range": (2, 5),
    "sublinear_tf": True,
}
"""Features of format 1: TF-IDF of words and of characters inside words."""
Array = NDArray[np.float64]
Score = Callable[[Sequence[str]], Sequence[float | None]]


class Scorer(NamedTuple):
    """A scorer, and what pins it."""

    score: Score
    """Texts -> expected value of each; None where it cannot be told."""
    identity: str
    """Name, version and the start of a hash."""
    low: float
    """Least possible score."""
    high: float
    """Greatest possible score."""


def open_scorer(reference: str, where: str = "scorers") -> Scorer:
    """The scorer that a user names.

    Args:
        reference: See `FORMS`.
        where: Key or option, for messages.

    Raises:
        UserError: There is no such scorer, its files are not what the card says, a package is
            missing, or a value is no number.
    """
    if reference == VADER:
        return _vader()
    folder = Path(reference).expanduser()
    if (folder / CARD).is_file():
        return _linear(folder)
    model, colon, labels = reference.rpartition(":")
    if not colon:
        raise UserError(f"no such scorer: {reference!r}", where=where, allowed=FORMS)
    return _classifier(model, class_values(labels.split(","), where))


def scorer(folder: str) -> RewardFunction:
    """Expected value of a scorer's classes as a reward; it reads the response alone.

    A response of which the scorer knows nothing, such as an empty one, is worth the middle of its
    scale: left out, it would be a way round a penalty.

    Args:
        folder: Written by `align scorer`.

    Raises:
        UserError: It holds no scorer, or a broken one.
    """
    path = Path(folder).expanduser()
    if not (path / CARD).is_file():
        raise UserError(f"no {CARD}", where=f"scorer.folder: {folder}", remedy="align scorer")
    found = open_scorer(folder)
    middle = (found.low + found.high) / 2

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float]:
        scores = found.score([completion_text(completion) for completion in completions])
        return [middle if score is None else score for score in scores]

    name = read_card(path)["name"]
    return signed(reward, f"scorer_{name}", scorer=found.identity.replace("|", " "))


def class_values(given: Sequence[str], where: str) -> dict[str, float]:
    """Label -> value from LABEL=VALUE each; a lone LABEL is worth 1.

    Raises:
        UserError: A value is no finite number, or a label stands twice.
    """
    values: dict[str, float] = {}
    for text in given:
        label, _, value = text.rpartition("=") if "=" in text else (text, "", "1")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not label or label in values or not math.isfinite(number):
            raise UserError(f"{text!r}", where=where, allowed="LABEL=NUMBER, every label once")
        values[label] = number
    return values


def features() -> FeatureUnion:
    """TF-IDF of words and of characters, not fitted."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    parts = {"words": WORDS, "characters": CHARACTERS}
    return FeatureUnion([(name, TfidfVectorizer(**part)) for name, part in parts.items()])


def shares(logits: Array) -> Array:
    """Probabilities (n, C) of the classes from logits (n, C), or (n,) of the second of two."""
    from scipy.special import expit, softmax

    if logits.ndim == 1:
        return np.stack([expit(-logits), expit(logits)], axis=1)
    probabilities: Array = softmax(logits, axis=1)
    return probabilities


def _linear(folder: Path) -> Scorer:
    """A scorer of `align scorer`.

    Raises:
        UserError: A file is missing, broken or not what the card says.
    """
    from safetensors.numpy import load_file

    card = read_card(folder)
    try:
        vocabulary = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
        union = features()
        for name, vectorizer in union.transformer_list:
            vectorizer.set_params(vocabulary=vocabulary[name])
            vectorizer.idf_ = weights[f"idf_{name}"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(folder)) from error
    values = np.array(list(card["values"].values()), dtype=np.float64)

    def score(texts: Sequence[str]) -> list[float | None]:
        if not texts:
            return []
        found = union.transform(texts)
        logits = found @ weights["coefficients"].T + weights["intercepts"]
        expected = shares(logits[:, 0] if logits.shape[1] == 1 else logits) @ values
        # without a known word or character the intercept alone would speak
        known = np.diff(found.tocsr().indptr) > 0
        return [float(e) if k else None for e, k in zip(expected, known, strict=True)]

    identity = f"{card['name']} {card['version']} @{folder_hash(folder)[:12]}"
    return Scorer(score, identity, float(values.min()), float(values.max()))


def read_card(folder: Path) -> dict[str, Any]:
    """What `scorer.json` says.

    Raises:
        UserError: It cannot be read, or is of another format.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path)) from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise UserError("is no scorer of this version", where=str(path), allowed=f"format {FORMAT}")
    return card


def _vader() -> Scorer:
    """VADER's compound score, -1 to 1.

    A text without a word of its lexicon is neutral (0) by its definition.
    """
    from reward.lexical import vader_sentiment

    reward = vader_sentiment()
    identity = str(getattr(reward, "signature", VADER)).replace("|", " ")
    return Scorer(_spoken(lambda texts: reward(texts, texts)), identity, -1.0, 1.0)


def _classifier(model: str, values: Mapping[str, float]) -> Scorer:
    """The expected value of labels of a sequence classifier; other labels are worth 0."""
    from reward.classifier import classifier

    rewards = {label: classifier(model, label) for label in values}

    def score(texts: Sequence[str]) -> list[float]:
        parts = [
            value * np.asarray(rewards[label](texts, texts)) for label, value in values.items()
        ]
        expected: list[float] = np.sum(parts, axis=0).tolist()
        return expected

    said = ",".join(f"{label}={value:g}" for label, value in values.items())
    known = re.search(r"model:([^|]*)", str(getattr(next(iter(rewards.values())), "signature", "")))
    name = known[1] if known else model
    # labels that are not named may take the whole probability
    low, high = min(0.0, *values.values()), max(0.0, *values.values())
    return Scorer(_spoken(score), f"{name}:{said}", low, high)


def _spoken(score: Score) -> Score:
    """The same, but None for texts without a letter or digit and for scores that are no number."""

    def spoken(texts: Sequence[str]) -> list[float | None]:
        places = [i for i, text in enumerate(texts) if any(map(str.isalnum, text))]
        found: list[float | None] = [None] * len(texts)
        given = score([texts[place] for place in places]) if places else []
        for place, value in zip(places, given, strict=True):
            found[place] = value if value is not None and math.isfinite(value) else None
        return found

    return spoken
