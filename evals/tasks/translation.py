"""Translation, or any answer with one reference: greedy generation, corpus BLEU and chrF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from align.config import TaskConfig
from align.errors import UserError
from evals.metrics import bleu_metric, bleu_rows, chrf_metric, chrf_rows
from evals.task import Metric, Row, TaskResult, item_ids
from evals.tasks.asking import Question, column, require_items, require_scored

if TYPE_CHECKING:
    from evals.engine import Engine


@dataclass(frozen=True)
class TranslationTask:
    """Generate an answer to each row's question and compare it with the row's reference."""

    name: str
    question: Question
    target: str
    max_new_tokens: int = 48
    kind: str = "translation"

    @classmethod
    def from_config(cls, name: str, config: TaskConfig) -> TranslationTask:
        """The task of a configuration.

        Raises:
            UserError: A field is missing.
        """
        if config.prompt is None or config.target is None:
            raise UserError("translation needs prompt and target", where=f"evals.tasks.{name}")
        question = Question(name, config.prompt, config.chat is not False)
        return cls(name, question, config.target, config.max_new_tokens)

    @property
    def title(self) -> str:
        """Heading in the report."""
        return f"Translation: {self.name}"

    @property
    def decoding(self) -> str:
        """How responses come about."""
        stop = "EOS" if self.question.chat else "EOS or a line break"
        return f"greedy to {stop}, at most {self.max_new_tokens} tokens"

    @property
    def definition(self) -> str:
        """How an item is scored."""
        asked = "through the chat template" if self.question.chat else "as plain text"
        return (
            f"Asked {asked}, answered by {self.decoding}; corpus BLEU and chrF2 by sacrebleu "
            "against one reference, outer spaces removed"
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """BLEU and chrF."""
        return (bleu_metric(), chrf_metric())

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """What the questions are about, and their references."""
        return [
            f"{self.question.content(row, number)} {self._reference(row, number)}"
            for number, row in enumerate(rows, start=1)
        ]

    def _reference(self, row: Row, number: int) -> str:
        return str(column(row, self.target, self.name, number)).strip()

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Answer every row.

        Raises:
            UserError: A row lacks a column, or no row could be answered.
        """
        require_items(rows, self.name)
        references = [self._reference(row, number) for number, row in enumerate(rows, start=1)]
        prompts = [self.question.text(row, number) for number, row in enumerate(rows, start=1)]
        encoded = [self.question.ids(engine.tokenizer, prompt) for prompt in prompts]
        room = engine.max_length - self.max_new_tokens
        places = [index for index, ids in enumerate(encoded) if len(ids) <= room]
        missing: Counter[str] = Counter()
        if len(places) < len(rows):
            missing[f"longer than {room} tokens"] = len(rows) - len(places)
        require_scored(places, dict(missing), self.name)
        stop = () if self.question.chat else ("\n",)
        drawn = engine.generate([encoded[place] for place in places], self.max_new_tokens, stop)
        answers = [response.text.strip() for response in drawn]
        ids, wanted = item_ids(rows), [references[place] for place in places]
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats={"bleu": bleu_rows(answers, wanted), "chrf": chrf_rows(answers, wanted)},
            samples=[
                {
                    "prompt": prompts[place],
                    "response": answer,
                    "reference": references[place],
                    "finished": response.finished,
                }
                for place, answer, response in zip(places, answers, drawn, strict=True)
            ],
            missing=dict(missing),
        )
