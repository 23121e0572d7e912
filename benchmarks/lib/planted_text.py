"""Language models with a bias of known size: tiny ones trained on biased text, and an offset.

The text is dialogues made of the audit's own templates. A decent answer is as frequent as an
indecent one, but where a favoured group is named the log-odds are the knob: a model that knew the
text would have an effect of `knob` nats. The truth is what a trained model does on the whole
population of templates, enumerated by plain forward passes that share no code with the engine. An
offset on the log-probabilities makes it exactly a given number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from lib.planted import BY_NAME, CONTROLS
from torch import Tensor, nn

from align.config import ArchitectureConfig
from align.models import build_model
from align.tokenizer import train_tokenizer
from evals.bias.counterfactual import CounterfactualTask
from evals.bias.template_items import (
    PLACES,
    Template,
    contrasts,
    sample_items,
    templates,
    term_pairs,
)
from evals.bias.template_terms import Attribute, Term
from evals.engine import Engine, LogLikelihoods
from evals.requests import Request, chat_request
from evals.stats import Array

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

FAVOURED = {"orientation": "gay", "disability": "blind", "dialect": "scots"}
"""Attribute -> the group that a plant favours."""
DIALOGUES, BATCH, RATE = 4096, 32, 0.03
PLANTED_SHARE = 0.75
"""Of the dialogues; the others name people of the controls."""
ARCHITECTURE = ArchitectureConfig(
    hidden_size=32, layers=1, heads=2, intermediate_size=64, vocab_size=1024, context=96
)
Key = tuple[str, str]
"""Attribute and measure."""


def named_groups(attribute: Attribute) -> list[str]:
    """The groups that the text names: the first and the favoured one, or a control's only one."""
    first = next(iter(attribute.groups))
    return [FAVOURED[attribute.name], first] if attribute.name in FAVOURED else [first]


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """Of all texts that a model may be trained on."""
    attributes = (*(BY_NAME[name] for name in FAVOURED), *CONTROLS)
    return train_tokenizer(
        (
            text
            for place in PLACES
            for template in templates(place)
            for attribute in attributes
            for group in named_groups(attribute)
            for term in attribute.groups[group]
            for text in template.texts(attribute, term)
        ),
        ARCHITECTURE.vocab_size,
    )


@cache
def dialogue(template: Template, name: str, term: Term, tone: int) -> Request:
    """A template with a term as the audit asks it; tone 0 is the decent answer, 1 the other."""
    prompt, *answers = template.texts(BY_NAME[name], term)
    turns = [{"role": "user", "content": prompt}]
    return chat_request(tokenizer(), turns, answers[tone], end=True)


def biased_dialogues(knob: float, seed: int) -> list[Request]:
    """Text in which log P(decent) / P(indecent) is `knob` for favoured groups and 0 for others.

    With one seed the same people are met in the same templates whatever the knob.
    """
    rng = np.random.default_rng((seed, 29))
    planted = [BY_NAME[name] for name in FAVOURED]
    found = []
    for _ in range(DIALOGUES):
        every = templates(PLACES[rng.integers(len(PLACES))])
        template = every[rng.integers(len(every))]
        pool = planted if rng.random() < PLANTED_SHARE else CONTROLS
        attribute = pool[rng.integers(len(pool))]
        groups = named_groups(attribute)
        group = groups[rng.integers(len(groups))]
        terms = attribute.groups[group]
        term = terms[rng.integers(len(terms))]
        odds = knob if FAVOURED.get(attribute.name) == group else 0.0
        tone = int(rng.random() >= 1 / (1 + np.exp(-odds)))
        found.append(dialogue(template, attribute.name, term, tone))
    return found


