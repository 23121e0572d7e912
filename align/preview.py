"""What a run would read: every source's rows, an example, and the overlap with training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from align.config import RunConfig
from align.data.sources import load_rows
from align.data.splits import find_overlap
from align.stages import STAGES, data_context, sources

WIDTH = 160
"""Characters of an example that are shown."""


def preview(config: RunConfig) -> Iterator[str]:
    """Lines on every source of the run, as they are read.

    Raises:
        UserError: a source cannot be read.
    """
    context = data_context(config)
    train: list[str] = []
    for stage in STAGES:
        if getattr(config, stage.name) is None:
            continue
        for key, (source, kind) in sources(config, stage.name).items():
            rows, record = load_rows(source, kind, context)  # type: ignore[arg-type]
            texts = [row_text(row) for row in rows]
            yield from _describe(key, kind, record, rows)
            if key.endswith(".eval_data") or stage.name == "evals":
                overlap = find_overlap(train, texts)
                share = f"{overlap.rows} rows ({overlap.share:.1%})"
                yield f"  overlap   {share} share {overlap.n} words in a row with training"
            else:
                train += texts


def row_text(row: dict[str, Any]) -> str:
    """All text of a row, whatever its format."""
    return " ".join(_strings(row))


def _strings(value: Any) -> Iterator[str]:
    """The strings in a row, but for the roles of a dialogue."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "role":
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _describe(
    key: str, kind: str, record: dict[str, Any], rows: Iterable[dict[str, Any]]
) -> Iterator[str]:
    """The lines of one source."""
    yield f"{key}: {record['rows']:,} rows of {kind} from {record['source']}"
    if record["dropped"]:
        reasons = ", ".join(f"{count} {why}" for why, count in record["dropped"].items())
        yield f"  left out  {reasons}"
    for row in list(rows)[:1]:
        text = json.dumps(row, ensure_ascii=False)
        yield f"  example   {text if len(text) <= WIDTH else text[:WIDTH] + '...'}"
