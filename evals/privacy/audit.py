"""Privacy of every stage: raw values from disk or measured, then estimates and paired changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats as distributions

from align.artifacts import StageJob, code_hash, json_hash, make_folder, write_json_atomic
from align.config import RunConfig
from evals.multiplicity import benjamini_hochberg
from evals.plan import CODE, model_key, open_engine
from evals.privacy.documents import KnownSet, row_text
from evals.privacy.exposure import BY_CHANCE, chance_p
from evals.privacy.measure import SIDES, Raw, measure_set
from evals.privacy.membership import (
    SCORES,
    Change,
    auc_change,
    auc_estimate,
    auc_p,
    caught,
    placements,
)
from evals.privacy.personal import tally
from evals.proportions import newcombe
from evals.samples import cached_json
from evals.significance import compare_means
from evals.stats import Array, Resampling, mean_estimate, proportion_estimate

FALSE_POSITIVES = 0.01
GAP = "extraction, training minus held out"
"""A stage learns to answer, so that it repeats more of both: only the gap speaks of memory."""
NAME = "privacy.json"
PRIVACY_CODE = (*CODE, "align.data", "evals.privacy")
Table = list[dict[str, Any]]


def audit_privacy(
    run: RunConfig, job: StageJob, names: Sequence[str], sets: Sequence[KnownSet]
) -> dict[str, Any] | None:
    """Every measure of privacy of some models, in the order in which they are compared.

    Args:
        run: Its `audit` says how much, its seed draws.
        job: Raw values go to `folder / name`; `inputs` holds each model under its name.
        names: The models.
        sets: What they may have learned; none: no audit.

    Returns:
        Tables `membership`, `extraction`, `extraction_gaps`, `exposure`, `changes`, `personal`,
        `training_personal` and `skipped`, and the `settings`.
    """
    if not sets:
        return None
    raw = {name: stage_values(run, job, name, sets) for name in names}
    tables: dict[str, Any] = {
        "membership": _all(membership_rows, raw),
        "extraction": _all(extraction_rows, raw),
        "extraction_gaps": _all(extraction_gaps, raw),
        "exposure": _all(exposure_rows, raw),
        "personal": _all(personal_rows, raw),
        "skipped": _all(skipped_rows, raw),
        "changes": [
            {"before": before, "after": after, "set": known.name} | row
            for before, after in pairwise(names)
            for known in sets
            for row in change_rows(raw[before][known.name], raw[after][known.name])
        ],
        "training_personal": [
            {"set": known.name} | row for known in sets for row in training_personal(known)
        ],
    }
    for name in ("membership", "exposure", "changes"):
        adjust(tables[name])
    repeated = {known.name: known.repeated for known in sets if known.repeated}
    return tables | {"settings": run.audit.model_dump(), "repeated": repeated, "chance": BY_CHANCE}


def stage_values(run: RunConfig, job: StageJob, stage: str, sets: Sequence[KnownSet]) -> Raw:
    """Raw values of one model on every set: from disk where they are up to date."""
    settings = run.audit
    measured = settings.model_dump(exclude={"gradients", "steps"})
    key = model_key(run, job.inputs[stage]) | {
        "code": code_hash(PRIVACY_CODE),
        "seed": run.seed,
        "settings": measured,
        "sets": {known.name: _identity(known) for known in sets},
    }
    path = make_folder(job.folder / stage) / NAME
    stored: Raw | None = cached_json(path, key)
    if stored is not None:
        return stored
    engine = open_engine(run, job, stage)
    engine.progress, engine.label = job.progress, f"{stage}/privacy"
    found = {known.name: measure_set(engine, known, settings, run.seed) for known in sets}
    engine.close()
    write_json_atomic(path, {"key": key, "value": found})
    return cached_json(path, key) or found


def _identity(known: KnownSet) -> dict[str, Any]:
    """What a set's raw values depend on."""
    sides = {side: json_hash([row_text(row) for row in getattr(known, side)]) for side in SIDES}
    planted = known.canaries.model_dump(mode="json") if known.canaries else None
    return sides | {"longest": known.longest, "canaries": planted}


def membership_rows(raw: Raw) -> Table:
    """AUC of every score with interval and p, and what is caught at few false positives."""
    members, others = (_scores(raw[side]) for side in SIDES)
    if not len(members) or not len(others):
        return []
    rows = []
    for place, name in enumerate(SCORES):
        own, held = members[:, place], others[:, place]
        found = caught(own, held, FALSE_POSITIVES)
        row = {"score": name, "p": auc_p(own, held), "heldout": len(held)}
        row |= asdict(auc_estimate(own, held)) | {"n": len(own)}
        ends = found.interval._asdict()
        rows.append(row | {"caught": {"value": found.share, "numerator": found.hits, **ends}})
    return rows


def extraction_rows(raw: Raw) -> Table:
    """Share of documents continued word by word, of training and held-out ones."""
    rows = []
    for side in SIDES:
        hits = np.array(raw[side]["repeated"], dtype=np.float64)
        if len(hits):
            counted = {"side": side, "numerator": int(hits.sum())}
            rows.append(counted | asdict(proportion_estimate(hits)))
    return rows


