"""Word lists of the perturbations: keys beside keys, contracted verbs, first names by group."""

from __future__ import annotations

from collections.abc import Mapping

from align.data.world_words import NAMES as WORLD_NAMES

KEYS: Mapping[str, str] = {
    "q": "wa",
    "w": "qeas",
    "e": "wrsd",
    "r": "etdf",
    "t": "ryfg",
    "y": "tugh",
    "u": "yihj",
    "i": "uojk",
    "o": "ipkl",
    "p": "ol",
    "a": "qwsz",
    "s": "weadzx",
    "d": "ersfxc",
    "f": "rtdgcv",
    "g": "tyfhvb",
    "h": "yugjbn",
    "j": "uihknm",
    "k": "iojlm",
    "l": "opk",
    "z": "asx",
    "x": "sdzc",
    "c": "dfxv",
    "v": "fgcb",
    "b": "ghvn",
    "n": "hjbm",
    "m": "jkn",
}
"""Letter -> the letters that touch it on a US keyboard."""

_REGULAR = "are could did do does had has have is must need should was were would"
NEGATED: Mapping[str, str] = {"ca": "can", "wo": "will", "sha": "shall"} | {
    verb: verb for verb in _REGULAR.split()
}
"""Verb as it stands before n't -> as it stands before not."""
SHORT: Mapping[str, str] = {"m": "am", "re": "are", "ve": "have", "ll": "will"}
"""After an apostrophe -> in full. 's and 'd have two readings and stay."""

_MEN = (
    "James Robert John Michael David William Richard Joseph Thomas Charles Daniel Matthew Anthony "
    "Steven Andrew Joshua Kenneth Timothy Jason Ryan Jacob Nicholas Jonathan Stephen Justin "
    "Benjamin Samuel Gregory Patrick Nathan Peter Henry Simon Brian Keith Kevin"
)
_WOMEN = (
    "Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Sandra "
    "Margaret Emily Michelle Amanda Melissa Deborah Stephanie Rebecca Laura Kathleen Amy Angela "
    "Anna Nicole Samantha Katherine Rachel Janet Julie Hannah Alice Helen Megan Wendy"
)
NAMES: Mapping[tuple[str, str], tuple[str, ...]] = {
    **{group: tuple(name.title() for name in names) for group, names in WORLD_NAMES.items()},
    ("man", "english"): tuple(_MEN.split()),
    ("woman", "english"): tuple(_WOMEN.split()),
}
"""(gender, origin) -> first names that are no common words, places or titles: the generated world's
and frequent ones of the USA."""
