"""Tasks of the evaluation benchmark, and the files of rows that both sides read.

Local slices lack some official columns; rows get them here, before either side reads them.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workers.eval_work import Part

Row = dict[str, Any]
SUBJECTS = 4
"""Of MMLU: those with most rows."""


class Source(NamedTuple):
    """A task: its definitions, rows and size.

    Attributes:
        definition: Ours, in `evals/library`.
        official: The harness's YAML under its `tasks`, or "".
        file: Rows under the folder of data.
        limit: Items by default.
        adapt: Makes official columns.
        examples: Rows of examples under the folder of data; "" where they come from `file`.
        shots: Examples before a question.
    """

    definition: str
    official: str
    file: str
    limit: int
    adapt: Callable[[Row], Row] = dict
    examples: str = ""
    shots: int = 0


def whole_numbers(row: Row) -> Row:
    """BoolQ: the label as the index that the official rows hold."""
    return {**row, "label": int(row["label"])}


def split_context(row: Row) -> Row:
    """HellaSwag: the joined context apart again, where its last sentence is a beginning.

    The activity's label is lost; a fixed one stands for it.
    """
    first, dot, last = row["ctx"].rpartition(". ")
    begun = dot and last[:1].islower()
    halves = {"ctx_a": first + "." if begun else row["ctx"], "ctx_b": last if begun else ""}
    return {**row, **halves, "activity_label": "Scene"}


def named_page(row: Row) -> Row:
    """WikiText: the document under the official name too."""
    return {**row, "page": row["text"]}


SOURCES: Mapping[str, Source] = {
    "arc_easy": Source(
        "arc_easy", "arc/arc_easy.yaml", "eval-arc-easy/test.jsonl", 200
    ),
    "hellaswag": Source(
        "hellaswag", "hellaswag/hellaswag.yaml", "eval-hellaswag/test.jsonl", 100,
        split_context,
    ),
    "piqa": Source("piqa", "piqa/piqa.yaml", "eval-piqa/validation.jsonl", 200),
    "boolq": Source(
        "boolq", "super_glue/boolq/default.yaml",
        "eval-boolq/validation.jsonl.gz", 100, whole_numbers,
    ),
    "mmlu": Source(
        "mmlu", "mmlu/default/mmlu_{subject}.yaml", "eval-mmlu/test.jsonl", 100, shots=5
    ),
    "lambada": Source(
        "lambada", "lambada/lambada_openai.yaml", "eval-lambada/test.jsonl", 200
    ),
    "wikitext": Source(
        "wikitext", "wikitext/wikitext.yaml", "pretrain-wikitext2/test_raw.jsonl", 5,
        named_page,
    ),
    "gsm8k": Source(
        "gsm8k", "gsm8k/gsm8k.yaml", "eval-gsm8k/test.jsonl", 100,
        examples="eval-gsm8k/train.jsonl", shots=5,
    ),
    "multi30k": Source(
        "multi30k", "", "eval-multi30k/test_2016_flickr.jsonl", 100
    ),
}  # fmt: skip
CHOICE = ("arc_easy", "hellaswag", "piqa", "boolq", "mmlu")


def read_rows(file: Path) -> list[Row]:
    """Rows of a JSON Lines file, compressed or not."""
    data = file.read_bytes()
    text = gzip.decompress(data) if file.suffix == ".gz" else data
    return [json.loads(line) for line in text.decode("utf-8").splitlines()]


def write_rows(rows: Sequence[Row], file: Path) -> str:
    """Write JSON Lines; returns where."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_text(text, encoding="utf-8")
    return str(file)


def subjects(rows: Sequence[Row]) -> list[str]:
    """The subjects with most rows, in the order of their names."""
    counts = Counter(str(row["subject"]) for row in rows)
    most = sorted(counts, key=lambda name: (-counts[name], name))[:SUBJECTS]
    return sorted(most)


def parts(task: str, data: Path, folder: Path, limit: int | None) -> list[Part]:
    """Write a task's rows and say what is asked.

    Args:
        task: A name of `SOURCES`.
        data: Folder of the slices.
        folder: Where to write.
        limit: Items; None: the task's default.
    """
    source = SOURCES[task]
    rows = [source.adapt(row) for row in read_rows(data / source.file)]
    wanted = min(limit or source.limit, len(rows))
    if "{subject}" not in source.official:
        return [_part(task, task, rows[:wanted], _examples(source, data), folder)]
    found = []
    names = subjects(rows)
    for name in names:
        own = [row for row in rows if row["subject"] == name]
        shown, asked = own[: source.shots], own[source.shots :]
        size = max(1, wanted // len(names))
        found.append(_part(task, f"{task}_{name}", asked[:size], shown, folder))
    return found


def _examples(source: Source, data: Path) -> list[Row]:
    """Rows that examples come from."""
    if not source.examples:
        return []
    return [source.adapt(row) for row in read_rows(data / source.examples)[: source.shots]]


def _part(task: str, name: str, rows: list[Row], examples: list[Row], folder: Path) -> Part:
    """A part with its files."""
    source = SOURCES[task]
    subject = name.removeprefix(f"{task}_")
    return Part(
        name=f"alignkit_{name}",
        task=task,
        definition=source.definition,
        official=source.official.format(subject=subject),
        rows=write_rows(rows, folder / f"{name}.jsonl"),
        shots=source.shots,
        examples=write_rows(examples, folder / f"{name}.examples.jsonl") if examples else "",
    )
