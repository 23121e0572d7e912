"""Perturbations of a question that keep its meaning, seeded by the item's content.

Only texts of the row that the question alone reads are changed: never choices, targets or the
template's words. Typos, case and spacing follow TextFlint (2103.11441) and NL-Augmenter
(2112.02721), contractions and names CheckList (2005.04118); none of these has a small maintained
package. A name that stands elsewhere in the row (in a choice) or as part of a longer name, which
may be a known person's, is kept.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from align.files import json_hash
from evals.perturb_words import KEYS, NAMES, NEGATED, SHORT

TYPO_RATE = 0.05
"""Share of letters that become a neighbour on the keyboard."""
SPACING_RATE = 0.2
"""Share of single spaces that are doubled."""

_GROUPS = {name.lower(): names for names in NAMES.values() for name in names}
_NAME = re.compile(rf"\b(?:{'|'.join(_GROUPS)})\b", re.IGNORECASE)
_MARK = "['\N{RIGHT SINGLE QUOTATION MARK}]"
_VERBS = "|".join(full for full in NEGATED.values() if full != "can")
_CONTRACTION = re.compile(
    # Before a pronoun the verb is inverted ("isn't it"), and cannot be written out in place.
    rf"\b(?P<verb>{'|'.join(NEGATED)}) ?n{_MARK}t\b"
    r"(?! (?:i|you|he|she|it|we|they|this|that|there)\b)"
    rf"|\b(?P<who>i|you|we|they|he|she|it) ?{_MARK}(?P<short>{'|'.join(SHORT)})\b"
    rf"|\b(?P<can>can) ?not\b|\b(?P<full>{_VERBS}) not\b",
    re.IGNORECASE,
)
_CONTRACTED = {full: short for short, full in NEGATED.items()}


def perturbed(row: Mapping[str, Any], columns: Iterable[str], kind: str) -> dict[str, str]:
    """The row's texts in `columns`, perturbed; other values are left out.

    Args:
        row: The item; its content is the seed.
        columns: Columns that only the question reads.
        kind: typos, case, spacing, contractions or names.
    """
    texts = {name: row[name] for name in columns if isinstance(row.get(name), str)}
    chooser = random.Random(f"{kind}:{json_hash(row)}")
    if kind == "names":
        others = _NAME.findall(str([value for name, value in row.items() if name not in texts]))
        swaps = name_swaps(" \n".join(texts.values()), others, chooser)
        return {name: swap_names(text, swaps) for name, text in texts.items()}
    return {name: CHANGES[kind](text, chooser) for name, text in texts.items()}


def typos(text: str, chooser: random.Random) -> str:
    """Letters a-z become a neighbour on the keyboard, each with chance `TYPO_RATE`."""
    return "".join(
        _like(chooser.choice(KEYS[letter.lower()]), letter)
        if letter.lower() in KEYS and chooser.random() < TYPO_RATE
        else letter
        for letter in text
    )


def case(text: str, _: random.Random) -> str:
    """All capitals."""
    return text.upper()


def spacing(text: str, chooser: random.Random) -> str:
    """Single spaces inside a line are doubled, each with chance `SPACING_RATE`."""
    return re.sub(
        r"(?<=\S) (?=\S)", lambda _: "  " if chooser.random() < SPACING_RATE else " ", text
    )


def contractions(text: str, _: random.Random) -> str:
    """Every contraction is written out, and every written-out negation is contracted."""
    return _CONTRACTION.sub(_turned, text)


def _turned(match: re.Match[str]) -> str:
    """The other form of what was found, in its case."""
    verb, who, can, full = match.group("verb", "who", "can", "full")
    if verb is not None:
        written = _like(NEGATED[verb.lower()], verb)
        gap = "" if written.lower() == "can" else " "
        return written + gap + _like("not", match[0][-2:])
    if who is not None:
        return f"{who} {_like(SHORT[match['short'].lower()], match[0][-2:])}"
    stem = _like(_CONTRACTED[(can or full).lower()], can or full)
    return stem + _like("n't", match[0][-2:])


def name_swaps(text: str, kept: Iterable[str], chooser: random.Random) -> dict[str, str]:
    """Name in lower case -> another of its group that is not in the text; different ones differ."""
    found = list(dict.fromkeys(name.lower() for name in _NAME.findall(text)))
    taken = {*found, *(name.lower() for name in kept)}
    swaps: dict[str, str] = {}
    for name in found:
        free = [other for other in _GROUPS[name] if other.lower() not in taken]
        if name in {one.lower() for one in kept} or _in_longer_name(name, text) or not free:
            continue
        swaps[name] = chooser.choice(free)
        taken.add(swaps[name].lower())
    return swaps


def _in_longer_name(name: str, text: str) -> bool:
    """Whether the name stands beside another capitalised word inside a sentence."""
    own = name.title()
    return bool(re.search(rf"\b{own} [A-Z]|[a-z,;] [A-Z]\w* {own}\b", text))


def swap_names(text: str, swaps: Mapping[str, str]) -> str:
    """The text with names exchanged, each in the case it is written in."""
    return _NAME.sub(lambda match: _like(swaps.get(match[0].lower(), match[0]), match[0]), text)


def _like(word: str, model: str) -> str:
    """A word in the case of another: small, Capitalised or ALL CAPITALS."""
    if model.isupper() and (len(model) > 1 or len(word) == 1):
        return word.upper()
    return word.capitalize() if model[:1].isupper() else word.lower()


CHANGES: Mapping[str, Callable[[str, random.Random], str]] = {
    "typos": typos,
    "case": case,
    "spacing": spacing,
    "contractions": contractions,
}
