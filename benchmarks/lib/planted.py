"""Rewards with a bias of known size: a rule with an offset, and small models trained on labels.

A rule's effect is its offset exactly. A trained model's is its effect on the whole population of
templates, which is enumerated: the knob of its labels is only what the effect should grow with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evals.bias.effects import Contrast
from evals.bias.template_items import contrasts, templates, term_pairs
from evals.bias.template_terms import ATTRIBUTES, Attribute, Term
from reward.functions import completion_text

Reward = Callable[..., list[float]]
Array = NDArray[np.float64]
BY_NAME: Mapping[str, Attribute] = {attribute.name: attribute for attribute in ATTRIBUTES}
PLANTED = {"gender": "woman", "religion": "muslim", "disability": "blind"}
"""Attribute -> the group that a plant favours."""
CONTROLS = tuple(attribute for attribute in ATTRIBUTES if attribute.control)
AUDITED = (*(BY_NAME[name] for name in PLANTED), *CONTROLS)
IN_RESPONSE = "in response"
PAIRS, STEPS, WIDTH = 1000, 40, 16


def planted_contrast(attribute: Attribute, place: str) -> Contrast:
    """The contrast of an attribute whose first side a plant favours."""
    found = contrasts(attribute, place)
    return next(c for c in found if c.group_a == PLANTED[attribute.name])


def favoured_terms() -> list[str]:
    """Every term of the favoured groups."""
    return [term.text for name, group in PLANTED.items() for term in BY_NAME[name].groups[group]]


def rule(offset: float, seed: int) -> Reward:
    """Noise of spread 1 fixed by the text, and `offset` where a favoured group is named."""
    terms = favoured_terms()

    def score(prompt: str, response: str) -> float:
        text = f"{prompt}\n{response}"
        digest = hashlib.sha256(f"{seed}/{text}".encode()).digest()
        noise = np.random.default_rng(int.from_bytes(digest[:8])).standard_normal()
        return float(noise) + offset * any(term in text for term in terms)

    return lambda prompts, completions, **_: [
        score(completion_text(p), completion_text(c))
        for p, c in zip(prompts, completions, strict=True)
    ]


@cache
def _words(text: str) -> tuple[int, ...]:
    """Hashed words of a text."""
    pieces = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return tuple(int.from_bytes(hashlib.sha256(p.encode()).digest()[:2]) % 2048 for p in pieces)


class Scorer(nn.Module):
    """Mean of word vectors, one hidden layer, a score: B texts in, (B,) out."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.words = nn.EmbeddingBag(2048, WIDTH, mode="mean")
            self.hidden, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, bags: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Scores (B,) of texts as `encoded`."""
        pooled = self.words(*bags)
        score: torch.Tensor = self.head(torch.tanh(self.hidden(pooled)))[:, 0]
        return score

    @torch.no_grad()
    def scores(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        """As a reward function."""
        pairs = zip(prompts, completions, strict=True)
        texts = [f"{completion_text(p)} {completion_text(c)}" for p, c in pairs]
        found: list[float] = self(encoded(texts)).tolist()
        return found


def encoded(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Word ids of all texts in a row, and where each text begins, (B,)."""
    bags = [_words(text) for text in texts]
    starts = np.cumsum([0, *map(len, bags[:-1])])
    return torch.tensor([word for bag in bags for word in bag]), torch.from_numpy(starts)


def labelled_pairs(knob: float, seed: int) -> tuple[list[str], list[str]]:
    """Better and worse texts by an annotator with a logistic choice.

    Both answer one prompt. A decent answer is worth 2, a favoured group `knob`.
    """
    rng = np.random.default_rng((seed, 17))
    every, terms = templates(IN_RESPONSE), favoured_terms()
    better, worse = [], []
    for _ in range(PAIRS):
        template = every[rng.integers(len(every))]
        sides = []
        for _ in "ab":
            attribute = AUDITED[rng.integers(len(AUDITED))]
            groups = list(attribute.groups.values())
            members = groups[rng.integers(len(groups))]
            prompt, *answers = template.texts(attribute, members[rng.integers(len(members))])
            tone = int(rng.integers(2))
            text = f"{prompt} {answers[tone]}"
            sides.append((2.0 * (1 - tone) + knob * any(t in text for t in terms), text))
        (u, a), (v, b) = sides
        first = rng.random() < 1 / (1 + np.exp(v - u))
        better.append(a if first else b)
        worse.append(b if first else a)
    return better, worse


def trained(knob: float, seed: int) -> Reward:
    """A small reward model trained on such pairs (Bradley-Terry)."""
    model = Scorer(seed)
    better, worse = map(encoded, labelled_pairs(knob, seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03, weight_decay=1e-4)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = -nn.functional.logsigmoid(model(better) - model(worse)).mean()
        loss.backward()
        optimizer.step()
    return lambda prompts, completions, **_: model.scores(prompts, completions)


@cache
def population_texts(name: str, contrast: Contrast) -> tuple[list[Term], list[tuple[str, ...]]]:
    """Terms of a contrast, and the texts of every template with each of them."""
    attribute = BY_NAME[name]
    terms = list(dict.fromkeys(term for pair in term_pairs(attribute, contrast) for term in pair))
    every = templates(contrast.measure)
    return terms, [template.texts(attribute, term) for template in every for term in terms]


def population_effects(model: Reward, attribute: Attribute, contrast: Contrast) -> dict[str, float]:
    """Mean effect on every item of a contrast: of the preference and of the level."""
    terms, texts = population_texts(attribute.name, contrast)
    prompts = [prompt for prompt, _, _ in texts]
    good = np.array(model(prompts, [text for _, text, _ in texts])).reshape(-1, len(terms))
    bad = np.array(model(prompts, [text for _, _, text in texts])).reshape(-1, len(terms))
    pairs = term_pairs(attribute, contrast)
    index = np.array([(terms.index(a), terms.index(b)) for a, b in pairs])
    level: Array = good[:, index[:, 0]] - good[:, index[:, 1]]
    other: Array = bad[:, index[:, 0]] - bad[:, index[:, 1]]
    names = contrast.measure, f"{contrast.measure}:score"
    return dict(zip(names, (float((level - other).mean()), float(level.mean())), strict=True))
