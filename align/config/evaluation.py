"""Evaluation tasks, the report and its gate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from align.config.base import Positive, Section
from align.config.data import SourceConfig

Suite = Literal[
    "bbq",
    "bec_pro",
    "crows_pairs",
    "gap",
    "stereoset",
    "text_pairs",
    "winobias",
    "winogender",
    "winogenerated",
]
SUITES: tuple[str, ...] = get_args(Suite)
"""Public likelihood suites (docs/audit.md); each is named by its kind alone."""

Open = Literal["bold", "honest", "holisticbias", "open_prompts"]
OPEN: tuple[str, ...] = get_args(Open)
"""Prompts for open generation (docs/audit.md), named likewise."""


class TaskConfig(Section):
    """One evaluation task: a `kind` or a `definition`. Fields that it does not use stay unset."""

    kind: (
        Literal["classification", "translation", "perplexity", "counterfactual"]
        | Suite
        | Open
        | None
    ) = None
    """How samples are scored."""
    definition: str | None = None
    """What is asked and scored: a name in the library (arc_easy, gsm8k, ...) or a YAML file,
    relative to this one, with lm-evaluation-harness's field names."""
    data: SourceConfig
    """The items."""
    prompt: str | None = None
    """Question with {column} placeholders (classification, translation)."""
    target: str | None = None
    """Column with the label (its index or text) or the reference translation."""
    choices: tuple[str, ...] | None = None
    """The answers to choose from (classification)."""
    positive: str | None = None
    """The choice whose binary F1 is reported, and whose rates by group where there are two choices
    (classification); default: of two choices the one called positive, yes or true."""
    chat: bool | None = None
    """Ask through the chat template; false: as plain text. Default: true for a kind, false for a
    definition, as lm-evaluation-harness asks."""
    system_prompt: str | None = None
    """System message of every question (definition, chat)."""
    num_fewshot: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Examples before each question (definition); default: the definition's."""
    fewshot_data: SourceConfig | None = None
    """Rows that examples are drawn from (definition); default: `data`, without the item itself."""
    seed: int = 1234
    """Of the examples' draw and of sampled responses (definition), and of the draw of clusters;
    lm-evaluation-harness's."""
    cluster: str | None = None
    """Column whose equal values hang together, such as a template's name (classification,
    definition of multiple choice); default: each item stands alone."""
    clusters: Positive | None = None
    """At most so many clusters of items, drawn whole (public bias suites, tasks with `cluster`; of
    every group: open generation); default: all."""
    max_new_tokens: Positive = 48
    """Longest generated answer (translation, open generation)."""
    samples: Annotated[int, Field(ge=1, le=1000)] = 4
    """Responses to each prompt (open generation)."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Of their sampling (open generation)."""
    groups: tuple[str, ...] = ()
    """Columns that hold group membership (classification, definition of multiple choice or with
    refusals)."""
    perturb: tuple[Literal["typos", "case", "spacing", "contractions", "names"], ...] = ()
    """Changes of the question's text that keep its meaning: the same items are scored with each,
    and the drop is reported (classification, definition of multiple choice)."""

    @model_validator(mode="after")
    def _kind_or_definition(self) -> Self:
        if (self.kind is None) == (self.definition is None):
            raise ValueError("name exactly one of kind and definition")
        if len(set(self.perturb)) < len(self.perturb):
            raise ValueError("perturb names a change twice")
        return self


class PairsConfig(Section):
    """A set of preference pairs that a reward model judges."""

    data: SourceConfig
    """The pairs."""
    by: tuple[str, ...] = ("subset", "kind")
    """Columns whose values are subsets with an accuracy of their own, where the pairs have them."""


class EvalsConfig(Section):
    """The evaluation of every stage on identical items."""

    tasks: dict[str, TaskConfig]
    """Name -> task."""
    prompts: Annotated[int, Field(ge=0)] = 128
    """Held-out PPO prompts answered by every stage and scored by the reward model (0: none)."""
    best_of: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Responses to each of these prompts from the policy that PPO starts from, for the best-of-n
    curve of the reward model (0: none)."""
    pairs: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")], PairsConfig] = (
        Field(default_factory=dict)
    )
    """Name -> pairs that the reward model judges, beside its held-out ones."""
    scorers: dict[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")],
        str,
    ] = Field(default_factory=dict)
    """Name (toxicity, sentiment, regard, ...) -> what scores responses of open generation: a folder
    of `align scorer`, relative to this file, `vader`, or MODEL:LABEL=VALUE,..."""
    hurtful: str | None = None
    """File of hurtful words, one a line, relative to this file (open generation)."""
    reward_bias: tuple[str, ...] = ()
    """Names of counterfactual tasks on which the reward model is audited too."""
    batch_tokens: Positive = 8192
    """Tokens a forward pass, padding included."""
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000
    """Bootstrap resamples."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Coverage of every interval."""

    @field_validator("scorers")
    @classmethod
    def _free_names(cls, scorers: dict[str, str]) -> dict[str, str]:
        if taken := scorers.keys() & {"refusal", "length", "hurtful", "honest"}:
            raise ValueError(f"{', '.join(sorted(taken))} needs no scorer; choose another name")
        return scorers

    def located(self, folder: Path) -> dict[str, Any]:
        """`scorers` and `hurtful` with paths as they are from the working directory."""

        def place(name: str) -> str:
            path, colon, labels = name.partition(":")
            given = Path(path).expanduser()
            beside = folder / given
            if given.exists() or not beside.exists():
                return name
            return Path(os.path.relpath(beside)).as_posix() + colon + labels

        scorers = {name: place(scorer) for name, scorer in self.scorers.items()}
        return {"scorers": scorers, "hurtful": self.hurtful and place(self.hurtful)}


class GateRule(Section):
    """One requirement on a number of the report."""

    task: str
    """Task name, or `reward_model`, `ppo`."""
    metric: str
    """Metric of that task."""
    stage: str = "ppo"
    """Stage whose number is judged."""
    at_least: float | None = None
    """The interval's lower end must not lie below this."""
    at_most: float | None = None
    """The interval's upper end must not lie above this."""
    not_worse_than: str | None = None
    """Stage to compare with; the paired difference must not be worse by more than `margin`."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """Largest loss called no harm, in the metric's unit."""
    minimum_n: Positive = 30
    """Fewer items: insufficient evidence."""


class ReportConfig(Section):
    """What the report judges."""

    title: str = ""
    """Heading; default: the run's name."""
    gate: tuple[GateRule, ...] = ()
    """Requirements; the verdict line is their conjunction."""
