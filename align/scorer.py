"""The command `align scorer`: train a local scorer of texts from data the user has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def scorer(
    out: Annotated[Path, typer.Argument(help="Folder to write; empty or not there yet.")],
    data: Annotated[Path, typer.Argument(help="Labelled texts: JSON Lines, CSV, Parquet, ...")],
    value: Annotated[
        list[str], typer.Option(help="Class and its value, hate=1; repeatable, two or more.")
    ],
    text: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    label: Annotated[str, typer.Option(help="Column of the class.")] = "label",
    held: Annotated[Path | None, typer.Option(help="Rows to judge by; default: a fifth.")] = None,
    name: Annotated[str | None, typer.Option(help="The scorer's; default: the folder's.")] = None,
    version: Annotated[str, typer.Option(help="The scorer's.")] = "1",
) -> None:
    """Train a scorer (toxicity, sentiment, regard) that runs locally, and judge it."""
    from align.environment import set_environment

    set_environment(offline=True)
    from reward.scorer import class_values
    from reward.scorer_training import Labelled, card_lines, train_scorer

    source = Labelled(data, text, label, class_values(value, "--value"), held)
    card = train_scorer(source, out, name or out.resolve().name, version)
    for line in [*card_lines(card), f"scorer: {out}"]:
        typer.echo(line)
