"""Held-out prompts: every stage answers them, and reward functions score the answers.

The same prompts, temperature and length limit as in PPO, so the numbers are those PPO worked on.
`reward` is the reward model's own view; `gold` is the world's unbiased rule, where there is one:
a reward that rises while gold falls is over-optimisation (Gao 2022, 2210.10760).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from align.data.encoding import decode_response, encode_prompt
from align.errors import UserError
from evals.metrics import mean_metric, ratio, value_rows
from evals.stats import Array
from evals.task import Metric, Row, TaskResult, item_ids
from evals.tasks.asking import require_items, require_scored

if TYPE_CHECKING:
    from evals.engine import Engine

ScoreFunction = Callable[..., Sequence[float | None]]
"""(prompts, completions, **columns) -> one score a response."""
NAME = "prompts"


@dataclass(frozen=True)
class Answering:
    """How responses are sampled."""

    temperature: float
    max_prompt_length: int
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class PromptsTask:
    """Sample one response to each prompt and score it."""

    answering: Answering
    scores: Mapping[str, Callable[[], ScoreFunction]]
    """Name (reward, gold) -> maker of the function; called when something is to be scored."""
    name: str = NAME
    kind: str = "prompts"
    title: str = "Responses to held-out prompts"

    @property
    def decoding(self) -> str:
        """How responses come about."""
        how = self.answering
        return (
            f"sampled at temperature {how.temperature:g}, at most {how.max_new_tokens} tokens, "
            f"seed {how.seed}"
        )

    @property
    def definition(self) -> str:
        """How an item is scored."""
        text = f"One response to each prompt, {self.decoding}; its length in tokens without EOS"
        named = {
            "reward": "; reward = the reward model's score in standard deviations of its scores",
            "gold": "; gold = the unbiased rule of the generated world",
        }
        return text + "".join(named.get(name, f"; {name}") for name in self.scores)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean scores, mean length, share of finished responses."""
        texts = {
            "reward": "mean score of the reward model",
            "gold": "mean score of the world's rule",
        }
        means = [
            mean_metric(name, name, "higher", texts.get(name, f"mean {name}"))
            for name in self.scores
        ]
        length = mean_metric("length", "length", "none", "mean tokens of a response without EOS")
        done = "responses that end by themselves / responses"
        finished = Metric("finished", "finished", ratio, "higher", done, "proportion")
        return (*means, length, finished)

    def texts(self, rows: Sequence[Row]) -> list[str]:
        """The prompts' text."""
        return [_plain(row["prompt"]) for row in rows]

    def evaluate(self, engine: Engine, rows: Sequence[Row]) -> TaskResult:
        """Answer every prompt and score the answers.

        Raises:
            UserError: No prompt could be answered, or a score is not finite.
        """
        require_items(rows, self.name)
        how = self.answering
        encoded = [encode_prompt(engine.tokenizer, row["prompt"]) for row in rows]
        room = min(how.max_prompt_length, engine.max_length - how.max_new_tokens)
        places = [index for index, ids in enumerate(encoded) if len(ids) <= room]
        lost = len(rows) - len(places)
        missing = {f"longer than {room} tokens": lost} if lost else {}
        require_scored(places, missing, self.name)
        used, ids = [rows[place] for place in places], item_ids(rows)
        drawn = engine.sample(
            [encoded[place] for place in places], how.max_new_tokens, how.temperature, how.seed
        )
        answers = [decode_response(engine.tokenizer, response.ids) for response in drawn]
        finished = [response.finished for response in drawn]
        lengths = [len(r.ids) - int(r.finished) for r in drawn]
        # One process scores: the others need no reward model.
        columns = {
            name: engine.team.from_main(partial(self._score, name, used, answers))
            for name in self.scores
        }
        columns |= {"length": np.array(lengths, float), "finished": np.array(finished, float)}
        prompts = self.texts(used)
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats={name: value_rows(values) for name, values in columns.items()},
            samples=[
                {
                    "prompt": prompt,
                    "response": answer,
                    "length": lengths[index],
                    "finished": finished[index],
                    "scores": {name: float(columns[name][index]) for name in self.scores},
                }
                for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
            ],
            missing=missing,
        )

    def _score(self, name: str, rows: Sequence[Row], answers: Sequence[str]) -> Array:
        """Scores (n,) of the answers by one function.

        Raises:
            UserError: A score is not finite.
        """
        prompts = [row["prompt"] for row in rows]
        names = sorted({key for row in rows for key in row} - {"prompt"})
        columns: dict[str, list[Any]] = {key: [row.get(key) for row in rows] for key in names}
        # A conversational prompt is answered by a message, as in TRL.
        completions: list[Any] = [
            answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        values = np.asarray(self.scores[name]()(prompts, completions, **columns), dtype=np.float64)
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise UserError(
                f"{name} gave {values[place]} for the response {answers[place]!r}",
                where=f"task {self.name}",
                allowed="finite scores",
            )
        return values


def _plain(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """A prompt for readers: one question as it is, a dialogue with its roles, a line a turn."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
