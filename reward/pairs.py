"""What reward training reads: encoded preference pairs, their counterparts, reference samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from align.artifacts import StageJob, json_hash
from align.config import RewardConfig, RunConfig
from align.config.reward import ReferenceConfig
from align.data.encoding import decode_response, encode_prompt
from align.data.sources import load_rows
from align.data.swaps import augment, load_swaps
from align.errors import UserError
from align.models import load_model, pick_device
from align.references import ModelReference
from align.training import load_split, training_reference
from reward.start import Start, load_start

TOO_LONG = "longer than max_length"
Row = dict[str, Any]


class Encoded(NamedTuple):
    """Pairs that fit, as rows and as token ids, and the number of those that do not."""

    rows: list[Row]
    ids: list[Row]
    left_out: int


class Samples(NamedTuple):
    """Prompts with one response each."""

    prompts: list[Any]
    responses: list[Any]


class Work(NamedTuple):
    """What a reward stage works on.

    Attributes:
        reference: The model to start from, in the number format of training.
        start: That model as a classifier.
        pairs: To train on.
        judged: Held out.
        samples: Whose scores are to have mean 0 and spread 1; None: the held-out responses.
        records: One a data source.
    """

    reference: ModelReference
    start: Start
    pairs: Encoded
    judged: Encoded
    samples: Samples | None
    records: list[Row]


def prepare(config: RunConfig, job: StageJob) -> Work:
    """Read and encode what the stage trains and judges on.

    Raises:
        UserError: `max_length` exceeds the model's context, no pair fits it, or a bad row.
    """
    section = config.reward
    assert section is not None
    train, held, records = load_split(section, "preferences", config, job)
    train = _augmented(train, section, job, records)
    reference = training_reference(job.inputs["base"], config, full=section.lora is None)
    start = load_start(reference, config.seed)
    if section.max_length > start.context:
        raise UserError(
            f"{section.max_length} exceeds the model's context of {start.context}",
            where="reward.max_length",
        )
    pairs = encode_pairs(start.encode, train, section.max_length, "reward.data")
    judged = encode_pairs(start.encode, held, section.max_length, "reward.eval_data")
    records[0]["dropped"] = {**records[0]["dropped"], TOO_LONG: pairs.left_out}
    samples = _load_samples(section, job, records)
    if section.normalise is not None and section.normalise.sampled is not None:
        samples = sampled(section.normalise, start, held, job.inputs["base"], config)
    return Work(reference, start, pairs, judged, samples, records)


def encode_pairs(
    encode: Callable[[Any, Any], list[int]], rows: Sequence[Row], longest: int, where: str
) -> Encoded:
    """Both sides of every pair as token ids, at most `longest` each, with the column `margin`.

    Raises:
        UserError: No pair fits, or only some rows have a margin or it is no finite number.
    """
    with_margin = any("margin" in row for row in rows)
    kept, ids = [], []
    for number, row in enumerate(rows, 1):
        sides: Row = {
            f"{side}_ids": encode(row["prompt"], row[side]) for side in ("chosen", "rejected")
        }
        if max(map(len, sides.values())) <= longest:
            kept.append(row)
            ids.append(sides | ({"margin": _margin(row, number, where)} if with_margin else {}))
    if not kept:
        raise UserError(
            f"none of {len(rows)} pairs fits {longest} tokens",
            where=where,
            remedy="raise reward.max_length",
        )
    return Encoded(kept, ids, len(rows) - len(kept))


def _margin(row: Row, number: int, where: str) -> float:
    """How much more the chosen response should score."""
    value = row.get("margin")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(
            f"pair {number}: margin is {value!r}",
            where=where,
            allowed="a finite number in every row, or no column margin",
        )
    return float(value)


def _augmented(
    rows: list[Row], section: RewardConfig, job: StageJob, records: list[Row]
) -> list[Row]:
    """The pairs, and their counterparts if the section wants them; the first record counts them.

    Raises:
        UserError: No pair holds a word of the exchanges.
    """
    if section.augment is None:
        return rows
    found = augment(rows, load_swaps(section.augment, job.data))
    records[0]["counterparts"] = len(found.rows) - len(rows)
    if not records[0]["counterparts"]:
        raise UserError(f"none of {len(rows)} pairs holds a word to exchange", where="augment")
    return found.rows


def _load_samples(section: RewardConfig, job: StageJob, records: list[Row]) -> Samples | None:
    """The reference samples: the last answer of each dialogue and what led to it."""
    if section.normalise is None or section.normalise.data is None:
        return None
    rows, record = load_rows(section.normalise.data, "instructions", job.data)
    records.append(record)
    turns = [row["messages"] for row in rows]
    return Samples([turn[:-1] for turn in turns], [turn[-1:] for turn in turns])


def sampled(
    given: ReferenceConfig,
    start: Start,
    held: Sequence[Row],
    reference: ModelReference,
    config: RunConfig,
) -> Samples:
    """Answers of the model that the stage starts from to the first held-out prompts that fit.

    Raises:
        UserError: The model is an encoder, or no prompt leaves room for an answer.
    """
    from evals.engine import Engine

    where = "reward.normalise.sampled"
    if not start.causal:
        raise UserError("the model writes no text", where=where, allowed="a causal LM, or `data`")
    loaded = load_model(reference, device=pick_device(config.device))
    engine, new = Engine(loaded.model, loaded.tokenizer), given.max_new_tokens
    prompts = {json_hash(row["prompt"]): row["prompt"] for row in held}.values()
    encoded = [(prompt, encode_prompt(loaded.tokenizer, prompt)) for prompt in prompts]
    room = min(engine.max_length, start.context) - new - 1  # the scorer reads an EOS too
    fitting = [pair for pair in encoded if len(pair[1]) <= room][: given.sampled]
    if not fitting:
        raise UserError(f"no held-out prompt leaves room for {new} tokens", where=where)
    drawn = engine.sample([ids for _, ids in fitting], new, given.temperature, config.seed)
    engine.close()
    answers = [decode_response(loaded.tokenizer, response.ids) for response in drawn]
    return Samples([prompt for prompt, _ in fitting], answers)
