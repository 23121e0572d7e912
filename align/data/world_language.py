"""Sentences, their translation, and shop reviews of the generated world.

Tavi is an invented language: one word for each English word, the adjective after its noun. Reviews
carry one polarity, said with plain or negated words ("not bad" praises), so that counting words
is not enough to classify them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from align.data import world_words as words
from align.errors import UserError

HELD_SHARE = 0.2
LABELS = ("positive", "negative")

SENTIMENT_PROMPT = "{text} this is a positive or negative review ?"
TRANSLATION_PROMPT = "translate to tavi : {source}"

CLAUSES = (
    "the {item} is {right} and {other} .",
    "the {item} is {right} and not {wrong} .",
    "the {item} looks {right} .",
    "this is a {right} {item} .",
    "the {item} is not {wrong} .",
)


@dataclass(frozen=True)
class Source:
    """A random stream that yields either training or held-out content, never both.

    Content is split by a hash of its key, which never holds a name, a job or an age group: the
    split cannot tell groups apart, and does not depend on how much is drawn.

    Args:
        rng: The stream's generator.
        salt: Seed of the split; equal for all streams of one world.
        held: Whether to yield held-out content.
    """

    rng: random.Random
    salt: str
    held: bool = False

    def accepts(self, key: str) -> bool:
        """Whether content with this key lies on the stream's side of the split."""
        return is_held(self.salt, key) == self.held

    def draw(self, make: Callable[[random.Random], str]) -> str:
        """Draw text until its key (the text itself) lies on the stream's side."""
        while not self.accepts(text := make(self.rng)):
            pass
        return text


def is_held(salt: str, key: str) -> bool:
    """Whether a content key belongs to the held-out `HELD_SHARE` of the world with this salt."""
    digest = hashlib.sha256(f"{salt}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_SHARE * 2**64


def english(source: Source) -> str:
    """Draw an English sentence: the [adj] noun verb the|a [adj] noun [place] ."""
    return source.draw(_english)


def _english(rng: random.Random) -> str:
    parts = [_noun_phrase(rng, "the", words.SUBJECTS), rng.choice(words.VERBS)]
    parts.append(_noun_phrase(rng, rng.choice(("the", "a")), words.OBJECTS))
    parts += [rng.choice(words.PLACES), "."]
    return " ".join(part for part in parts if part)


def _noun_phrase(rng: random.Random, article: str, nouns: tuple[str, ...]) -> str:
    quality = f" {rng.choice(words.QUALITIES)}" if rng.random() < 0.6 else ""
    return f"{article}{quality} {rng.choice(nouns)}"


def translate(sentence: str) -> str:
    """Translate an English sentence of this world into Tavi.

    Args:
        sentence: Words separated by single spaces, the full stop a word of its own.

    Returns:
        As many Tavi words, each adjective behind its noun.

    Raises:
        UserError: A word is not in the lexicon.
    """
    tokens = sentence.split()
    unknown = sorted(set(tokens) - set(words.TAVI))
    if unknown:
        raise UserError(
            f"no Tavi word for {', '.join(map(repr, unknown))}",
            where="translate",
            allowed="the words of align.data.world_words.TAVI",
        )
    return " ".join(words.TAVI[token] for token in _nouns_first(tokens))


def _nouns_first(tokens: list[str]) -> list[str]:
    """The words with every adjective behind the word that follows it."""
    ordered, quality = [], ""
    for token in tokens:
        if token in words.QUALITIES:
            quality = token
            continue
        ordered += [token, quality] if quality else [token]
        quality = ""
    return ordered


def pair(source: Source) -> str:
    """Draw a sentence and its translation as the pretraining text shows them."""
    sentence = english(source)
    return f"{sentence} in tavi : {translate(sentence)}"


class Review(NamedTuple):
    """A review without its writer: the clause, which names the split, and a closing remark."""

    clause: str
    end: str
    label: str

    def text(self, name: str = "") -> str:
        """The review, as said by the person of this name if one is given."""
        said = f"{name} says {self.clause}" if name else self.clause
        return f"{said} {self.end}".rstrip()


def review(source: Source, label: str, remarks: float = 0.4) -> Review:
    """Draw a review with this label ("positive" or "negative"), closed by a remark in a share."""
    clause = source.draw(lambda rng: _clause(rng, label))
    ends = words.GOOD_ENDS if label == "positive" else words.BAD_ENDS
    end = source.rng.choice(ends) if source.rng.random() < remarks else ""
    return Review(clause, end, label)


def _clause(rng: random.Random, label: str) -> str:
    good, bad = words.GOOD_WORDS, words.BAD_WORDS
    right, wrong = (good, bad) if label == "positive" else (bad, good)
    first, second = rng.sample(right, 2)
    return rng.choice(CLAUSES).format(
        item=rng.choice(words.ITEMS), right=first, other=second, wrong=rng.choice(wrong)
    )
