"""What one model has kept of a known set: raw values by document and canary, no statistics yet.

Every document is scored by itself, so that no number depends on its neighbours.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from align.config import AuditConfig
from align.data.canaries import Canary, candidates, draw_canaries, question
from align.data.encoding import decode_response
from evals.privacy.documents import (
    Continued,
    Document,
    KnownSet,
    continued,
    drawn,
    encode_document,
    row_text,
)
from evals.privacy.exposure import exposure, extrapolated, rank
from evals.privacy.membership import SCORES, TokenScores, document_scores
from evals.privacy.personal import find_personal, tally
from evals.requests import Request, chat_request, text_request
from evals.stats import Array

if TYPE_CHECKING:
    from evals.engine import Engine

SIDES = ("members", "others")
Raw = dict[str, Any]


def measure_set(engine: Engine, known: KnownSet, settings: AuditConfig, seed: int) -> Raw:
    """Raw values of one set: `members` and `others` (see `measure_side`), and `canaries`.

    Args:
        engine: The model.
        known: The set.
        settings: What to measure.
        seed: Draws documents, canaries and the secrets that they are ranked among.
    """
    learned = {found.text for row in known.members for found in find_personal(row_text(row))}
    raw: Raw = {}
    for side in SIDES:
        rows = drawn(getattr(known, side), settings.documents, seed)
        raw[side] = measure_side(engine, known, rows, settings, learned)
    raw["canaries"] = measure_canaries(engine, known, settings, seed)
    return raw


def measure_side(
    engine: Engine,
    known: KnownSet,
    rows: Sequence[dict[str, Any]],
    settings: AuditConfig,
    learned: set[str],
) -> Raw:
    """Membership scores, verbatim continuations and personal data in them, of some rows.

    Args:
        engine: The model.
        known: The set that the rows are of.
        rows: Training rows or held-out ones.
        settings: Lengths.
        learned: Personal data in the training rows.

    Returns:
        `scores` (n rows in the order of `SCORES`), `repeated` (0 or 1 for each document that is
        long enough), `skipped` (reason -> documents), `personal` (a row a kind).
    """
    skipped: Counter[str] = Counter()
    scores, asked = [], []
    for row in rows:
        document = encode_document(engine.tokenizer, engine.prefix_id, row, known.longest)
        room = 0 if document is None else engine.max_length - len(document.context)
        if document is None or room < 1:
            skipped["not scored: empty, or longer than the stage or the model takes"] += 1
            continue
        values = _scores(engine, document, min(settings.tokens, room), settings.min_k)
        if not np.isfinite(values).all():
            skipped["not finite"] += 1
            continue
        scores.append(values)
        cut = continued(document, settings, engine.max_length)
        if cut is None:
            skipped["not continued: too short, or no room"] += 1
        else:
            asked.append(cut)
    repeated, personal = _continuations(engine, asked, settings.next_tokens, learned)
    return {"scores": scores, "repeated": repeated, "skipped": skipped, "personal": personal}


@torch.no_grad()
def token_scores(engine: Engine, document: Document) -> TokenScores:
    """Scores of every token of a document, given its context.

    With p the distribution at a place: mean = sum p log p, variance = sum p (log p)^2 - mean^2.
    """
    ids = torch.tensor([document.context + document.ids], device=engine.device)
    logits = engine.model(input_ids=ids[:, :-1]).logits[0, len(document.context) - 1 :]
    logs = logits.double().log_softmax(-1)
    chosen = logs.gather(-1, ids[0, len(document.context) :, None])[:, 0]
    p = logs.exp()
    mean = (p * logs).sum(-1)
    spread = ((p * logs.square()).sum(-1) - mean.square()).clamp(min=0).sqrt()
    flat = spread < 1e-9  # a uniform distribution tells no token from another
    standard = torch.where(flat, 0.0, (chosen - mean) / torch.where(flat, 1.0, spread))
    return TokenScores(chosen.cpu().numpy(), standard.cpu().numpy())


def measure_canaries(
    engine: Engine, known: KnownSet, settings: AuditConfig, seed: int
) -> list[Raw]:
    """Rank and exposure of every canary of the stage, planted or not."""
    config = known.canaries
    if config is None:
        return []
    source = random.Random(f"candidates/{seed}/{known.kind}")
    found = []
    for canary in draw_canaries(config, seed, known.kind):
        others = candidates(canary, config.digits, settings.candidates, source)
        asked = question(config, canary.name)
        requests = [_request(engine, known, asked, text) for text in (canary.secret, *others)]
        sums = engine.loglikelihoods(requests).sums
        found.append(_exposed(canary, float(sums[0]), sums[1:], config.digits))
    return found


def _exposed(canary: Canary, own: float, others: Array, digits: int) -> Raw:
    """One canary's outcome; its secret is not kept."""
    total = 1 + int(np.isfinite(others).sum())
    place = rank(own, others)
    return {
        "repeats": canary.repeats,
        "rank": place,
        "total": total,
        "exposure": exposure(place, total),
        "extrapolated": extrapolated(own, others, digits * math.log2(10)),
        "digits": digits,
    }


def _request(engine: Engine, known: KnownSet, asked: str, secret: str) -> Request:
    """A secret behind its question, as the stage writes it."""
    if known.kind != "text":
        turns = [{"role": "user", "content": asked}]
        return chat_request(engine.tokenizer, turns, secret, end=True)
    context, continuation = text_request(engine.tokenizer, asked, f" {secret}")
    before = () if context[0] == engine.prefix_id else (engine.prefix_id,)
    return Request(before + context, continuation)


def _scores(engine: Engine, document: Document, most: int, share: float) -> list[float]:
    """The scores of a document's first tokens, in the order of `SCORES`."""
    first = document._replace(ids=document.ids[:most])
    text = decode_response(engine.tokenizer, first.ids)
    found = document_scores(token_scores(engine, first), text, share)
    return [found[name] for name in SCORES]


def _continuations(
    engine: Engine, asked: Sequence[Continued], most: int, learned: set[str]
) -> tuple[list[int], list[Raw]]:
    """Whether each greedy continuation is the target, and personal data in all of them.

    What the prompt itself holds is not the model's.
    """
    answers = engine.generate([one.prompt for one in asked], most) if asked else []
    repeated = [
        int(tuple(answer.ids) == one.target) for answer, one in zip(answers, asked, strict=True)
    ]
    prompts = [decode_response(engine.tokenizer, one.prompt[1:]) for one in asked]
    texts = [_without(answer.text, prompt) for answer, prompt in zip(answers, prompts, strict=True)]
    personal = [
        {
            "kind": found.kind,
            "passages": found.passages,
            "documents": found.texts,
            "learned": len(found.values & learned),
            "examples": list(found.examples),
        }
        for found in tally(texts)
    ]
    return repeated, personal


def _without(text: str, prompt: str) -> str:
    """The text without personal data that stand in the prompt, too."""
    for found in find_personal(prompt):
        text = text.replace(found.text, "")
    return text
