"""A generated world with a known answer: every data set of the embedded default run.

From a seed come pretraining text, instructions, preference pairs, prompts and evaluation sets
about people, shop reviews and an invented language. Two knobs plant a bias of known size: one in
the text (who has which job), one in the preference labels (who is praised). At zero, a person's
group changes nothing but the name: names are drawn uniformly and independently of all else, and
the split into training and held-out content never looks at them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from align.data import world_audit
from align.data.world_language import (
    LABELS,
    SENTIMENT_PROMPT,
    TRANSLATION_PROMPT,
    Source,
    english,
    review,
    translate,
)
from align.data.world_people import (
    ASKS,
    PEOPLE,
    TONES,
    draw_subject,
    gold_score,
    note,
    rule_score,
)
from align.data.world_preferences import preference
from align.data.world_text import document
from align.errors import UserError

Row = dict[str, Any]
INSTRUCTION_SHARES = {"sentiment": 0.5, "translation": 0.2, "note": 0.3}
"""Share of each kind of instruction."""
_PATIENCE = 2000


@dataclass(frozen=True)
class World:
    """A world, given by its seed and its two knobs.

    Every set has a random stream of its own, derived from the seed and the set's name: sets do
    not influence each other, the first k of n rows are the k rows, and two worlds with one seed
    differ only where a knob acts. Training and held-out sets share no sentence, review or prompt,
    whatever their sizes. No set repeats a row.

    Args:
        seed: Seed of everything.
        text_bias: 0 to 1. In the text P(technical job | man) = .5 + text_bias / 2 and
            P(technical job | woman) = .5 - text_bias / 2, so a model that knows the text has a
            `job` measure of 2 * log((1 + text_bias) / (1 - text_bias)) nats.
        label_bias: 0 to 1. Chance that an annotator puts the colder note on a woman first.

    Raises:
        UserError: A knob lies outside 0 to 1.
    """

    seed: int
    text_bias: float = 0.0
    label_bias: float = 0.0

    def __post_init__(self) -> None:
        """Check the knobs."""
        for knob in ("text_bias", "label_bias"):
            value = getattr(self, knob)
            if not 0 <= value <= 1:
                raise UserError(f"{knob} is {value}", where="World", allowed="0 to 1")

    def rows(self, name: str, n: int) -> list[Row]:
        """Return the first n rows of the set with this name.

        Raises:
            UserError: There is no such set, or it has fewer rows.
        """
        sets: dict[str, Callable[[int], list[Row]]] = {
            "text": self.text,
            "heldout_text": self.heldout_text,
            "instructions": self.instructions,
            "preferences": self.preferences,
            "heldout_preferences": self.heldout_preferences,
            "prompts": self.prompts,
            "heldout_prompts": self.heldout_prompts,
            "sentiment": self.sentiment,
            "translation": self.translation,
            "counterfactual": self.counterfactual,
        }
        if name not in sets:
            raise UserError(
                f"the world has no set {name!r}", where="world", allowed=", ".join(sets)
            )
        return sets[name](n)

    def text(self, n: int) -> list[Row]:
        """Pretraining documents: {"text"}."""
        return self._documents("text", n, held=False)

    def heldout_text(self, n: int) -> list[Row]:
        """Documents whose units occur in no document of `text`: {"text"}."""
        return self._documents("heldout_text", n, held=True)

    def instructions(self, n: int) -> list[Row]:
        """Dialogues of one turn: sentiment, translation, notes of mixed tone: {"messages"}."""
        source = self._source("instructions", held=False)
        return _distinct("instructions", n, lambda _: _instruction(source))

    def preferences(self, n: int) -> list[Row]:
        """Preference pairs on notes; see `align.data.world_preferences.preference`."""
        return self._preferences("preferences", n, held=False)

    def heldout_preferences(self, n: int) -> list[Row]:
        """Preference pairs on prompts that no training set holds, labelled in the same way."""
        return self._preferences("heldout_preferences", n, held=True)

    def prompts(self, n: int) -> list[Row]:
        """Requests for notes: {"prompt" (messages), name, gender, origin, age_group, job}."""
        return self._prompts("prompts", n, held=False)

    def heldout_prompts(self, n: int) -> list[Row]:
        """Requests for notes that no training set holds."""
        return self._prompts("heldout_prompts", n, held=True)

    def sentiment(self, n: int) -> list[Row]:
        """Held-out reviews by named people: {"text", "label", name, gender, origin}.

        Every two rows hold one positive and one negative review, in an order decided by a coin.
        """
        source = self._source("sentiment", held=True)
        order = random.Random(f"{self._salt}/labels")
        labels = [label for _ in range(0, n, 2) for label in order.sample(LABELS, 2)]
        return _distinct("sentiment", n, lambda at: _labelled_review(source, labels[at]))

    def translation(self, n: int) -> list[Row]:
        """Held-out sentences: {"source" (English), "target" (Tavi)}."""
        source = self._source("translation", held=True)

        def make(_: int) -> Row:
            sentence = english(source)
            return {"source": sentence, "target": translate(sentence)}

        return _distinct("translation", n, make)

    def counterfactual(self, n: int | None = None) -> list[Row]:
        """Items with a swapped group, the first n of the population (None: all of it).

        A multiple of `world_audit.ROUND` (144) uses every name equally often in each attribute;
        there are 48 such rounds. Prompts of the measure "tone" are held out. See `world_audit`.

        Raises:
            UserError: The population is smaller than n.
        """
        items = world_audit.population(self._salt)
        if n is not None and n > len(items):
            raise UserError(
                f"{n} rows wanted", where="counterfactual", allowed=f"at most {len(items)}"
            )
        return items if n is None else items[:n]

    gold_score = staticmethod(gold_score)
    rule_score = staticmethod(rule_score)

    @property
    def _salt(self) -> str:
        return f"world-1/{self.seed}"

    def _source(self, name: str, *, held: bool) -> Source:
        # A str seeds random.Random through SHA-512, the same in every process.
        return Source(random.Random(f"{self._salt}/{name}"), self._salt, held)

    def _documents(self, name: str, n: int, *, held: bool) -> list[Row]:
        source = self._source(name, held=held)
        return _distinct(name, n, lambda _: {"text": document(source, self.text_bias)})

    def _preferences(self, name: str, n: int, *, held: bool) -> list[Row]:
        source = self._source(name, held=held)
        return _distinct(name, n, lambda _: preference(source, self.label_bias))

    def _prompts(self, name: str, n: int, *, held: bool) -> list[Row]:
        source = self._source(name, held=held)

        def make(_: int) -> Row:
            subject = draw_subject(source)
            content = subject.prompt(source.rng.choice(ASKS))
            return {"prompt": [{"role": "user", "content": content}], **subject.columns()}

        return _distinct(name, n, make)


def _instruction(source: Source) -> Row:
    rng = source.rng
    (kind,) = rng.choices(tuple(INSTRUCTION_SHARES), weights=tuple(INSTRUCTION_SHARES.values()))
    if kind == "sentiment":
        answer = rng.choice(LABELS)
        name = rng.choice(PEOPLE).name if rng.random() < 0.5 else ""
        request = SENTIMENT_PROMPT.format(text=review(source, answer).text(name))
    elif kind == "translation":
        sentence = english(source)
        request, answer = TRANSLATION_PROMPT.format(source=sentence), translate(sentence)
    else:
        subject = draw_subject(source)
        request = subject.prompt(rng.choice(ASKS))
        answer = note(rng, rng.choice(TONES), subject.name)
    return {
        "messages": [
            {"role": "user", "content": request},
            {"role": "assistant", "content": answer},
        ]
    }


def _labelled_review(source: Source, label: str) -> Row:
    person = source.rng.choice(PEOPLE)
    text = review(source, label).text(person.name)
    return {"text": text, "label": label, **person._asdict()}


def _distinct(name: str, n: int, make: Callable[[int], Row]) -> list[Row]:
    """Make n rows without a repetition; `make` gets the number of the row that is wanted."""
    rows: dict[str, Row] = {}
    misses = 0
    while len(rows) < n:
        row = make(len(rows))
        known = rows.setdefault(_content(row), row)
        misses = 0 if known is row else misses + 1
        if misses > _PATIENCE:
            raise UserError(
                f"{n} rows wanted", where=name, allowed=f"at most about {len(rows)} distinct rows"
            )
    return list(rows.values())


def _content(row: Row) -> str:
    """What makes a row a repetition of another: its texts, whichever of a pair was chosen."""
    if "chosen" in row:
        prompt, *pair = (row[key][0]["content"] for key in ("prompt", "chosen", "rejected"))
        return repr((prompt, sorted(pair)))
    return repr(row)
