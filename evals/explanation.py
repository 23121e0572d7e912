"""Which words carry a language model's largest contrasts: left out one at a time, or by gradients.

The contrast of one side is c = ll(preferred | prompt) - ll(dispreferred | prompt), in nats; an item
compares two sides. The drop of a span is c minus c without it, in the prompt, or in both answers
where it stands in either. What a word does on both sides alike cancels in the item, so the other
side's drop of the same word is taken off. Drops do not add up, and a text with a hole is unlike
any other.

Integrated gradients (Sundararajan et al. 2017, 1703.01365; captum) do add up: they share the
difference between c and c with every token of the prompt replaced by EOS among those tokens. How
far their sum misses it, the completeness gap, is the error of the integral's sum. The baseline is a
choice: another one shares another difference. (Zeros are none: layers that normalise break there.)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from align.artifacts import StageJob, code_hash, write_json_atomic
from align.config import RunConfig
from align.errors import UserError
from evals.plan import CODE, model_key, open_engine
from evals.requests import Request, chat_request, text_request
from evals.samples import SAMPLES, cached_json
from evals.spans import WORDS, largest_drops, largest_of_each, split_spans
from evals.task import Row, item_ids

if TYPE_CHECKING:
    from evals.engine import Engine

NAME = "explanation.json"
_TOGETHER = 16
"""Points of the integral in one pass."""
Case = dict[str, Any]


def explain_models(
    run: RunConfig, job: StageJob, names: Sequence[str], task: str, rows: Sequence[Row]
) -> dict[str, list[Case]]:
    """The largest contrasts of some models with their words; from disk where up to date.

    Args:
        run: Its `audit` says whether gradients are wanted.
        job: Results of the task lie in `folder / name / task`; `inputs` holds the models.
        names: The models.
        task: A counterfactual task that all of them have been scored on.
        rows: Its items, with `term_a` and `term_b`.

    Raises:
        UserError: Gradients are wanted and captum is not installed.
    """
    return {name: _explained(run, job, name, task, rows) for name in names}


def require_captum() -> Any:
    """Captum's integrated gradients.

    Raises:
        UserError: It is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError as error:
        raise UserError(
            f"integrated gradients need captum ({error})",
            where="audit.gradients",
            remedy="pip install 'alignkit[explain]'",
        ) from error
    return IntegratedGradients


def _explained(
    run: RunConfig, job: StageJob, name: str, task: str, rows: Sequence[Row]
) -> list[Case]:
    """Cases of one model."""
    known = dict(zip(item_ids(rows), rows, strict=True))
    lines = (job.folder / name / task / SAMPLES).read_text(encoding="utf-8").splitlines()
    scored = [json.loads(line) for line in lines]
    steps = run.audit.steps if run.audit.gradients else None
    key = model_key(run, job.inputs[name]) | {
        "code": code_hash((*CODE, "evals.explanation", "evals.spans")),
        "items": [(one["id"], one["effect"]) for one in scored],
        "steps": steps,
    }
    path = job.folder / name / NAME
    stored: list[Case] | None = cached_json(path, key)
    if stored is not None:
        return stored
    engine = open_engine(run, job, name)
    engine.progress, engine.label = job.progress, f"{name}/explanation"
    used = [known[one["id"]] for one in scored]
    cases = explain_cases(engine, used, np.array([one["effect"] for one in scored]), steps)
    engine.close()
    write_json_atomic(path, {"key": key, "value": cases})
    return cases


def explain_cases(
    engine: Engine, rows: Sequence[Row], effects: Any, steps: int | None
) -> list[Case]:
    """The item with the largest contrast of each attribute, and the words that carry it.

    Args:
        engine: The model.
        rows: Scored items.
        effects: Their contrasts (n,), a minus b.
        steps: Points of the integral; None: no gradients.
    """
    keys = ("measure", "attribute", "group_a", "group_b")
    cases = []
    for place in largest_of_each(rows, effects):
        row = rows[place]
        case: Case = {key: row[key] for key in keys} | {"difference": float(effects[place])}
        drops = {side: leave_one_out(engine, row, side) for side in "ab"}
        for side, other in ("ab", "ba"):
            spans = largest_drops(beyond(drops[side], drops[other]))
            case[f"side_{side}"] = explain_side(engine, row, side, steps) | {"spans": spans}
        cases.append(case)
    return cases


def explain_side(engine: Engine, row: Row, side: str, steps: int | None) -> Case:
    """Texts, contrast and gradients of one side of an item."""
    prompt, answers = row[f"prompt_{side}"], _answers(row, side)
    found: Case = {
        "prompt": prompt,
        "response": " | ".join(answers),
        "score": contrasts(engine, [(prompt, *answers)], row["render"])[0],
    }
    if steps is not None:
        found["gradients"] = integrated_gradients(engine, row, side, steps)
    return found


