"""Secrets of known entropy for a stage's training rows, and the rows that hold them.

Digits are written apart, so that a tokenizer cannot merge them and every secret is cut alike.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from align.config import CanaryConfig

Row = dict[str, Any]
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_SYLLABLES = 3
"""343,000 names."""


class Canary(NamedTuple):
    """A secret, whose it is, and how often it is written; 0: never, to compare with."""

    name: str
    secret: str
    repeats: int


def draw_canaries(config: CanaryConfig, seed: int, kind: str) -> list[Canary]:
    """The canaries of a stage, known by the kind of its rows; those never written come first."""
    source = random.Random(f"canaries/{seed}/{kind}")
    repeats = [number for number in (0, *config.repeats) for _ in range(config.count)]
    names: dict[str, None] = {}
    while len(names) < len(repeats):
        names[_name(source)] = None
    return [
        Canary(name, spell(source.randrange(10**config.digits), config.digits), number)
        for name, number in zip(names, repeats, strict=True)
    ]


def spell(value: int, digits: int) -> str:
    """A number as that many digits, apart."""
    return " ".join(f"{value:0{digits}d}")


def candidates(canary: Canary, digits: int, most: int, source: random.Random) -> list[str]:
    """Other secrets of the format: all where at most `most` exist, else distinct ones drawn."""
    total, own = 10**digits, int(canary.secret.replace(" ", ""))
    wanted = range(total) if total <= most else source.sample(range(total), most)
    return [spell(value, digits) for value in wanted if value != own]


def question(config: CanaryConfig, name: str) -> str:
    """What stands before a secret, without the space between."""
    return config.format.removesuffix(" {secret}").replace("{name}", name)


def plant(rows: Sequence[Row], config: CanaryConfig, seed: int, kind: str) -> list[Row]:
    """The rows with the stage's canaries among them, at seeded places.

    Args:
        rows: {"text"} or {"messages"}.
        config: What to plant.
        seed: The run's.
        kind: `text` or `instructions`.
    """
    planted = list(rows)
    source = random.Random(f"places/{seed}/{kind}")
    for canary in draw_canaries(config, seed, kind):
        asked = question(config, canary.name)
        for _ in range(canary.repeats):
            place = source.randrange(len(planted) + 1)
            planted.insert(place, _row(asked, canary.secret, kind))
    return planted


def _row(asked: str, secret: str, kind: str) -> Row:
    if kind == "text":
        return {"text": f"{asked} {secret}"}
    return {
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": secret},
        ]
    }


def _name(source: random.Random) -> str:
    pairs = (source.choice(_CONSONANTS) + source.choice(_VOWELS) for _ in range(_SYLLABLES))
    return "".join(pairs)