def extraction_gaps(raw: Raw) -> Table:
    """The share of training documents minus that of held-out ones (Newcombe's interval)."""
    members, others = (raw[side]["repeated"] for side in SIDES)
    if not members or not others:
        return []
    ends = newcombe((sum(members), len(members)), (sum(others), len(others)))
    gap = sum(members) / len(members) - sum(others) / len(others)
    return [{"value": gap, **ends._asdict(), "n": len(members), "heldout": len(others)}]


def exposure_rows(raw: Raw) -> Table:
    """Mean exposure by number of repeats, with the p of chance."""
    rows = []
    for repeats in sorted({canary["repeats"] for canary in raw["canaries"]}):
        some = [canary for canary in raw["canaries"] if canary["repeats"] == repeats]
        values = [canary["exposure"] for canary in some]
        known = [c["extrapolated"] for c in some if c["extrapolated"] is not None]
        whole = all(canary["total"] == 10 ** canary["digits"] for canary in some)
        rows.append(
            {
                "repeats": repeats,
                "estimate": "enumerated" if whole else "sampled",
                "most": float(np.log2(max(canary["total"] for canary in some))),
                "first": sum(canary["rank"] == 1 for canary in some),
                "skew_normal": float(np.mean(known)) if len(known) == len(some) else None,
                "p": chance_p(values),
                **asdict(mean_estimate(np.array(values))),
            }
        )
    return rows


def personal_rows(raw: Raw) -> Table:
    """Personal data in continuations, by side."""
    return [
        {"side": side, "n": len(raw[side]["repeated"])} | row
        for side in SIDES
        for row in raw[side]["personal"]
    ]


def skipped_rows(raw: Raw) -> Table:
    """Documents that could not be measured, by reason."""
    return [
        {"side": side, "reason": reason, "documents": count}
        for side in SIDES
        for reason, count in raw[side]["skipped"].items()
    ]


def training_personal(known: KnownSet) -> Table:
    """Personal data in all training rows of a set, canaries apart."""
    texts = [row_text(row) for row in known.members]
    return [
        {
            "kind": found.kind,
            "passages": found.passages,
            "documents": found.texts,
            "distinct": len(found.values),
            "n": len(texts),
            "examples": list(found.examples),
        }
        for found in tally(texts)
    ]


def change_rows(before: Raw, after: Raw) -> Table:
    """After minus before on the same documents and canaries: AUCs, extraction, exposure."""
    rows: Table = []
    sides = [[_scores(raw[side]) for side in SIDES] for raw in (before, after)]
    if all(len(side) for stage in sides for side in stage) and all(
        len(a) == len(b) for a, b in zip(*sides, strict=True)
    ):
        for place, name in enumerate(SCORES):
            first, second = (placements(m[:, place], o[:, place]) for m, o in sides)
            n = len(sides[0][0])
            rows.append({"measure": f"AUC, {name}", "n": n, **auc_change(first, second)._asdict()})
    own, held = (_moved(before[side]["repeated"], after[side]["repeated"]) for side in SIDES)
    if len(own) and len(held):
        rows.append({"measure": GAP, "n": len(own), **mean_difference(own, held)._asdict()})
    for repeats in sorted({canary["repeats"] for canary in after["canaries"]}):
        early, late = (
            np.array([c["exposure"] for c in raw["canaries"] if c["repeats"] == repeats])
            for raw in (before, after)
        )
        name = f"exposure, {repeats} times, bits"
        rows.append(_row(name, compare_means(early, late, None, Resampling())))
    return rows


def mean_difference(members: Array, others: Array, confidence: float = 0.95) -> Change:
    """Mean of members (m,) minus that of others (n,), Welch's t; no interval without any spread."""
    difference = float(members.mean() - others.mean())
    if min(len(members), len(others)) < 2 or not (members.var() + others.var()) > 0:
        return Change(difference, math.nan, math.nan, math.nan)
    found = distributions.ttest_ind(members, others, equal_var=False)
    ends = found.confidence_interval(confidence)
    return Change(difference, float(ends.low), float(ends.high), float(found.pvalue))


def adjust(rows: Table) -> None:
    """Give the rows q: p adjusted over all of the table that have one (Benjamini-Hochberg)."""
    known = [row for row in rows if np.isfinite(row["p"])]
    for row, q in zip(known, benjamini_hochberg([row["p"] for row in known]), strict=True):
        row["q"] = q


def _row(measure: str, found: Any) -> dict[str, Any]:
    keys = ("difference", "low", "high", "p", "n")
    return {"measure": measure} | {key: getattr(found, key) for key in keys}


def _moved(before: Sequence[int], after: Sequence[int]) -> Array:
    """After minus before of each document; none where the documents are not the same."""
    if len(before) != len(after):
        return np.empty(0)
    return np.subtract(after, before, dtype=np.float64)


def _all(make: Any, raw: Mapping[str, Raw]) -> Table:
    """Rows of every stage and set."""
    return [
        {"stage": stage, "set": name} | row
        for stage, sets in raw.items()
        for name, values in sets.items()
        for row in make(values)
    ]


def _scores(side: Raw) -> Array:
    """Scores (n, 4) of a side; none: (0, 4)."""
    return np.array(side["scores"], dtype=np.float64).reshape(-1, len(SCORES))