def beyond(own: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drops of one side minus those of the same spans on the other, which cancel in the item.

    The n-th occurrence is set against the n-th; a span that stands on one side keeps its drop.
    """
    against = dict(zip(_named(other), (drop["drop"] for drop in other), strict=True))
    return [
        drop | {"drop": drop["drop"] - against.get(name, 0.0)}
        for name, drop in zip(_named(own), own, strict=True)
    ]


def _named(drops: Sequence[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """Place, span and number of its occurrence."""
    seen: Counter[tuple[str, str]] = Counter()
    names = []
    for drop in drops:
        name = drop["place"], drop["span"]
        names.append((*name, seen[name]))
        seen[name] += 1
    return names


def leave_one_out(engine: Engine, row: Row, side: str) -> list[dict[str, Any]]:
    """Drops of every word of the prompt, then of every different word of the two answers."""
    prompt, term = row[f"prompt_{side}"], row[f"term_{side}"]
    answers = _answers(row, side)
    pieces = split_spans(prompt, term)
    spans = [("prompt", piece) for piece in pieces]
    texts = [(_joined(prompt, pieces, at), *answers) for at in range(len(pieces))]
    for piece in dict.fromkeys(p for answer in answers for p in split_spans(answer, term)):
        spans.append(("response", piece))
        first, second = (_without(answer, term, piece) for answer in answers)
        texts.append((prompt, first, second))
    whole, *rest = contrasts(engine, [(prompt, *answers), *texts], row["render"])
    return [
        {"place": place, "span": span, "drop": whole - value}
        for (place, span), value in zip(spans, rest, strict=True)
    ]


def contrasts(engine: Engine, texts: Sequence[tuple[str, str, str]], render: str) -> list[float]:
    """C of (prompt, preferred, dispreferred) each; NaN where one cannot be scored."""
    requests = [_request(engine, p, answer, render) for p, *both in texts for answer in both]
    sums = engine.loglikelihoods(requests).sums.reshape(-1, 2)
    return [float(value) for value in sums[:, 0] - sums[:, 1]]


def integrated_gradients(engine: Engine, row: Row, side: str, steps: int) -> dict[str, Any]:
    """Attributions of the prompt's words, their total, and the completeness gap, in nats.

    `total` is c - c(baseline); `gap` is the sum of all attributions minus that.
    """
    method, model = require_captum(), engine.model
    prompt = row[f"prompt_{side}"]
    requests = [_request(engine, prompt, text, row["render"]) for text in _answers(row, side)]
    context = requests[0].context or (engine.prefix_id,)
    embed = model.get_input_embeddings()
    ids = torch.tensor([context], device=engine.device)
    end = torch.full_like(ids, int(engine.tokenizer.eos_token_id))
    with torch.no_grad():
        inputs, baseline = embed(ids), embed(end)

    def contrast(embedded: Tensor) -> Tensor:
        first, second = (_likelihood(model, embedded, r.continuation) for r in requests)
        return first - second

    shares = method(contrast).attribute(
        inputs, baseline, n_steps=steps, internal_batch_size=min(_TOGETHER, steps)
    )
    tokens = shares.detach().double().sum(-1)[0].cpu().numpy()
    with torch.no_grad():
        total = float(contrast(inputs)[0] - contrast(baseline)[0])
    words = join_words(engine, context, tokens.tolist())
    largest = sorted(words, key=lambda word: -abs(word["drop"]))[:WORDS]
    return {"spans": largest, "total": total, "gap": float(tokens.sum()) - total}


def _likelihood(model: Any, embedded: Tensor, continuation: Sequence[int]) -> Tensor:
    """Summed log-probability (B,) of a continuation after contexts given as vectors (B, P, H)."""
    ids = torch.tensor(continuation, device=embedded.device)
    rest = model.get_input_embeddings()(ids[:-1]).expand(len(embedded), -1, -1)
    logits = model(inputs_embeds=torch.cat([embedded, rest], dim=1)).logits
    logs = logits[:, -len(ids) :].float().log_softmax(-1)
    total: Tensor = logs.gather(-1, ids.expand(len(embedded), -1)[..., None])[..., 0].sum(-1)
    return total


def join_words(engine: Engine, ids: Sequence[int], values: Sequence[float]) -> list[dict[str, Any]]:
    """Values of tokens summed over words, which begin after a space."""
    words: list[dict[str, Any]] = []
    before = ""
    for place, value in enumerate(values):
        text = engine.tokenizer.decode(ids[: place + 1], clean_up_tokenization_spaces=False)
        piece, ended = text[len(before) :], before[-1:].isspace()
        if not words or ended or piece[:1].isspace():
            words.append({"place": "prompt", "span": "", "drop": 0.0})
        words[-1]["span"] = (words[-1]["span"] + piece).strip()
        words[-1]["drop"] += value
        before = text
    return words


def _answers(row: Row, side: str) -> tuple[str, str]:
    return row[f"preferred_{side}"], row[f"dispreferred_{side}"]


def _without(text: str, term: str, piece: str) -> str:
    """The text without every occurrence of a span."""
    pieces = split_spans(text, term)
    if piece not in pieces:
        return text
    return _lead(text) + " ".join(one for one in pieces if one != piece)


def _joined(text: str, pieces: Sequence[str], left_out: int) -> str:
    return _lead(text) + " ".join([*pieces[:left_out], *pieces[left_out + 1 :]])


def _lead(text: str) -> str:
    """The white space that a text begins with."""
    return text[: len(text) - len(text.lstrip())]


def _request(engine: Engine, prompt: str, answer: str, render: str) -> Request:
    """As the counterfactual task asks."""
    if render == "chat":
        turns = [{"role": "user", "content": prompt}]
        return chat_request(engine.tokenizer, turns, answer, end=True)
    return text_request(engine.tokenizer, prompt, answer)
