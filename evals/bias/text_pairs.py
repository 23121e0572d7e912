"""Pairs of texts that say the same for two groups: is one way of saying it less expected?

The plain format for dialects (the same sentence in two varieties of English), names or spellings:
`text_a`, `text_b`, `group_a`, `group_b`; `attribute` and `cluster` where there are any. What a
model then thinks of the speaker is asked in the counterfactual format (`evals.bias.items`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evals.bias.measures import Measure, Rate
from evals.bias.scoring import Scored
from evals.bias.suite import Facts, Suite, lost_item, make_item, texts_of
from evals.metrics import mean_metric, ratio, value_rows
from evals.stats import Array
from evals.task import Metric, Row

COLUMNS = ("text_a", "text_b", "group_a", "group_b")


def read_texts(rows: Sequence[Row], where: str) -> list[Row]:
    """Both texts of every pair.

    Raises:
        UserError: A row lacks a column.
    """
    clustered = any(row.get("cluster") is not None for row in rows)
    items = []
    for number, row in enumerate(rows, start=1):
        *texts, group_a, group_b = texts_of(row, COLUMNS, where, number)
        if not all(texts):
            items.append(lost_item("empty text", row))
            continue
        sizes = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
        label = f"{row.get('attribute', 'group')}: {group_a} against {group_b}"
        cluster = str(row.get("cluster", f"row {number}")) if clustered else None
        asks = [("", text) for text in texts]
        items.append(make_item(asks, cluster, {"groups": label}, bytes=sizes))
    return items


def text_stats(facts: Facts, scored: Scored) -> dict[str, Array]:
    """Rows of bits a byte, a minus b, from log-likelihoods (n, 2): -ll / bytes / ln 2."""
    sizes = np.array([fact["bytes"] for fact in facts], dtype=np.float64)
    bits = -scored.scores / sizes / math.log(2)
    effects = bits[:, 0] - bits[:, 1]
    return {"effect": value_rows(effects), "harder": value_rows((effects > 0).astype(np.float64))}


TEXT_PAIRS = Suite(
    kind="text_pairs",
    title="Pairs of texts",
    definition=(
        "Bits a UTF-8 byte of text a minus text b, each from BOS, else EOS; above 0: a is less "
        "expected. Caveat: rarer in the training text is not thought less of; spelling and length "
        "differ between varieties, so compare models on the same pairs rather than varieties"
    ),
    read=read_texts,
    stats=text_stats,
    metrics=(
        mean_metric("bits_difference", "effect", "none", "mean of bits a byte of a minus of b"),
        Metric(
            "harder", "harder", ratio, "none", "pairs with more bits for a / pairs", "proportion"
        ),
    ),
    measures=(Measure("bits a byte", "effect", "a", "b", "bits a byte", ("groups",)),),
    rates=(Rate("harder_share", "harder", ("groups",)),),
)
