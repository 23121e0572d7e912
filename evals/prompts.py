"""Held-out prompts: every stage answers them, and reward functions score the answers.

The same prompts, temperature and length limit as in PPO, so the numbers are those PPO worked on.
`reward` is the reward model's own view, `score/NAME` that of one of PPO's reward functions, and
`score` what PPO added up from them. `gold` is the world's unbiased rule, where there is one: a
score that rises while gold falls is over-optimisation (Gao 2022, 2210.10760). Functions are asked
as in PPO, and what they say nothing of is left out of their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from align.data.encoding import decode_response, encode_prompt
from align.errors import UserError
from evals.metrics import mean_metric, ratio, spoken_rows, value_rows
from evals.stats import Array
from evals.task import Metric, Row, TaskResult, item_ids
from evals.tasks.asking import require_items, require_scored

if TYPE_CHECKING:
    from align.generation import Response
    from evals.engine import Engine

ScoreFunction = Callable[..., Sequence[float | None]]
"""(prompts, completions, **columns) -> one score a response."""
Total = Callable[[Mapping[str, Array]], Array]
"""Scores (n,) by name, NaN where a function said nothing -> what they add up to, (n,)."""
NAME, TOTAL, PART = "prompts", "score", "score/"
ALWAYS = {
    "reward": "the reward model's score in standard deviations of its scores",
    "gold": "the gold reward, which is only watched",
}
"""Scores that every response has."""


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
    """Name (reward, gold, score/NAME) -> maker of the function; called when one is to be scored."""
    total: Total | None = None
    """PPO's score, where it is not the reward model's alone."""
    name: str = NAME
    kind: str = "prompts"
    title: str = "Responses to held-out prompts"

    @property
    def named(self) -> tuple[str, ...]:
        """Every score of a response."""
        return (*([TOTAL] if self.total else []), *self.scores)

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
        return text + "".join(f"; {name} = {_meaning(name)}" for name in self.named)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Mean scores, mean length, share of finished responses."""
        means = [
            mean_metric(name, name, "higher", f"mean of {_meaning(name)}")
            if name in ALWAYS
            else Metric(name, name, ratio, "higher", f"mean of {_meaning(name)}", "ratio")
            for name in self.named
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
        columns = engine.team.from_main(partial(self._scored, used, drawn, answers))
        stats = {name: spoken_rows(values) for name, values in columns.items()}
        stats |= {"length": value_rows(lengths), "finished": value_rows(finished)}
        prompts = self.texts(used)
        return TaskResult(
            ids=tuple(ids[place] for place in places),
            stats=stats,
            samples=[
                {
                    "prompt": prompt,
                    "response": answer,
                    "length": lengths[index],
                    "finished": finished[index],
                    "scores": {name: _said(columns[name][index]) for name in self.named},
                }
                for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
            ],
            missing=missing,
        )

    def _scored(
        self, rows: Sequence[Row], drawn: Sequence[Response], answers: Sequence[str]
    ) -> dict[str, Array]:
        """Scores (n,) of the answers by name, NaN where a function says nothing.

        Raises:
            UserError: A function fails, or gives something else than finite numbers and None.
        """
        from reward.total import ask_function

        names = sorted({key for row in rows for key in row} - {"prompt"})
        columns: dict[str, list[Any]] = {key: [row.get(key) for row in rows] for key in names}
        columns["completion_ids"] = [list(response.ids) for response in drawn]  # as in TRL
        prompts = [row["prompt"] for row in rows]
        found = {}
        for name, make in self.scores.items():
            found[name] = ask_function(_own(name), make(), prompts, answers, columns)
            if name in ALWAYS and np.isnan(found[name]).any():
                raise UserError(f"{name} is silent on a response", where=f"task {self.name}")
        return found if self.total is None else {TOTAL: self.total(found)} | found


def _meaning(name: str) -> str:
    """A score in words."""
    if name == TOTAL:
        return "the weighted sum that PPO trained on, on the scales it ended with"
    said = f"what the reward function {_own(name)} says, without weight and scale"
    return ALWAYS.get(name, said)


def _own(name: str) -> str:
    """PPO's name of a function."""
    return name.removeprefix(PART)


def _said(score: float) -> float | None:
    """A score for readers; None where nothing was said."""
    return None if np.isnan(score) else float(score)


def _plain(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """A prompt for readers: one question as it is, a dialogue with its roles, a line a turn."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
