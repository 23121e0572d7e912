"""The audit of a score on our own templates: does it change when only the group changes?

Every number is in units of the score's own spread. `reward.evaluate` judges the same score on
preference pairs; docs/rewards.md says what each number means and what it does not.

Prefixes follow Kumar et al. 2025 (2505.13487), who compare win rates of responses from a data set;
here the responses are our templates' and the change is that of the score, so that it has a size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from align.errors import UserError
from evals.bias.effects import Contrast, Effects, effect_rows
from evals.bias.items import PARTS, contrast_of
from evals.bias.length import fixed_length, t_p, word_differences
from evals.bias.template_frames import FILLERS, SOMEBODY
from evals.bias.template_items import PLACES, drawn_templates, sample_items
from evals.bias.template_terms import ATTRIBUTES, Attribute
from evals.multiplicity import benjamini_hochberg
from evals.stats import Array, Estimate, Resampling, mean_estimate, proportion_estimate
from reward.attribution import largest_cases
from reward.evaluate import UNIT, signed_rows
from reward.functions import RewardFunction
from reward.scores import Scores, Text

Table = list[dict[str, Any]]


@dataclass(frozen=True)
class Sampling:
    """What is scored."""

    templates: int
    """Drawn of each measure."""
    seed: int = 0
    attributes: tuple[Attribute, ...] = ATTRIBUTES


def audit_templates(
    model: RewardFunction, spread: float | None, sampling: Sampling, resampling: Resampling
) -> dict[str, Any]:
    """Every measure of the score on a sample of our templates.

    Args:
        model: Scores conversations; None or NaN leaves an item out.
        spread: Standard deviation of its scores on real responses; None: that of the templates'
            own scores.
        sampling: Templates, seed and attributes.
        resampling: Confidence, draws and seed.

    Returns:
        `bias` (signed effects), `fixed_length`, `prefixes`, `flips`, `length` - rows as the
        ledger's `bias` - `cases`, `spread` (the unit), `template_spread` (of the templates'
         texts, in units), `items` and `missing`.

    Raises:
        UserError: No item could be scored, or the scores have no spread.
    """
    scores = Scores(model)
    rows = sample_items(sampling.templates, sampling.seed, sampling.attributes)
    parts = item_scores(scores, rows)
    unit = scores.spread if spread is None else spread
    scored = np.asarray(np.isfinite(parts).all(axis=1))
    if not scored.any():
        raise UserError("no item could be scored: every score is missing", where="reward")
    if not unit > 0:
        raise UserError("all scores are equal", where="reward", remedy="train it again")
    used = [row for row, keep in zip(rows, scored, strict=True) if keep]
    parts, in_units = parts[scored] / unit, scores.per(unit)
    spread_here = in_units.spread
    bias = signed_rows(used, parts, resampling)
    return {
        "spread": unit,
        "template_spread": spread_here,
        "items": len(used),
        "missing": len(rows) - len(used),
        "sampling": {"templates": sampling.templates, "seed": sampling.seed},
        "bias": adjusted(bias),
        "fixed_length": adjusted(fixed_length_rows(used, parts, resampling.confidence)),
        "prefixes": adjusted(prefix_rows(in_units, sampling, resampling)),
        "flips": flip_rows(used, parts, resampling.confidence),
        "length": [length_row(in_units, place, sampling, resampling) for place in PLACES],
        "cases": largest_cases(in_units, used, parts[:, 0] - parts[:, 2]),
    }


def fixed_length_rows(rows: Sequence[Any], parts: Array, confidence: float) -> Table:
    """The level's change between texts of equal length, and the score of ten further words."""
    table: Table = []
    for place in dict.fromkeys(row["measure"] for row in rows):
        inside = [index for index, row in enumerate(rows) if row["measure"] == place]
        some = [rows[index] for index in inside]
        names = [contrast_of(row) for row in some]
        clusters = [str(row["cluster"]) for row in some]
        effects = Effects(parts[inside, 0] - parts[inside, 2], names, clusters)
        fit = fixed_length(effects, word_differences(some), confidence)
        if fit is None:
            continue
        for contrast, alpha in zip(dict.fromkeys(names), fit.alphas, strict=True):
            named = contrast._replace(measure=f"{place}:length fixed")
            table.append(named._asdict() | _row(alpha, UNIT) | {"p": t_p(alpha, confidence)})
    return table


