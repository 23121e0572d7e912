"""Open generation: k responses to each prompt about a group, scored locally, compared by group.

Toxicity, sentiment and regard come from the scorers that the evaluation names
(`reward.scorer`); refusal and length need none. A response that a scorer cannot judge is missing
from that number and counted, never called harmless. The same prompts and seed serve every model,
so its draws are common random numbers and changes are paired on the prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from align.config import TaskConfig
from align.data.encoding import decode_response, encode_prompt
from align.errors import UserError
from evals.answers import refuses
from evals.bias.open_groups import Grouped, change_rows, difference_rows, gap_rows, level_rows
from evals.bias.open_numbers import Number, Scored, score_numbers, statistics
from evals.bias.open_prompts import OPEN, Prompts, draw_prompts
from evals.metrics import ratio
from evals.stats import Array, Resampling
from evals.task import Metric, Row, TaskResult, item_ids

if TYPE_CHECKING:
    from evals.engine import Engine

WHOLE = "regard"
"""The scorer that reads the prompt too: regard is about the person whom the prompt names."""
COLUMNS = ("attribute", "group", "control")


@dataclass(frozen=True)
class OpenTask:
    """Sampled responses to one kind of prompts."""

    name: str
    kind: str
    samples: int
    temperature: float
    max_new_tokens: int
    seed: int
    chat: bool = False
    clusters: int | None = None
    """At most so many clusters of every group, drawn whole; None: all."""
    scorers: Mapping[str, str] = field(default_factory=dict)
    """Name -> reference; empty where only stored rows are read."""
    scored: Mapping[str, Scored] = field(default_factory=dict)
    """Name -> what is known of the scorer."""
    hurtful: str | None = None
    """File of hurtful words."""
    words: str | None = None
    """What pins it."""

    @classmethod
    def from_config(cls, name: str, config: TaskConfig) -> OpenTask:
        """The task of one entry, without scorers."""
        assert config.kind is not None
        return cls(
            name=name,
            kind=config.kind,
            samples=config.samples,
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            seed=config.seed,
            chat=bool(config.chat),
            clusters=config.clusters,
        )

    def judged(self, settings: Mapping[str, Any]) -> OpenTask:
        """The task with what its settings say of the scorers (`evals.plan.known_judges`)."""
        scored = {name: Scored(*known) for name, known in settings["scored"].items()}
        return replace(self, scored=scored, words=settings.get("words"))

    @property
    def prompts(self) -> Prompts:
        """The kind's reader and words."""
        return OPEN[self.kind]

    @property
    def title(self) -> str:
        """Heading in the report."""
        return f"{self.prompts.title}: open generation"

    @property
    def decoding(self) -> str:
        """How responses come about."""
        form = "chat" if self.chat else "plain text"
        return (
            f"{self.samples} sampled at temperature {self.temperature:g}, at most "
            f"{self.max_new_tokens} tokens, seed {self.seed}, {form}"
        )

    @property
    def definition(self) -> str:
        """What is asked and scored."""
        drawn = f"; at most {self.clusters} clusters of every group" if self.clusters else ""
        return (
            f"{self.samples} responses to each prompt, {self.decoding}{drawn}; a value of a prompt "
            "is the mean over its responses that have a score. "
            f"{'' if self.chat else 'Regard reads prompt and response. '}"
            f"{self.prompts.about}; a scorer has a bias of its own, which stands beside"
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every number over all prompts."""
        return tuple(
            Metric(
                number.name,
                number.name,
                ratio,
                "none",
                number.definition,
                "share" if number.share else "ratio",
                number.signature,
            )
            for number in self.numbers()
        )

    def numbers(self) -> list[Number]:
        """The task's numbers in order."""
        found = [
            number
            for name, scorer in self.scored.items()
            for number in score_numbers(name, scorer, self.samples)
        ]
        found += [
            Number(
                "refusal", "responses that open like a refusal (a rule on words)", "share", True
            ),
            Number("length", "tokens of a response without EOS", "tokens", False),
        ]
        if self.words is not None:
            text = "responses with a word or phrase of the list"
            found.append(Number("hurtful", text, "share", True, self.words))
        if self.words is not None and self.kind == "honest":
            text = "HONEST: completions (first words) in the list / (templates k), Nozza 2021"
            found.append(Number("honest", text, "share", True, self.words))
        return found

    def items(self, rows: Sequence[Row]) -> list[Row]:
        """The prompts of rows in the kind's format.

        Raises:
            UserError: No rows, or one lacks a column.
        """
        if not rows:
            raise UserError("no rows", where=self.name)
        items = self.prompts.read(rows, self.name)
        return items if self.clusters is None else draw_prompts(items, self.clusters, self.seed)

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Answer every prompt k times and score the answers.

        Raises:
            UserError: No prompt fits the model, or a scorer is gone.
        """
        encoded = [encode_prompt(engine.tokenizer, self._asked(row)) for row in rows]
        room = engine.max_length - self.max_new_tokens
        places = [place for place, ids in enumerate(encoded) if len(ids) <= room]
        lost = len(rows) - len(places)
        missing = {f"longer than {room} tokens": lost} if lost else {}
        if not places:
            raise UserError(f"no prompt could be answered ({missing})", where=self.name)
        repeated = [encoded[place] for place in places for _ in range(self.samples)]
        drawn = engine.sample(repeated, self.max_new_tokens, self.temperature, self.seed)
        texts = [decode_response(engine.tokenizer, response.ids) for response in drawn]
        lengths = np.array([len(r.ids) - int(r.finished) for r in drawn], dtype=np.float64)
        asked = [rows[place]["prompt"] for place in places for _ in range(self.samples)]
        values = engine.team.from_main(lambda: self._values(asked, texts)) | {"length": lengths}
        table = {name: own.reshape(len(places), self.samples) for name, own in values.items()}
        ids, kept = item_ids(rows), [rows[place] for place in places]
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats=statistics(table, self.scored, self.samples),
            samples=[
                {
                    "prompt": row["prompt"],
                    "group": row["group"],
                    "responses": texts[n * self.samples : (n + 1) * self.samples],
                    "scores": {
                        name: [None if np.isnan(v) else v for v in own[n].tolist()]
                        for name, own in table.items()
                    },
                }
                for n, row in enumerate(kept)
            ],
            clusters=tuple(row["cluster"] for row in kept),
            columns={key: tuple(str(row[key]) for row in kept) for key in COLUMNS},
            missing=missing,
        )

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """The prompts."""
        return [str(row["prompt"]) for row in rows]

    def groups(self, result: TaskResult, resampling: Resampling) -> list[dict[str, Any]]:
        """Every number by group."""
        return [
            row
            for number in self.numbers()
            for row in level_rows(
                grouped(result, number.name),
                number.name,
                share=number.share,
                confidence=resampling.confidence,
            )
        ]

    def bias(self, result: TaskResult, confidence: float) -> list[dict[str, Any]]:
        """Signed differences between groups, and the gaps."""
        rows = []
        for name, unit in self._compared().items():
            data = grouped(result, name)
            rows += difference_rows(data, name, unit, confidence)
            rows += gap_rows(data, name, unit, Resampling(confidence=confidence))
        return rows

    def bias_changes(
        self, before: TaskResult, after: TaskResult, confidence: float
    ) -> list[dict[str, Any]]:
        """Changes of the differences, paired on the prompts."""
        return [
            row
            for name in self._compared()
            for row in change_rows(grouped(before, name), grouped(after, name), name, confidence)
        ]

    def _compared(self) -> dict[str, str]:
        """Name -> unit of the numbers compared between groups: of the extremes the chance in k."""
        kept = f"_any@{self.samples}"
        return {
            number.name: number.unit
            for number in self.numbers()
            if number.name.endswith(kept) or not re.search("@|_missing$", number.name)
        }

    def _asked(self, row: Row) -> Any:
        """The prompt as the model gets it."""
        return [{"role": "user", "content": row["prompt"]}] if self.chat else row["prompt"]

    def _values(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, Array]:
        """Scores (P k,) of the responses by every scorer and rule; NaN where there is none."""
        from reward.lexical import word_list
        from reward.scorer import open_scorer

        found: dict[str, Array] = {}
        for name, reference in self.scorers.items():
            whole = name == WHOLE and not self.chat
            read = [p + t for p, t in zip(prompts, texts, strict=True)] if whole else texts
            # an empty response has nothing to judge, whatever the prompt says
            scores = open_scorer(reference).score(read)
            spoken = zip(texts, scores, strict=True)
            found[name] = np.array([s if t.strip() else None for t, s in spoken], dtype=np.float64)
        found["refusal"] = np.array([refuses(text) for text in texts], dtype=np.float64)
        if self.hurtful is not None:
            pattern, _ = word_list(Path(self.hurtful), "evals.hurtful")
            hits = [bool(pattern.search(text)) for text in texts]
            found["hurtful"] = np.array(hits, dtype=np.float64)
            if self.kind == "honest":
                first = [bool(pattern.fullmatch(first_word(text))) for text in texts]
                found["honest"] = np.array(first, dtype=np.float64)
        return found


def grouped(result: TaskResult, name: str) -> Grouped:
    """Rows of one number with the groups of the items."""
    assert result.clusters is not None
    attributes, groups, controls = (result.columns[key] for key in COLUMNS)
    flags = [control == "True" for control in controls]
    return Grouped(result.stats[name], attributes, groups, result.clusters, flags)


def first_word(text: str) -> str:
    """The word that fills a blank: the first one, without punctuation around it."""
    return next(iter(text.split()), "").strip(".,;:!?\"'()")
