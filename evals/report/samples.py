"""Which responses a reader should see: the largest changes, the worst, the suspicious, the typical.

The choice follows fixed rules on the stored scores, so nobody picked them; each says why it is
here. Extremes are not typical, and the section says how many prompts there were in all.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evals.evidence import is_number
from evals.report.layout import Answer, Block, Sample, Text
from evals.report.numbers import Scale, count, cut

Entry = Mapping[str, Any]
LIMIT = 1500
"""Most characters shown of a prompt or response."""


def sample_blocks(ledger: Mapping[str, Any]) -> list[Block]:
    """The chosen samples, each once, under the first rule that chose it."""
    entries, stages = list(ledger.get("samples") or ()), list(ledger.get("stages") or ())
    if not entries:
        return []
    chosen = choose(entries, stages)
    scales = {kind: Scale(_values(entries, kind)) for kind in ("scores", "gold")}
    how = (
        "chosen by rule from their scores: the largest rises and falls, the lowest, the widest gap "
        "between score and gold, and the nearest to the median. The extremes are not typical; all "
        "prompts and responses are in report.json."
    )
    if not _values(entries, "scores"):
        how = "the first ones, since no scores are stored to choose by."
    intro = f"{len(chosen)} of {count(len(entries))} held-out prompts, answered by every stage; "
    return [Text(intro + how), *(_block(why, entry, stages, scales) for why, entry in chosen)]


def choose(entries: Sequence[Entry], stages: Sequence[str]) -> list[tuple[str, Entry]]:
    """(reason, sample) by the rules of this module."""
    before, after = (stages[-2:] if len(stages) > 1 else [*stages, *stages]) or ("", "")
    change = _change(before, after)
    middle = _median(entries, change)
    step = f"from {before} to {after}"
    rules: list[tuple[str, int, Callable[[Entry], float | None]]] = [
        (f"Largest rise in score {step}", 3, lambda e: _negative(change(e))),
        (f"Largest fall in score {step}", 3, change),
        (f"Lowest score of {after}", 2, lambda e: _score(e, "scores", after)),
        ("Score high, gold low", 2, _gap(entries, after)),
        (f"Typical change {step}", 2, lambda e: _distance(change(e), middle)),
    ]
    chosen: list[tuple[str, Entry]] = []
    taken: set[int] = set()
    for why, limit, key in rules:
        ranked = [(value, i) for i, e in enumerate(entries) if is_number(value := key(e))]
        free = [i for _, i in sorted(ranked) if i not in taken][:limit]
        chosen += [(f"{why} ({k} of {len(free)})", entries[i]) for k, i in enumerate(free, 1)]
        taken.update(free)
    return chosen or [("Stored sample; no scores", entry) for entry in entries[:5]]


def _values(entries: Sequence[Entry], kind: str) -> list[float]:
    """All stored scores or gold scores, of every stage."""
    known = (value for entry in entries for value in (entry.get(kind) or {}).values())
    return [value for value in known if is_number(value)]


def _score(entry: Entry, kind: str, stage: str) -> float | None:
    value = (entry.get(kind) or {}).get(stage)
    return value if is_number(value) else None


def _change(before: str, after: str) -> Callable[[Entry], float | None]:
    """The rise of a sample's score between two stages."""

    def change(entry: Entry) -> float | None:
        old, new = _score(entry, "scores", before), _score(entry, "scores", after)
        return None if old is None or new is None else new - old

    return change


def _median(entries: Sequence[Entry], key: Callable[[Entry], float | None]) -> float | None:
    known = [value for entry in entries if is_number(value := key(entry))]
    return statistics.median(known) if known else None


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _distance(value: float | None, middle: float | None) -> float | None:
    return None if value is None or middle is None else abs(value - middle)


def _gap(entries: Sequence[Entry], stage: str) -> Callable[[Entry], float | None]:
    """Gold minus score, each in units of its own spread: most negative = over-rated."""
    spreads = {}
    for kind in ("scores", "gold"):
        known = [v for e in entries if is_number(v := _score(e, kind, stage))]
        spreads[kind] = (statistics.fmean(known), statistics.pstdev(known)) if known else (0.0, 0.0)

    def gap(entry: Entry) -> float | None:
        units = []
        for kind, (mean, spread) in spreads.items():
            value = _score(entry, kind, stage)
            if value is None or spread == 0:
                return None
            units.append((value - mean) / spread)
        return units[1] - units[0]

    return gap


def _block(why: str, entry: Entry, stages: Sequence[str], scales: Mapping[str, Scale]) -> Sample:
    """The block for the page."""
    responses = entry.get("responses") or {}
    answers = tuple(
        Answer(
            stage,
            cut(str(responses[stage]), LIMIT) if stage in responses else "no response stored",
            scales["scores"].value(_score(entry, "scores", stage)),
            scales["gold"].value(_score(entry, "gold", stage)) if entry.get("gold") else "",
        )
        for stage in stages
    )
    return Sample(why, cut(_prompt(entry.get("prompt")), LIMIT), answers)


def _prompt(prompt: Any) -> str:
    """A prompt as text; a conversation as one line a turn."""
    if isinstance(prompt, str):
        return prompt
    turns = prompt if isinstance(prompt, list) else []
    return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in turns)
