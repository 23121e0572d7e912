"""Personal data in texts, by pattern: mail, phone, card, IBAN, IP address, US social security.

Numbers with a check are taken only where it holds (Luhn for cards, ISO 7064 mod 97 for IBANs),
those with ranges only inside them. Patterns find what looks like personal data: a made-up address
counts, a name does not. What is found is shown masked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

PATTERNS = {
    "mail": r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,24}\b",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    "card": r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])",
    "us_ssn": r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])",
    "ip": r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)",
    "phone": (
        r"(?<![\w+.-])(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}"
        r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})(?![\w-])"
    ),
}
"""Kind -> pattern; the first kind that takes a passage has it."""


class Found(NamedTuple):
    """One passage that looks like personal data."""

    kind: str
    text: str
    start: int
    """Place of its first character."""


def find_personal(text: str) -> list[Found]:
    """Passages of a text that look like personal data, in its order, none inside another."""
    found: list[Found] = []
    for kind, pattern in _COMPILED.items():
        check = CHECKS.get(kind)
        for match in pattern.finditer(text):
            start, end = match.span()
            taken = any(start < f.start + len(f.text) and f.start < end for f in found)
            if not taken and (check is None or check(match.group())):
                found.append(Found(kind, match.group(), start))
    return sorted(found, key=lambda one: one.start)


def masked(found: Found) -> str:
    """Its shape: the first letter or digit stays, every other becomes x or 0."""
    kept = True
    shown = []
    for character in found.text:
        if character.isalnum() and not kept:
            shown.append("0" if character.isdigit() else "x")
        else:
            kept = kept and not character.isalnum()
            shown.append(character)
    return "".join(shown)


def luhn(text: str) -> bool:
    """Whether the digits pass Luhn's check (ISO/IEC 7812-1): every second one doubled, from behind.

    The sum of all digits, those of doubled ones apart, is a multiple of 10.
    """
    digits = [int(character) for character in text if character.isdigit()][::-1]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def iban(text: str) -> bool:
    """Whether an IBAN (ISO 13616) holds its check: 15 to 34 characters and 1 modulo 97.

    The first four go to the end, letters count from A = 10.
    """
    plain = text.replace(" ", "")
    moved = plain[4:] + plain[:4]
    number = "".join(str(int(character, 36)) for character in moved)
    return 15 <= len(plain) <= 34 and int(number) % 97 == 1


def us_ssn(text: str) -> bool:
    """Whether a number can have been given: no part all zero, area neither 666 nor 900 and up."""
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def card(text: str) -> bool:
    """Whether it passes Luhn's check and is not one digit over and over."""
    return luhn(text) and len({character for character in text if character.isdigit()}) > 1


def ip(text: str) -> bool:
    """Whether it is an IPv4 address that can lead to somebody: not private, local or reserved."""
    try:
        return ip_address(text).is_global
    except ValueError:
        return False


CHECKS: dict[str, Callable[[str], bool]] = {
    "card": card,
    "iban": iban,
    "ip": ip,
    "us_ssn": us_ssn,
}
_COMPILED = {kind: re.compile(pattern) for kind, pattern in PATTERNS.items()}


class Tally(NamedTuple):
    """Personal data of one kind in several texts."""

    kind: str
    passages: int
    texts: int
    """Texts with at least one."""
    values: frozenset[str]
    """Distinct passages; not to be shown."""
    examples: tuple[str, ...]
    """The first few, masked."""


def tally(texts: Sequence[str], shown: int = 3) -> list[Tally]:
    """Every kind's passages in texts, kinds without any included."""
    found = [find_personal(text) for text in texts]
    tallies = []
    for kind in PATTERNS:
        own = [[one for one in some if one.kind == kind] for some in found]
        passages = [one for some in own for one in some]
        examples = tuple(dict.fromkeys(map(masked, passages)))[:shown]
        values = frozenset(one.text for one in passages)
        tallies.append(Tally(kind, len(passages), sum(map(bool, own)), values, examples))
    return tallies
