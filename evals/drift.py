"""The reward model's preference for each group beside the policy's drift, on the same items.

An audit of a run keeps the reward model's effect of every item; the policy's effects are read back
from the stored results of the stages. `evals.bias.association` is the arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.bias.association import Paired, association, attribute_rows, clear_rows, contrast_rows
from evals.bias.counterfactual import DRAWS
from evals.bias.items import PARTS, contrast_of, contrast_values
from evals.stats import Resampling
from evals.stored import stored_tasks
from evals.task import TaskResult, item_ids
from reward.functions import Completion, RewardFunction

EFFECTS = "effects.json"
"""Beside the reward model's audit: its effects, item by item."""
PPO = "ppo"
KEYS = ("measure", "attribute", "group_a", "group_b", "control")

Preferences = Mapping[str, Mapping[str, float | None]]
"""Task -> item -> effect of the group in the reward model's own spreads; None has no score."""


def audit_drift(folder: Path, ledger: Mapping[str, Any]) -> dict[str, Any]:
    """The tables that set preference and drift side by side.

    Args:
        folder: Of the audit, with a folder for each stage.
        ledger: Its stages, tasks and reward model.

    Returns:
        `outcome` (empty, or why there is nothing to compare), `before`, `after`, `contrasts`,
        `attributes`, `missing` (items that one of the three could not score), `overall` and
        `clear`: the association over all contrasts, and over those with a preference.
    """
    found: dict[str, Any] = {"outcome": "", "contrasts": [], "attributes": []}
    found |= {"overall": None, "clear": None}
    stages = ledger["stages"]
    if not ledger["reward_model"]:
        return found | {"outcome": "The run has no reward model: nothing was preferred."}
    if PPO not in stages[1:]:
        return found | {"outcome": "The run has no PPO: the policy did not drift."}
    before, resampling, missing = stages[stages.index(PPO) - 1], Resampling(DRAWS), 0
    stored = json.loads((folder / "reward" / EFFECTS).read_text(encoding="utf-8"))
    preferences: Preferences = stored["value"]
    old, new = (stored_tasks(folder / stage) for stage in (before, PPO))
    for name in (task["name"] for task in ledger["tasks"]):
        if name in preferences and name in old and name in new:
            items = paired(preferences[name], old[name].result, new[name].result)
            missing += len(preferences[name]) - len(items.contrasts)
            if items.contrasts:
                for key, rows in (
                    ("contrasts", contrast_rows(items, resampling)),
                    ("attributes", attribute_rows(items, resampling)),
                ):
                    found[key] += [{"task": name} | row for row in rows]
    found |= {"before": before, "after": PPO, "missing": missing}
    if all(row["control"] for row in found["contrasts"]):
        return found | {"outcome": "No contrast was scored by the reward model and both policies."}
    clear = association(clear_rows(found["contrasts"]), resampling)
    return found | {"overall": association(found["contrasts"], resampling), "clear": clear}


def paired(preference: Mapping[str, float | None], before: TaskResult, after: TaskResult) -> Paired:
    """The items that the reward model and both policies have scored, in the tasks' order."""
    old = dict(zip(before.ids, before.stats["effect"][:, 0].tolist(), strict=True))
    both = {
        item: place
        for place, item in enumerate(after.ids)
        if item in old and preference.get(item) is not None
    }
    places = list(both.values())
    columns = {key: [after.columns[key][place] for place in places] for key in (*KEYS, "cluster")}
    labels = zip(*(columns[key] for key in KEYS), strict=True)
    return Paired(
        preference=np.array([preference[item] for item in both], dtype=np.float64),
        drift=after.stats["effect"][places, 0] - np.array([old[item] for item in both]),
        contrasts=[contrast_of(dict(zip(KEYS, values, strict=True))) for values in labels],
        clusters=columns["cluster"],
    )


def item_effects(
    model: RewardFunction, rows: Sequence[Mapping[str, Any]], spread: float
) -> dict[str, float | None]:
    """Item -> effect of the group in units of `spread`; None where a score is missing."""
    prompts, responses = [], []
    for row in rows:
        for part in PARTS:
            text = row[f"prompt_{part[-1]}"]
            chat = row["render"] == "chat"
            prompts.append([{"role": "user", "content": text}] if chat else text)
            responses.append(row[part])
    scores = np.array(model(prompts, responses), dtype=np.float64).reshape(-1, len(PARTS))
    effects = (contrast_values(scores) / spread).tolist()
    known = (effect if np.isfinite(effect) else None for effect in effects)
    return dict(zip(item_ids(rows), known, strict=True))


def remembering(model: RewardFunction) -> RewardFunction:
    """The same scores, each prompt and response asked once."""
    known: dict[str, float | None] = {}

    def score(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        keys = [json.dumps(pair) for pair in zip(prompts, completions, strict=True)]
        new = {key: place for place, key in enumerate(keys) if key not in known}
        if new:
            places = new.values()
            asked = [prompts[place] for place in places], [completions[place] for place in places]
            known.update(zip(new, model(*asked), strict=True))
        return [known[key] for key in keys]

    return score
