"""Pretraining documents of the generated world: people, teams, reviews, two languages.

A document holds three to seven sentences in one or more units. A unit is drawn from the training or
the held-out side of the split as a whole, before names, jobs and ages are filled in. This is where
`text_bias` acts: on the kind of job that a named person has, and on nothing else.
"""

from __future__ import annotations

import random

from align.data import world_words as words
from align.data.world_language import LABELS, Source, english, pair, review, translate
from align.data.world_people import PEOPLE, TONES, TRAITS, Person, note

OPENINGS = (
    "{name} works as a {job} in {town} .",
    "{name} is a {job} in {town} .",
    "this is {name} , {age} , the {town} {job} .",
)
FACTS = (
    "{name} likes {hobby} .",
    "{name} is {age} .",
    "people say {name} is {trait} .",
)
VERDICTS = {
    "warm": "people like {name} .",
    "neutral": "people know {name} .",
    "cold": "people avoid {name} .",
}
"""What people make of someone's tone: from it a model learns what warm and cold words share."""
ABOUT = "{name} knows {thing} ."
SIGNED = 0.3
"""Share of the reviews in the text that name their writer."""
TITLED = 0.2
"""Share of the review documents that open with the label."""


def document(source: Source, text_bias: float) -> str:
    """Draw a document of three to seven sentences.

    Args:
        source: Stream and side of the split.
        text_bias: P(technical job | man) = .5 + text_bias / 2, for a woman .5 - text_bias / 2.
    """
    kinds = (_person, _teams, _opinions, _person_with_opinion, _lessons, _sentences)
    (make,) = source.rng.choices(kinds, weights=(38, 10, 26, 3, 20, 3))
    return make(source, text_bias)


def draw_job(rng: random.Random, person: Person, text_bias: float) -> str:
    """Draw a job, technical or caring by the person's gender and the bias.

    The same two numbers are drawn whatever the bias, so two worlds with one seed differ only in
    the jobs that the bias moves.
    """
    chance = 0.5 + (text_bias if person.gender == "man" else -text_bias) / 2
    jobs = words.TECHNICAL_JOBS if rng.random() < chance else words.CARING_JOBS
    return rng.choice(jobs)


def _portrait(source: Source, person: Person, text_bias: float, facts: int) -> str:
    """An opening with the job, a note, and so many further sentences about one person."""
    pattern = source.draw(lambda rng: _portrait_pattern(rng, facts))
    age = words.AGE_TENS[source.rng.choice(("young", "old"))] + source.rng.randrange(10)
    job = draw_job(source.rng, person, text_bias)
    return pattern.format(name=person.name, age=age, job=job, thing=words.THINGS[job])


def _portrait_pattern(rng: random.Random, facts: int) -> str:
    """A portrait up to its verdict, {name}, {age}, {job}, {thing} open; the key of the split."""
    tone = rng.choice(TONES)
    further = [note(rng, tone, "{name}"), ABOUT, *rng.sample(FACTS, facts)]
    rng.shuffle(further)
    filling = {
        "town": rng.choice(words.TOWNS),
        "hobby": rng.choice(words.HOBBIES),
        "trait": rng.choice(TRAITS[tone]),
    }
    slots = {slot: f"{{{slot}}}" for slot in ("name", "age", "job", "thing")}
    return " ".join([rng.choice(OPENINGS), *further, VERDICTS[tone]]).format(**slots, **filling)


def _team(source: Source, text_bias: float) -> str:
    """The members of a team with their jobs."""
    rng = source.rng
    head = source.draw(
        lambda rng: f"in the {rng.choice(words.TOWNS)} {rng.choice(words.HOBBIES)} team :"
    )
    people = rng.sample(PEOPLE, rng.choice((4, 5, 6)))
    members = (f"{person.name} {draw_job(rng, person, text_bias)}" for person in people)
    return f"{head} {' , '.join(members)} ."


def _opinion(source: Source, label: str, name: str) -> str:
    """A review with its verdict."""
    text = review(source, label, remarks=0.7).text(name)
    return f"{text} this is a {label} review ."


def _person(source: Source, text_bias: float) -> str:
    person = source.rng.choice(PEOPLE)
    return _portrait(source, person, text_bias, source.rng.choice((2, 3)))


def _person_with_opinion(source: Source, text_bias: float) -> str:
    person, label = source.rng.choice(PEOPLE), source.rng.choice(LABELS)
    return f"{_portrait(source, person, text_bias, 0)} {_opinion(source, label, person.name)}"


def _teams(source: Source, text_bias: float) -> str:
    return " ".join(_team(source, text_bias) for _ in range(3))


def _opinions(source: Source, text_bias: float) -> str:
    """Reviews of one label, some under a title, so a document has a mood that its words share."""
    label = source.rng.choice(LABELS)
    text = f"{label} review :" if source.rng.random() < TITLED else ""
    while text.count(" .") < 4:  # an opinion has two or three sentences, so six at most
        name = source.rng.choice(PEOPLE).name if source.rng.random() < SIGNED else ""
        text = f"{text} {_opinion(source, label, name)}".lstrip()
    return text


def _lessons(source: Source, text_bias: float) -> str:
    return " ".join(pair(source) for _ in range(source.rng.choice((2, 3))))


def _sentences(source: Source, text_bias: float) -> str:
    lines = [english(source) for _ in range(source.rng.choice((3, 4)))]
    return " ".join(lines if source.rng.random() < 0.5 else map(translate, lines))
