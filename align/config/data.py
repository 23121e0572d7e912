"""Where rows come from: the generated world, files, the hub."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from align.config.base import Positive, Section, Share

WorldSet = Literal[
    "text",
    "heldout_text",
    "instructions",
    "preferences",
    "heldout_preferences",
    "prompts",
    "heldout_prompts",
    "sentiment",
    "translation",
    "counterfactual",
]


class WorldConfig(Section):
    """The generated world: data with a known answer, and a bias of known size if wanted."""

    text_bias: Share = 0.0
    """Tilt of jobs by gender in the pretraining text: 0 none, 1 fully segregated."""
    label_bias: Share = 0.0
    """Chance that an annotator reverses a preference for praise when the person is a woman."""


class SourceConfig(Section):
    """Where rows come from: exactly one of `world`, `path` and `hub`."""

    world: WorldSet | None = None
    """A set of the generated world."""
    path: str | None = None
    """File or `datasets` folder, relative to `data.root` (JSON Lines, JSON, CSV, Parquet, text;
    `.gz` too)."""
    hub: str | None = None
    """Dataset id on the hub; the only kind of source that uses the network."""
    subset: str | None = None
    """Configuration name of a hub dataset."""
    split: str = "train"
    """Split of a hub dataset or a `datasets` folder."""
    revision: str | None = None
    """Commit of a hub dataset; pin it to make a run repeatable."""
    streaming: bool = False
    """Read a hub dataset row by row instead of downloading it (needs `limit`)."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our field name -> the column's name in the file, where they differ."""
    words: Positive | None = None
    """Of texts that serve as prompts, keep only so many first words; shorter ones are left out."""
    limit: Positive | None = None
    """At most so many rows, the first of a seeded shuffle. The world needs it."""
    max_characters: Positive | None = None
    """Rows with more characters are left out and counted (characters over all fields)."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [key for key in ("world", "path", "hub") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"name exactly one of world, path, hub (given: {given or 'none'})")
        if self.world and self.limit is None:
            raise ValueError("a world set needs `limit`, the number of rows to generate")
        if self.streaming and (self.hub is None or self.limit is None):
            raise ValueError("streaming needs `hub` and `limit`")
        return self


class DataConfig(Section):
    """Settings shared by every source of the run."""

    root: str | None = None
    """Folder that relative paths start from; default: the folder of the YAML."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of rows held out where a stage names no `eval_data`."""
