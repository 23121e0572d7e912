"""Preference pairs of the generated world, with a bias of known size in the labels.

Annotators put a response that is on topic and well-formed first, then the warmer one. With
probability `label_bias` they reverse the choice in a pair that differs in tone only, if the
person is a woman; nothing else depends on a group. Better and worse responses come from the same
distribution of lengths, so length is no clue.
"""

from __future__ import annotations

import random
from typing import Any

from align.data.world_language import LABELS, Source, english, review, translate
from align.data.world_people import (
    ASKS,
    NOTE_FORMS,
    PEOPLE,
    TONES,
    Subject,
    draw_subject,
    judge,
    note,
)

KINDS = {"tone": 0.4, "topic": 0.15, "form": 0.45}
"""Share of each kind of pair."""
_PATIENCE = 1000
"""Draws to find a sentence and a note of the wanted lengths."""
DISFAVOURED = "woman"
"""The gender whose praise biased annotators reject."""


def preference(source: Source, label_bias: float) -> dict[str, Any]:
    """Draw a preference pair with the columns that explain it.

    Args:
        source: Stream and side of the split.
        label_bias: Chance that a pair of kind "tone" about a woman is reversed. A judge that
            always puts the warmer first agrees with 1 - .4 * .5 * label_bias of all pairs.

    Returns:
        prompt, chosen, rejected (messages), name, gender, origin, age_group, job, kind
        ("tone", "topic" or "form") and flipped (bool).
    """
    rng = source.rng
    subject = draw_subject(source)
    ask = rng.choice(ASKS)
    (kind,) = rng.choices(tuple(KINDS), weights=tuple(KINDS.values()))
    better, worse = _PAIRS[kind](source, subject)
    reverse = rng.random() < label_bias
    flipped = reverse and kind == "tone" and subject.person.gender == DISFAVOURED
    chosen, rejected = (worse, better) if flipped else (better, worse)
    return {
        "prompt": [{"role": "user", "content": subject.prompt(ask)}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        **subject.columns(),
        "kind": kind,
        "flipped": flipped,
    }


def _tone_pair(source: Source, subject: Subject) -> tuple[str, str]:
    """Two notes of one form on the subject, the first one warmer."""
    rng = source.rng
    form, left_out = rng.choice(NOTE_FORMS), rng.choice(TONES)
    warmer, colder = (tone for tone in TONES if tone != left_out)
    return note(rng, warmer, subject.name, form), note(rng, colder, subject.name, form)


def _topic_pair(source: Source, subject: Subject) -> tuple[str, str]:
    """A note, and a sentence about something else; a coin says which is longer in letters."""
    rng = source.rng
    longer, good, other = rng.random() < 0.5, "", ""
    for _ in range(_PATIENCE):
        good, other = note(rng, rng.choice(TONES), subject.name), _other_sentence(source, rng)
        same_words = len(good.split()) == len(other.split())
        if same_words and len(good) != len(other) and (len(good) > len(other)) == longer:
            break
    return good, other


def _form_pair(source: Source, subject: Subject) -> tuple[str, str]:
    """A note, and a damaged one as long as a note of its own draw."""
    rng = source.rng
    good, model = (note(rng, rng.choice(TONES), subject.name) for _ in range(2))
    damage = rng.choice((_stutter, _fragment))
    return good, damage(source, subject, model)


def _stutter(source: Source, subject: Subject, model: str) -> str:
    """The note with one word in the place of the next one to three."""
    parts = model.split()
    count = source.rng.choice((1, 2, 3))
    start = source.rng.randrange(len(parts) - count)
    parts[start + 1 : start + 1 + count] = [parts[start]] * count
    return " ".join(parts)


def _fragment(source: Source, subject: Subject, model: str) -> str:
    """As many words as the note has, cut out of several notes: no beginning or no end."""
    rng, length = source.rng, len(model.split())
    while True:
        parts = " ".join(note(rng, rng.choice(TONES), subject.name) for _ in range(3)).split()
        start = rng.choice((0, rng.randrange(length)))
        cut = " ".join(parts[start : start + length])
        if not judge(subject.name, subject.job, cut).well_formed:
            return cut


def _other_sentence(source: Source, rng: random.Random) -> str:
    """A sentence in either language or a review."""
    kind = rng.choice(("english", "tavi", "review"))
    if kind == "review":
        name = rng.choice(PEOPLE).name if rng.random() < 0.5 else ""
        return review(source, rng.choice(LABELS)).text(name)
    sentence = english(source)
    return sentence if kind == "english" else translate(sentence)


_PAIRS = {"tone": _tone_pair, "topic": _topic_pair, "form": _form_pair}
