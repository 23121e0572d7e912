"""Rewards that compare a response with a reference in a column of the prompts' rows.

A row whose reference is empty (null) is left out (None); several references count as the best of
them. All scores lie between 0 and 1. The definitions are those of the evaluation (docs/evals.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from align.errors import UserError
from reward.functions import Completion, RewardFunction, completion_text, signed

Judge = Callable[[str, Sequence[str]], float | None]
_NUMBER = re.compile(r"(?:(?<!\w)-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_FINAL = "####"
"""Stands before the final answer in GSM8K."""


def exact_answer(
    column: str = "answer", comparison: Literal["squad", "text"] = "squad"
) -> RewardFunction:
    """1 where the response equals a reference, else 0.

    Args:
        column: Holds the reference, or a list of them.
        comparison: `squad` compares lower-case words without punctuation and articles, `text` all
            but outer white space.
    """
    from evals.answers import squad_em

    def same(text: str, references: Sequence[str]) -> float:
        return float(text.strip() in [reference.strip() for reference in references])

    judge = squad_em if comparison == "squad" else same
    return _against("exact_answer", judge, column, comparison=comparison)


def number(
    column: str = "answer", library: Literal["auto", "math-verify", "none"] = "auto"
) -> RewardFunction:
    """1 where the last number of the response is the reference's, else 0 (GSM8K, 2110.14168).

    The reference's number is the last one, or what follows `####`. With math-verify (`auto`: where
    it is installed; the signature says which) expressions such as 1/2 and LaTeX count too.

    Raises:
        UserError: `library` is math-verify, which is not installed.
    """
    try:
        found = None if library == "none" else version("math-verify")
    except PackageNotFoundError as error:
        if library == "math-verify":
            raise UserError(
                "math-verify is not installed",
                where="number.library",
                remedy="pip install math-verify",
            ) from error
        found = None
    if found is None:
        return _against("number", _same_number, column, library="none")
    return _against("number", _same_expression, column, library=f"math-verify:{found}")


def bleu(column: str = "reference") -> RewardFunction:
    """Sentence BLEU / 100 against the references, by sacrebleu with effective order."""
    import sacrebleu

    metric = sacrebleu.BLEU(effective_order=True)

    def judge(text: str, references: Sequence[str]) -> float:
        return float(metric.sentence_score(text, list(references)).score) / 100

    return _against("bleu", judge, column, sacrebleu=sacrebleu.__version__)


def rouge_l(column: str = "reference") -> RewardFunction:
    """Best ROUGE-L F-measure over the references, by rouge-score without stemming.

    Raises:
        UserError: rouge-score is not installed.
    """
    from evals import answers

    answers.rouge_l("", [""])  # says now whether the package is there
    return _against("rouge_l", answers.rouge_l, column, **{"rouge-score": version("rouge-score")})


def last_number(text: str) -> Decimal | None:
    """The last number of a text, without commas for thousands; None without one."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def _same_number(text: str, references: Sequence[str]) -> float | None:
    wanted = [last_number(_final(reference)) for reference in references]
    known = [number for number in wanted if number is not None]
    return float(last_number(text) in known) if known else None


def _same_expression(text: str, references: Sequence[str]) -> float | None:
    from math_verify import parse, verify

    known = [gold for gold in (parse(_final(reference)) for reference in references) if gold]
    answer = parse(text)
    return float(any(verify(gold, answer) for gold in known)) if known else None


def _final(reference: str) -> str:
    """The answer at the end of a worked solution."""
    return reference.rpartition(_FINAL)[2].strip()


def _against(name: str, judge: Judge, column: str, **details: Any) -> RewardFunction:
    """A reward that compares texts with the references of a column."""

    def reward(
        prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any
    ) -> list[float | None]:
        if column not in columns:
            raise UserError(
                f"the prompts have no column {column!r}",
                where=f"reward function {name}",
                allowed=", ".join(sorted(columns)) or "rows with further columns",
                remedy="name it with `columns` of the source or `column` of the function",
            )
        texts = map(completion_text, completions)
        pairs = zip(texts, columns[column], strict=True)
        return [
            judge(text, _texts(references)) if _texts(references) else None
            for text, references in pairs
        ]

    return signed(reward, name, column=column, **details)


def _texts(references: Any) -> list[str]:
    """One or several references as texts; none for null."""
    several = references if isinstance(references, list | tuple) else [references]
    return [str(reference) for reference in several if reference is not None]
