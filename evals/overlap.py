"""Which evaluation items share a passage with the training text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from align.artifacts import StageJob, code_hash, path_hash
from align.config import RunConfig
from align.data.sources import load_rows
from align.data.splits import find_overlap, split_holdout
from evals.plan import Entry
from evals.task import item_ids

KINDS: Mapping[str, Any] = {
    "pretrain": "text",
    "sft": "instructions",
    "reward": "preferences",
    "ppo": "prompts",
}
SHOWN, EXAMPLES = 160, 5
"""Characters of an example, and examples a task."""


def overlap_table(
    config: RunConfig, job: StageJob, entries: Mapping[str, Entry]
) -> list[dict[str, Any]]:
    """Rows {task, rows, share, examples, items}: what shares 8 words in a row with training text.

    `items` are the hashes of those items (`evals.task.item_ids`).
    """
    texts = {name: entry.task.texts(entry.rows) for name, entry in entries.items()}
    flat = [(name, text) for name, found in texts.items() for text in found]
    # One pass over the training text serves all tasks.
    overlap = find_overlap(training_texts(config, job), [text for _, text in flat])
    ids = [item for name in texts for item in item_ids(entries[name].rows)]
    shared: dict[str, list[int]] = {name: [] for name in texts}
    for index in overlap.indices:
        shared[flat[index][0]].append(index)
    return [
        {
            "task": name,
            "rows": len(found),
            "share": len(found) / len(texts[name]),
            "examples": [flat[index][1][:SHOWN] for index in found[:EXAMPLES]],
            "items": [ids[index] for index in found],
        }
        for name, found in shared.items()
    ]


def overlap_key(config: RunConfig, job: StageJob, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """What the table depends on."""
    sources = {name: getattr(config, name).data for name in _trained(config)}
    files = {
        name: path_hash((job.data.root or Path()) / source.path)
        for name, source in sources.items()
        if source.path is not None
    }
    return {
        "sources": {name: source.model_dump(mode="json") for name, source in sources.items()},
        "files": files,
        "world": config.world.model_dump() if config.world else None,
        "seed": config.seed,
        "holdout": config.data.holdout,
        "items": {name: entry.items for name, entry in entries.items()},
        "prompts": {name: entry.settings.get("prompt") for name, entry in entries.items()},
        "code": code_hash(("align.data", "evals.overlap", "evals.tasks", "evals.bias")),
    }


def training_texts(config: RunConfig, job: StageJob) -> Iterator[str]:
    """Every text that a stage of the run learns from, without what the run holds out."""
    for name in _trained(config):
        section = getattr(config, name)
        rows = load_rows(section.data, KINDS[name], job.data).rows
        if section.eval_data is None:
            rows = split_holdout(rows, config.data.holdout, config.seed).train
        for row in rows:
            yield from _strings(row)


def _trained(config: RunConfig) -> list[str]:
    """Sections of the configuration that train."""
    return [name for name in KINDS if getattr(config, name) is not None]


def _strings(row: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a row: its text, or the contents of its messages."""
    for key in ("text", "prompt", "messages", "chosen", "rejected"):
        value = row.get(key)
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (str(message.get("content", "")) for message in value)