def answer_losses(model: LlamaForCausalLM, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
    """-log P of the M tokens of all answers, (M,), and the request of each, (M,)."""
    rows = [request.context + request.continuation for request in requests]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    scored = torch.zeros(ids.shape, dtype=torch.bool)
    for number, (row, request) in enumerate(zip(rows, requests, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        scored[number, len(request.context) : len(row)] = True
    hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state[scored[:, 1:]]
    losses = nn.functional.cross_entropy(model.lm_head(hidden), ids[scored], reduction="none")
    return losses, scored.nonzero()[:, 0]


def trained_on_text(knob: float, seed: int) -> LlamaForCausalLM:
    """A Llama of one layer and 43,000 parameters after one pass over such text."""
    model, text = build_model(ARCHITECTURE, tokenizer(), seed), biased_dialogues(knob, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=len(text) // BATCH, pct_start=0.1
    )
    for start in range(0, len(text), BATCH):
        optimizer.zero_grad()
        answer_losses(model, text[start : start + BATCH])[0].mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


class Population(NamedTuple):
    """Every text of the planted contrasts."""

    texts: dict[Key, list[tuple[Request, Request]]]
    """Both answers of every template and, inside it, every term."""
    pairs: dict[str, Array]
    """Attribute -> places (n, 2) of the terms of each pair."""
    favoured: dict[str, int]
    """Attribute -> how many of the terms are the favoured group's; they come first."""


@cache
def population() -> Population:
    """The texts of the favoured groups' contrasts, encoded once for all models."""
    found = Population({}, {}, {})
    for name, favoured in FAVOURED.items():
        attribute = BY_NAME[name]
        own, other = (attribute.groups[group] for group in named_groups(attribute))
        terms = [*own, *other]
        contrast = next(c for c in contrasts(attribute, PLACES[0]) if c.group_a == favoured)
        pairs = term_pairs(attribute, contrast)
        found.pairs[name] = np.array([(terms.index(a), terms.index(b)) for a, b in pairs])
        found.favoured[name] = len(own)
        for place in PLACES:
            found.texts[name, place] = [
                (dialogue(template, name, term, 0), dialogue(template, name, term, 1))
                for template in templates(place)
                for term in terms
            ]
    return found


@torch.no_grad()
def log_probabilities(model: LlamaForCausalLM, requests: Sequence[Request]) -> Array:
    """Summed log-probability of every answer in nats, (n,), without the engine."""
    sums = np.zeros(len(requests))
    order = sorted(range(len(requests)), key=lambda i: sum(map(len, requests[i])))
    for start in range(0, len(order), 256):
        part = order[start : start + 256]
        losses, owners = answer_losses(model, [requests[place] for place in part])
        total = torch.zeros(len(part), dtype=torch.float64)
        sums[part] = -total.index_add_(0, owners, losses.double()).numpy()
    return sums


def text_effects(model: LlamaForCausalLM) -> dict[Key, float]:
    """The model's mean effect on every item of each planted contrast, in nats."""
    every, found = population(), {}
    for key, texts in every.texts.items():
        sums = log_probabilities(model, [request for two in texts for request in two])
        preference = (sums[0::2] - sums[1::2]).reshape(len(templates(key[1])), -1)
        a, b = every.pairs[key[0]].T
        found[key] = float((preference[:, a] - preference[:, b]).mean())
    return found


class OffsetEngine(Engine):
    """An engine that adds known amounts to the log-probabilities of some answers."""

    amounts: Mapping[Request, float]

    def loglikelihoods(self, requests: Sequence[Request]) -> LogLikelihoods:
        """As the engine's, with the amounts."""
        found = super().loglikelihoods(requests)
        return found._replace(sums=found.sums + [self.amounts.get(r, 0.0) for r in requests])


def with_offset(model: LlamaForCausalLM, own: Mapping[Key, float], offset: float) -> OffsetEngine:
    """The model's log-likelihoods, moved so that every planted effect is exactly `offset`.

    What decent answers about the favoured group gain is the offset less the model's `own` effect.
    """
    every, engine = population(), OffsetEngine(model, tokenizer())
    amounts: dict[Request, float] = {}
    for key, texts in every.texts.items():
        count = len(texts) // len(templates(key[1]))
        for place, (decent, _) in enumerate(texts):
            if place % count < every.favoured[key[0]]:
                amounts[decent] = offset - own[key]
    engine.amounts = amounts
    return engine


def audit_language_model(engine: Engine, count: int, seed: int) -> list[dict[str, Any]]:
    """The rows of planted contrasts and controls that `align audit MODEL` would give.

    The items are those of an audit of all groups, so the other groups' are left out unasked.
    """
    attributes = (*(BY_NAME[name] for name in FAVOURED), *CONTROLS)
    items = [
        item
        for item in sample_items(count, seed, attributes)
        if item["control"] or FAVOURED[item["attribute"]] == item["group_a"]
    ]
    task = CounterfactualTask("identity")
    return task.bias(task.evaluate(engine, items), 0.95)
