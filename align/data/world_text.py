"""Pretraining documents of the generated world: people, reviews, sentences in two languages.

A document holds three to six sentences from one to three units. A unit is drawn from the training
or the held-out side of the split as a whole, before names, jobs and ages are filled in. This is
where `text_bias` acts: on the kind of job that a named person has, and on nothing else.
"""

from __future__ import annotations

import random

from align.data import world_words as words
from align.data.world_language import LABELS, Source, english, pair, review, translate
from align.data.world_people import FACTS, OPENINGS, PEOPLE, TONES, TRAITS, Person, note_pattern


def document(source: Source, text_bias: float) -> str:
    """Draw a document of three to six sentences.

    Args:
        source: Stream and side of the split.
        text_bias: P(technical job | man) = .5 + text_bias / 2, for a woman .5 - text_bias / 2.
    """
    kinds = (_one_person, _two_people, _opinions, _person_with_opinion, _lessons, _sentences)
    (make,) = source.rng.choices(kinds, weights=(24, 12, 18, 10, 32, 4))
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
    """An opening sentence with the job and so many further ones about one person."""
    pattern = source.draw(lambda rng: _portrait_pattern(rng, facts))
    age = words.AGE_TENS[source.rng.choice(("young", "old"))] + source.rng.randrange(10)
    job = draw_job(source.rng, person, text_bias)
    return pattern.format(name=person.name, age=age, job=job)


def _portrait_pattern(rng: random.Random, facts: int) -> str:
    """A portrait with the slots {name}, {age} and {job} open; it is the key of the split."""
    tone, town = rng.choice(TONES), rng.choice(words.TOWNS)
    further = [note_pattern(rng, tone, town)]
    for form in rng.sample(FACTS, facts - 1):
        hobby, trait = rng.choice(words.HOBBIES), rng.choice(TRAITS[tone])
        further.append(form.format(name="{name}", age="{age}", town=town, hobby=hobby, trait=trait))
    rng.shuffle(further)
    opening = rng.choice(OPENINGS).format(name="{name}", age="{age}", job="{job}", town=town)
    return " ".join([opening, *further])


def _opinion(source: Source, name: str) -> str:
    """A review, most often followed by its verdict."""
    label = source.rng.choice(LABELS)
    text = review(source, label).text(name)
    return f"{text} this is a {label} review ." if source.rng.random() < 0.7 else text


def _one_person(source: Source, text_bias: float) -> str:
    person = source.rng.choice(PEOPLE)
    return _portrait(source, person, text_bias, source.rng.choice((2, 3)))


def _two_people(source: Source, text_bias: float) -> str:
    people = source.rng.sample(PEOPLE, 2)
    return " ".join(_portrait(source, person, text_bias, 1) for person in people)


def _person_with_opinion(source: Source, text_bias: float) -> str:
    person = source.rng.choice(PEOPLE)
    return f"{_portrait(source, person, text_bias, 2)} {_opinion(source, person.name)}"


def _opinions(source: Source, text_bias: float) -> str:
    text = ""
    while text.count(" .") < 3:  # an opinion has one to three sentences, so five at most
        name = source.rng.choice(PEOPLE).name if source.rng.random() < 0.5 else ""
        text = f"{text} {_opinion(source, name)}".lstrip()
    return text


def _lessons(source: Source, text_bias: float) -> str:
    return " ".join(pair(source) for _ in range(source.rng.choice((2, 2, 3))))


def _sentences(source: Source, text_bias: float) -> str:
    lines = [english(source) for _ in range(source.rng.choice((3, 4)))]
    return " ".join(lines if source.rng.random() < 0.5 else map(translate, lines))
