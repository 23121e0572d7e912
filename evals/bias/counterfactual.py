"""Counterfactual pairs for a language model: does its preference change with the group?

Every item asks the same thing about two groups and offers each the same two continuations, so what
the model thinks of names or of warm words by themselves cancels. The measure is a difference of
differences of log-likelihoods in nats; `evals.bias.effects` sums it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evals.bias.effects import Effects, change_rows, effect_rows
from evals.bias.items import PARTS, TEXT_COLUMNS, check_items, contrast_of, contrast_values
from evals.bias.scoring import Scored, score_items
from evals.metrics import value_rows
from evals.requests import Request, chat_request, text_request
from evals.stats import Resampling
from evals.task import Metric, Row, TaskResult, item_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evals.engine import Engine

DRAWS = 20_000
"""Draws of a permutation: the least p must survive an adjustment over some hundred rows."""


@dataclass(frozen=True)
class CounterfactualTask:
    """Log-likelihood contrasts of items in the counterfactual format."""

    name: str
    title: str = "Counterfactual pairs"
    kind: str = "counterfactual"
    decoding: str = "loglikelihood"
    metrics: tuple[Metric, ...] = ()
    definition: str = (
        "[ll(preferred_a | prompt_a) - ll(dispreferred_a | prompt_a)] - [the same for b] in nats, "
        "ll the summed log-probability of the continuation (with EOS in a dialogue); mean over "
        "items, t interval over clusters (name pairs or templates); controls swap two terms of one "
        "group, so theirs is 0"
    )

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Score the four continuations of every item.

        Raises:
            UserError: A row is not in the counterfactual format, or no item could be scored.
        """
        check_items(rows, self.name)
        items = [_requests(engine.tokenizer, row) for row in rows]
        scored = score_items(engine, items, self.name)
        names = item_ids(rows)
        used = [rows[index] for index in scored.places]
        ids = tuple(names[index] for index in scored.places)
        return _result(ids, used, scored)

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """Prompts and preferred continuations of both sides."""
        keys = ("prompt_a", "preferred_a", "prompt_b", "preferred_b")
        return [" ".join(str(row[key]) for key in keys) for row in rows]

    def bias(self, result: TaskResult, confidence: float) -> list[dict[str, Any]]:
        """Mean contrast by measure, attribute, groups and control, in nats."""
        resampling = Resampling(DRAWS, confidence)
        return effect_rows(_effects(result), "nats", resampling)

    def bias_changes(
        self, before: TaskResult, after: TaskResult, confidence: float
    ) -> list[dict[str, Any]]:
        """Change of the mean contrasts, paired on the items."""
        resampling = Resampling(DRAWS, confidence)
        return change_rows(_effects(before), _effects(after), resampling)


def _requests(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[Request]:
    """The four continuations in the order of `PARTS`."""
    requests = []
    for part in PARTS:
        prompt = row[f"prompt_{part[-1]}"]
        if row["render"] == "chat":
            turns = [{"role": "user", "content": prompt}]
            requests.append(chat_request(tokenizer, turns, row[part], end=True))
        else:
            requests.append(text_request(tokenizer, prompt, row[part]))
    return requests


def _result(ids: tuple[str, ...], rows: Sequence[Row], scored: Scored) -> TaskResult:
    """Rows, samples and columns of the scored items."""
    effects = contrast_values(scored.scores)
    samples = []
    for row, four, effect in zip(rows, scored.scores.tolist(), effects.tolist(), strict=True):
        texts = {key: row[key] for key in ("prompt_a", "prompt_b", *PARTS)}
        values = {f"ll_{key}": ll for key, ll in zip(PARTS, four, strict=True)}
        samples.append({**texts, **values, "effect": effect})
    columns = {key: tuple(str(row[key]) for row in rows) for key in TEXT_COLUMNS}
    columns["control"] = tuple(str(row["control"]).lower() for row in rows)
    return TaskResult(
        ids=ids,
        stats={"effect": value_rows(effects)},
        samples=samples,
        clusters=columns["cluster"],
        columns=columns,
        missing=scored.missing,
    )


def _effects(result: TaskResult) -> Effects:
    """The stored effects with what they compare."""
    keys = ("measure", "attribute", "group_a", "group_b", "control")
    columns = [result.columns[key] for key in keys]
    labels = [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]
    values = result.stats["effect"][:, 0]
    return Effects(values, [contrast_of(label) for label in labels], result.columns["cluster"])
