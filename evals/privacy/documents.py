"""Documents whose place is known - trained on or held out - as rows and as token ids."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from align.artifacts import StageJob
from align.config import AuditConfig, CanaryConfig, RunConfig, SourceConfig
from align.data.encoding import encode_conversation, encode_prompt, encode_response
from align.data.sources import load_rows
from align.data.splits import content_key, split_holdout
from evals.requests import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from align.data.formats import Kind

KINDS: dict[str, Kind] = {"pretrain": "text", "sft": "instructions"}
"""Stages whose rows a language model learns to say; PPO and reward training see other losses."""


@dataclass(frozen=True)
class KnownSet:
    """Rows that a stage was trained on, and rows of the same source that it was not."""

    name: str
    kind: Kind
    members: list[dict[str, Any]]
    others: list[dict[str, Any]]
    repeated: int = 0
    """Held-out rows left out because training rows have the same content."""
    longest: int | None = None
    """Dialogues of more tokens were not trained on."""
    canaries: CanaryConfig | None = None


class Document(NamedTuple):
    """One row as token ids."""

    context: Ids
    """What stands before it: BOS, or the question of a dialogue."""
    ids: Ids
    """What is to be predicted, at least one token."""
    dialogue: bool


class Continued(NamedTuple):
    """A prompt, and the tokens that a model which knows the document by heart goes on with."""

    prompt: Ids
    target: Ids


def known_sets(config: RunConfig, job: StageJob) -> list[KnownSet]:
    """The training rows of pretraining and SFT, with what the run holds out, canaries apart.

    Raises:
        UserError: A source cannot be read.
    """
    found = []
    for name, kind in KINDS.items():
        section = getattr(config, name)
        if section is None:
            continue
        rows: list[Any] = list(load_rows(section.data, kind, job.data).rows)
        if section.eval_data is not None:
            held: list[Any] = list(load_rows(section.eval_data, kind, job.data).rows)
        else:
            rows, held = split_holdout(rows, config.data.holdout, config.seed)
        longest = section.max_length if kind == "instructions" else None
        others, repeated = without_repeats(rows, held)
        found.append(KnownSet(name, kind, rows, others, repeated, longest, section.canaries))
    return found


def given_set(train: str, heldout: str, job: StageJob) -> KnownSet:
    """Two files of texts.

    Raises:
        UserError: One cannot be read.
    """
    members, held = (
        list(load_rows(SourceConfig(path=path), "text", job.data).rows) for path in (train, heldout)
    )
    others, repeated = without_repeats(members, held)
    return KnownSet("given", "text", members, others, repeated)


def without_repeats(
    members: Sequence[dict[str, Any]], held: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], int]:
    """Held-out rows whose whole content is in no training row, and how many are left out."""
    seen = {_content(row) for row in members}
    kept = [row for row in held if _content(row) not in seen]
    return kept, len(held) - len(kept)


def drawn(rows: Sequence[dict[str, Any]], most: int, seed: int) -> list[dict[str, Any]]:
    """At most so many rows, drawn by the seed, in their order."""
    if len(rows) <= most:
        return list(rows)
    places = random.Random(f"documents/{seed}").sample(range(len(rows)), most)
    return [rows[place] for place in sorted(places)]


def row_text(row: dict[str, Any]) -> str:
    """All that a row says."""
    if "text" in row:
        return str(row["text"])
    return "\n".join(str(message["content"]) for message in row["messages"])


def encode_document(
    tokenizer: PreTrainedTokenizerBase, prefix: int, row: dict[str, Any], longest: int | None
) -> Document | None:
    """A text behind `prefix`, or the last answer of a dialogue behind its question, with its EOS.

    None for an empty text, and for a dialogue that is too long to have been trained on.
    """
    if "text" in row:
        text = str(row["text"])
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return Document((prefix,), tuple(ids), False) if ids else None
    turns = row["messages"]
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "assistant")
    if longest is not None and len(encode_conversation(tokenizer, turns).ids) > longest:
        return None
    context = encode_prompt(tokenizer, turns[:last])
    return Document(tuple(context), tuple(encode_response(tokenizer, [turns[last]])), True)


def continued(document: Document, settings: AuditConfig, room: int) -> Continued | None:
    """The document cut into prompt and target; None where it is too short, or has no room.

    A text gives `prompt_tokens`; a dialogue its question, and of the answer what is missing then.
    """
    given = settings.prompt_tokens
    if document.dialogue:
        given = max(0, given - len(document.context))
    end = given + settings.next_tokens
    if len(document.ids) < end or len(document.context) + end > room:
        return None
    return Continued(document.context + document.ids[:given], document.ids[given:end])


def _content(row: dict[str, Any]) -> str:
    """A row's whole content, without differences of case and spacing."""
    return content_key({"text": row_text(row)})
