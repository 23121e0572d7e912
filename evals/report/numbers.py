"""Numbers as a reader wants them: three significant digits, one scale for a value and its interval.

A value, its interval and its differences share their decimals, set by the largest of them, so that
columns line up. Proportions are shown in percent and their differences in percentage points (pp).
Nothing here rounds what is stored: the report's JSON and the `value` attributes in its HTML keep
every digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from evals.evidence import is_number

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EM DASH}"
_PROPORTIONS = frozenset(
    ["acc", "accuracy", "em", "f1", "finished", "match", "mc2", "precision", "rate", "recall"]
) | {"refusal", "share"}
"""Words that, as a part of a metric's name, say that it is a proportion."""


def finite(value: object) -> float | None:
    """`value` if it is a finite number, else None."""
    return value if is_number(value) else None


def is_proportion(metric: str, values: Iterable[float | None] = ()) -> bool:
    """Whether a metric is shown in percent: by the words of its name, and all values in [-1, 1]."""
    words = metric.lower().replace("-", "_").replace(",", "_").split("_")
    named = not _PROPORTIONS.isdisjoint(words)
    return named and all(value is None or abs(value) <= 1 for value in values)


def decimals(values: Iterable[float | None]) -> int:
    """Places after the point that give the largest of `values` three significant digits."""
    known = [abs(value) for value in values if is_number(value)]
    top = max(known, default=0.0)
    if top == 0:
        return 2
    return min(6, max(0, 2 - math.floor(math.log10(top))))


def number(value: float | None, places: int | None = None, *, sign: str = "") -> str:
    """`value` with thousands separators and a true minus; a dash where there is none.

    Args:
        value: The number; None or not finite gives a dash.
        places: Places after the point; default: three significant digits.
        sign: "+" to show the sign of positive numbers too.
    """
    if not is_number(value):
        return NONE
    if places is None and 0 < abs(value) < 1e-4:
        mantissa, exponent = f"{value:{sign}.2e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    text = f"{value:{sign},.{decimals([value]) if places is None else places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


class Scale:
    """How the numbers of one metric are written: percent or plain, and with how many places."""

    def __init__(self, values: Iterable[float | None], *, percent: bool = False) -> None:
        self.percent = percent
        self.places = 1 if percent else decimals(values)

    def value(self, value: float | None) -> str:
        """A level, such as `81.3%` or `0.126`."""
        return self._text(value, "", "%")

    def difference(self, value: float | None) -> str:
        """A signed difference, such as `+3.1 pp`."""
        return self._text(value, "+", " pp")

    def interval(self, low: float | None, high: float | None) -> str:
        """The two ends in brackets, without the unit; empty where there is no interval."""
        if not (is_number(low) and is_number(high)):
            return ""
        return f"[{self._text(low, '', '')}, {self._text(high, '', '')}]"

    def _text(self, value: float | None, sign: str, unit: str) -> str:
        if not is_number(value):
            return NONE
        scaled = 100 * value if self.percent else value
        return number(scaled, self.places, sign=sign) + (unit if self.percent else "")


def p_value(p: float | None) -> str:
    """`p = .032`, `p < .001`; empty where there is none."""
    if not is_number(p):
        return ""
    if p < 0.001:
        return "p < .001"
    return f"p = {p:.3f}".replace("= 0.", "= .") if p < 0.9995 else "p = 1"


def tested(p: float | None, q: float | None) -> str:
    """A p-value and its adjusted form, as far as they are there."""
    adjusted = p_value(q)
    return ", ".join(part for part in (p_value(p), adjusted and f"q{adjusted[1:]}") if part)


def least_p(test: str | None, units: int | None) -> str:
    """Why p stays above .05 whatever the change: few units have few permutations; else empty."""
    if units is None or not 0 < units <= 5 or "permutation" not in (test or ""):
        return ""
    return f"p of {units} units is at least {2 ** (1 - units):.3f}".replace("0.", ".")


def count(n: float | None) -> str:
    """A whole number with thousands separators."""
    return f"{round(n):,}" if is_number(n) else NONE


def size(n: float | None) -> str:
    """Bytes in the largest fitting unit of 1,000."""
    if not is_number(n):
        return NONE
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= factor:
            return f"{n / factor:.3g} {unit}"
    return f"{n:.0f} B"


def duration(seconds: float | None) -> str:
    """Seconds as `8.4 s`, `12 min 5 s` or `3 h 2 min`."""
    if not is_number(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def cut(text: str, limit: int) -> str:
    """`text` with at most `limit` characters, saying how many more there are."""
    rest = len(text) - limit
    return text if rest <= 0 else f"{text[:limit]} [... {rest:,} more characters in report.json]"
