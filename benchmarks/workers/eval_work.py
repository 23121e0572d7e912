"""The work that both sides of an evaluation benchmark do, as it travels to their processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Part:
    """Items that are asked alike.

    Attributes:
        name: Unique among all parts.
        task: The benchmark's task that it is part of.
        definition: Our definition's name in `evals/library`.
        official: lm-evaluation-harness's own YAML under its `tasks`; "" where it has no such task,
            then it reads our definition.
        rows: JSON Lines of the items.
        shots: Examples before each question.
        examples: JSON Lines of the rows that examples come from; the first ones are taken.
    """

    name: str
    task: str
    definition: str
    official: str
    rows: str
    shots: int = 0
    examples: str = ""


@dataclass(frozen=True)
class EvalWork:
    """One evaluation of one model.

    Attributes:
        model: Folder of the model (safetensors).
        parts: What is asked, in this order.
        dtype: float32, bfloat16 or float64.
        max_length: Tokens that the model may see; longer documents are cut into windows.
        batch: Sequences a batch (lm-evaluation-harness), a number or auto; ours has a budget.
        softmax: Number format of the harness's softmax over the vocabulary; "": the logits'.
        library: Folder of our definitions.
    """

    model: str
    parts: tuple[Part, ...]
    dtype: str = "float32"
    max_length: int = 2048
    batch: str = "16"
    softmax: str = ""
    library: str = ""

    def to_json(self) -> str:
        """The argument a worker is started with."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The work that `to_json` wrote."""
        read = json.loads(text)
        return cls(**{**read, "parts": tuple(Part(**part) for part in read["parts"])})


@dataclass(frozen=True)
class Outcome:
    """What a side found on a part.

    Attributes:
        seconds: Wall-clock from rows in memory to metrics; loading apart.
        cpu_seconds: Of the process's threads, which other work on the machine does not touch.
        metrics: Name -> value.
        prompts: What the model was given, of each item; none for whole documents.
        loglikelihoods: Of each item's choices, answer or document; none for generated answers.
        texts: Generated answers; none for the rest.
    """

    seconds: float
    cpu_seconds: float
    metrics: dict[str, float]
    prompts: list[str]
    loglikelihoods: list[list[float]]
    texts: list[str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
