"""Items made from our own templates: the whole population, and a seeded sample of it.

A contrast compares a group with the first group of its attribute, or two terms of a neutral control
in both orders, so that its mean over the population is exactly 0 for any model. The population of a
contrast is every template with every pair of terms. A sample draws templates without replacement,
the same ones for all contrasts, and one pair of terms for each: every item is equally likely, and
the template is the cluster that carries all of the sampling, so a t interval over the sampled
templates speaks of the whole population (Cochran 1977, ch. 9 and 10, without the finite population
correction: conservative by sqrt(1 - sampled share)).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from align.errors import UserError
from evals.bias.effects import Contrast
from evals.bias.template_frames import FRAMES, SOMEBODY, TOPICS, Frame
from evals.bias.template_terms import ATTRIBUTES, Attribute, Term

IDENTITY = "identity"
"""Name of the task that asks them."""
SAMPLE = 24
"""Templates drawn for each measure."""
PLACES = tuple(FRAMES)


class Template(NamedTuple):
    """A frame about a topic."""

    place: str
    """Where the group is named: the items' measure."""
    number: int
    topic: str

    @property
    def frame(self) -> Frame:
        """Its sentences."""
        return FRAMES[self.place][self.number]

    @property
    def name(self) -> str:
        """Its name, the cluster of its items."""
        return f"{self.place} {self.number:02d}: {self.topic}"

    def texts(self, attribute: Attribute | None, term: Term | None) -> tuple[str, str, str]:
        """Prompt, preferred and dispreferred answer with the person that the term stands for."""
        who, lead = SOMEBODY, ""
        if attribute is not None and term is not None:
            if attribute.person is None:
                lead = f"{term.text} "
            else:
                who = attribute.person.format(term.text)
        words = {"who": who, "Who": who[0].upper() + who[1:], "topic": self.topic}
        prompt, good, bad = (text.format(**words) for text in self.frame)
        if self.place == "in prompt":
            return lead + prompt, good, bad
        return prompt, lead + good, lead + bad


def templates(place: str) -> list[Template]:
    """All templates that name the group at `place`."""
    pairs = product(range(len(FRAMES[place])), TOPICS)
    return [Template(place, number, topic) for number, topic in pairs]


def contrasts(attribute: Attribute, place: str) -> list[Contrast]:
    """What an attribute compares: every further group with the first, or a control with itself."""
    first, *others = attribute.groups
    return [
        Contrast(place, attribute.name, group, first, attribute.control)
        for group in (others or [first])
    ]


def term_pairs(attribute: Attribute, contrast: Contrast) -> list[tuple[Term, Term]]:
    """All pairs of terms of a contrast; of a control each pair in both orders."""
    ours, theirs = attribute.groups[contrast.group_a], attribute.groups[contrast.group_b]
    pairs = ((a, b) for a, b in product(ours, theirs) if a.match == b.match)
    return [(a, b) for a, b in pairs if a.text != b.text]


def population(attribute: Attribute, contrast: Contrast) -> Iterator[dict[str, Any]]:
    """Every item of a contrast."""
    for template in templates(contrast.measure):
        for a, b in term_pairs(attribute, contrast):
            yield _item(template, attribute, contrast, a, b)


def population_sizes() -> dict[str, dict[str, int]]:
    """Attribute -> templates of a measure, pairs of terms of all its contrasts, items."""
    sizes = {}
    for attribute in ATTRIBUTES:
        found = contrasts(attribute, PLACES[0])
        pairs = sum(len(term_pairs(attribute, contrast)) for contrast in found)
        count = len(templates(PLACES[0]))
        sizes[attribute.name] = {"templates": count, "pairs": pairs, "items": count * pairs}
    return sizes


def drawn_templates(place: str, sample: int, seed: int) -> list[Template]:
    """Templates of a sample, without replacement.

    Raises:
        UserError: The sample is smaller than 2 or larger than the population.
    """
    every = templates(place)
    if not 2 <= sample <= len(every):
        raise UserError(
            f"a sample of {sample} templates", where="sample", allowed=f"2 to {len(every)}"
        )
    return random.Random(f"{seed}/{place}").sample(every, sample)


def sample_items(
    sample: int = SAMPLE, seed: int = 0, attributes: tuple[Attribute, ...] = ATTRIBUTES
) -> list[dict[str, Any]]:
    """One item a contrast and drawn template, in the counterfactual format.

    Contrasts of one attribute share the drawn term of its first group.

    Raises:
        UserError: See `drawn_templates`.
    """
    rows = []
    for place, attribute in product(PLACES, attributes):
        rng = random.Random(f"{seed}/{place}/{attribute.name}")
        found = contrasts(attribute, place)
        for template in drawn_templates(place, sample, seed):
            b = rng.choice(attribute.groups[found[0].group_b])
            for contrast in found:
                partners = attribute.groups[contrast.group_a]
                a = rng.choice([t for t in partners if t.match == b.match and t.text != b.text])
                rows.append(_item(template, attribute, contrast, a, b))
    return rows


def _item(
    template: Template, attribute: Attribute, contrast: Contrast, a: Term, b: Term
) -> dict[str, Any]:
    """One row: the template with either term."""
    row: dict[str, Any] = contrast._asdict()
    row |= {"template": template.name, "cluster": template.name, "render": "chat"}
    for letter, term in (("a", a), ("b", b)):
        row[f"term_{letter}"] = term.text
        texts = template.texts(attribute, term)
        keys = (f"{key}_{letter}" for key in ("prompt", "preferred", "dispreferred"))
        row |= zip(keys, texts, strict=True)
    return row
