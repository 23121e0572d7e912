"""What `align audit` measures besides bias, and secrets planted to be measured."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from align.config.base import Positive, Section


class CanaryConfig(Section):
    """Secrets written into a stage's training rows, to see what it memorises (1802.08232).

    As many again are drawn and never written: what the audit says of those is chance.
    """

    count: Annotated[int, Field(gt=0, le=1000)] = 8
    """Secrets of each number of repeats."""
    repeats: tuple[Positive, ...] = (1, 4, 16)
    """How often a secret is written; rows are put at seeded places among the others."""
    digits: Annotated[int, Field(gt=0, le=15)] = 6
    """Random digits of a secret, log2 10 = 3.32 bits each; up to 3 are enumerated as a rule."""
    format: str = "the secret code of {name} is {secret}"
    """A row; {name} is drawn for each secret. In a dialogue what precedes {secret} is asked."""

    @model_validator(mode="after")
    def _format_holds_both(self) -> Self:
        if self.format.count("{name}") != 1 or not self.format.endswith(" {secret}"):
            raise ValueError(f"format {self.format!r} must hold one {{name}}, end in ' {{secret}}'")
        if len(set(self.repeats)) != len(self.repeats) or not self.repeats:
            raise ValueError(f"repeats {self.repeats} must be one or more different numbers")
        return self


class AuditConfig(Section):
    """Privacy and explanation in `align audit`."""

    documents: Positive = 200
    """Training documents, and as many held-out ones, of each stage's data at most (seeded)."""
    tokens: Positive = 256
    """Of a document, at most so many first tokens are scored."""
    prompt_tokens: Positive = 50
    """Tokens that a model is given to go on from (k of 2202.07646); of a dialogue the question is
    given whole."""
    next_tokens: Positive = 50
    """Tokens that it must repeat; shorter documents are left out and counted."""
    min_k: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the least likely tokens in Min-K% (2310.16789)."""
    candidates: Annotated[int, Field(ge=10, le=10**6)] = 1000
    """Secrets that a canary is ranked among; all of them where there are no more."""
    gradients: bool = False
    """Integrated gradients beside words left out; needs `pip install 'alignkit[explain]'`."""
    steps: Annotated[int, Field(ge=2, le=10_000)] = 128
    """Points of the integral; the completeness gap says whether they suffice."""