def prefix_rows(scores: Scores, sampling: Sampling, resampling: Resampling) -> Table:
    """What a user's own group does to the score of answers about that group and about the other.

    With p the prompt, g the prefix of a group and r_g an answer about it,
    auto(g) = s(g + p, r_g) - s(p, r_g) and cross(g, h) = s(g + p, r_h) - s(p, r_h). Rows are
    auto(a) - auto(b) and cross(a, b) - cross(b, a): a change common to all prefixes is no bias.
    """
    prefixes = {a.name: a.prefix for a in sampling.attributes if a.prefix is not None}
    rows = [
        row
        for row in sample_items(sampling.templates, sampling.seed, sampling.attributes)
        if row["measure"] == "in response" and row["attribute"] in prefixes
    ]
    if not rows:
        return []
    texts = [_prefix_texts(row, prefixes[row["attribute"]]) for row in rows]
    values = scores([text for six in texts for text in six]).reshape(-1, 6)
    own_a, own_b, a_on_b, b_on_a, plain_a, plain_b = values.T
    influence = {
        "prefix:auto": (own_a - plain_a) - (own_b - plain_b),
        "prefix:cross": (a_on_b - plain_b) - (b_on_a - plain_a),
    }
    table: Table = []
    for measure, changes in influence.items():
        kept = np.isfinite(changes)
        some = [row for row, keep in zip(rows, kept, strict=True) if keep]
        names = [contrast_of(row)._replace(measure=measure) for row in some]
        effects = Effects(changes[kept], names, [str(row["cluster"]) for row in some])
        table += effect_rows(effects, UNIT, resampling)
    return table


def _prefix_texts(row: dict[str, Any], prefix: str) -> list[Text]:
    """Prefix a on answer a, b on b, a on b, b on a; no prefix on answers a and b."""
    prompt = row["prompt_a"]
    before = {side: f"{prefix.format(row[f'term_{side}'])} {prompt}" for side in "ab"}
    answer = {side: row[f"preferred_{side}"] for side in "ab"}
    asked = [(before[p], answer[r]) for p, r in ("aa", "bb", "ab", "ba")]
    return [*asked, (prompt, answer["a"]), (prompt, answer["b"])]


def flip_rows(rows: Sequence[Any], parts: Array, confidence: float) -> Table:
    """Share of items whose preferred answer changes with the group; a tie on one side counts half.

    It is above 0 for any score that moves at all: read it beside the controls' rows.
    """
    signs = np.sign(parts[:, 0] - parts[:, 1]), np.sign(parts[:, 2] - parts[:, 3])
    flips = np.abs(signs[0] - signs[1]) / 2
    names = [contrast_of(row) for row in rows]
    table: Table = []
    for contrast in dict.fromkeys(names):
        inside = [index for index, name in enumerate(names) if name == contrast]
        clusters = [str(rows[index]["cluster"]) for index in inside]
        rate = proportion_estimate(flips[inside], clusters, confidence)
        table.append(contrast._asdict() | _row(rate, "share"))
    return table


def length_row(
    scores: Scores, place: str, sampling: Sampling, resampling: Resampling
) -> dict[str, Any]:
    """Score of ten further words that say nothing: a filler sentence behind both answers.

    Raises:
        UserError: No such text could be scored.
    """
    drawn = drawn_templates(place, sampling.templates, sampling.seed)
    short: list[Text] = []
    fillers, clusters = [], []
    for number, template in enumerate(drawn):
        prompt, *answers = template.texts(None, None)
        short += [(prompt, answer) for answer in answers]
        fillers += [FILLERS[number % len(FILLERS)]] * len(answers)
        clusters += [template.name] * len(answers)
    long = [(prompt, f"{text} {more}") for (prompt, text), more in zip(short, fillers, strict=True)]
    words = np.array([len(more.split()) for more in fillers])
    slopes = 10 * (scores(long) - scores(short)) / words
    kept = np.isfinite(slopes)
    if not kept.any():
        raise UserError("no lengthened answer could be scored", where="reward")
    named = [cluster for cluster, keep in zip(clusters, kept, strict=True) if keep]
    found = mean_estimate(slopes[kept], named, resampling.confidence)
    head = Contrast(place, "length", "ten further words", SOMEBODY, False)._asdict()
    return head | _row(found, "sd per 10 words")


def adjusted(rows: Table) -> Table:
    """The rows with q: p adjusted over all rows that are not controls (Benjamini-Hochberg)."""
    known = [row for row in rows if not row["control"] and np.isfinite(row.get("p", np.nan))]
    for row, q in zip(known, benjamini_hochberg([r["p"] for r in known]), strict=True):
        row["q"] = q
    return rows


def item_scores(scores: Scores, rows: Sequence[dict[str, Any]]) -> Array:
    """Scores (n, 4) of items in the counterfactual format, in the order of `PARTS`."""
    texts = [(row[f"prompt_{part[-1]}"], row[part]) for row in rows for part in PARTS]
    return scores(texts).reshape(-1, len(PARTS))


def _row(estimate: Estimate, unit: str) -> dict[str, Any]:
    """An estimate as the tail of a row."""
    found = asdict(estimate)
    keys = ("value", "low", "high", "n")
    return {key: found[key] for key in keys} | {"clusters": found["units"], "unit": unit}
