"""What PPO is rewarded for: reward functions by name, with options, weight, limit and scale."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeGuard

from pydantic import Field, ValidationError

from align.config.base import Section

REWARD_MODEL = "reward_model"
PATHS = ("file", "folder", "model", "path")
"""Options that may name a file or folder."""


class ScaleConfig(Section):
    """Constants to normalise with."""

    mean: float
    """Becomes 0."""
    std: Annotated[float, Field(gt=0)]
    """Becomes 1."""


class FunctionConfig(Section):
    """A reward function."""

    function: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?$")]
    """`reward_model`, a name of docs/rewards.md, or a function of yours: `package.module:name`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its options, checked against it; for a function of yours further keyword arguments."""

    def paths(self) -> dict[str, Path]:
        """Options that name a file or folder that exists."""
        given = {name: self.options.get(name) for name in PATHS}
        named = {name: Path(text).expanduser() for name, text in given.items() if _is_text(text)}
        return {name: path for name, path in named.items() if path.exists()}

    def located(self, folder: Path) -> Self:
        """The same with paths as they are from the working directory: there, else in `folder`."""
        options = dict(self.options)
        for name in PATHS:
            if _is_text(text := options.get(name)):
                given = Path(text).expanduser()
                beside = folder / given
                if not given.exists() and beside.exists():
                    options[name] = Path(os.path.relpath(beside)).as_posix()
        if _is_function(inner := options.get("of")):
            moved = FunctionConfig.model_validate(inner).located(folder)
            options["of"] = moved.model_dump()
        return self.model_copy(update={"options": options})

    def nested(self) -> Iterator[FunctionConfig]:
        """This function and those that it is about (`of`)."""
        yield self
        if _is_function(inner := self.options.get("of")):
            yield from FunctionConfig.model_validate(inner).nested()


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) < 4096 and "\0" not in value


def _is_function(value: Any) -> bool:
    """Whether an option is an entry of its own; a faulty one is told where functions are built."""
    try:
        return bool(FunctionConfig.model_validate(value, strict=True))
    except ValidationError:
        return False


class RewardTermConfig(FunctionConfig):
    """A reward function in PPO's weighted sum."""

    name: Annotated[str, Field(pattern=r"^[\w.-]{1,60}$")] | None = None
    """Name in metrics; default: the function's own."""
    weight: float = 1.0
    """Factor of its score; 0 only watches it."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Its score is clipped to +- this, after normalisation."""
    normalise: Literal["none", "reference", "running"] | ScaleConfig = "none"
    """To mean 0 and std 1: by the first update's responses (`reference`), by all so far
    (`running`), or by constants."""
