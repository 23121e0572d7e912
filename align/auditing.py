"""The command `align audit`: bias and privacy of whatever it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from align.environment import set_environment


def audit(
    subject: Annotated[
        str, typer.Argument(help="Run, reward stage, model, or table of predictions.")
    ],
    settings: Annotated[list[str] | None, typer.Argument(help="TASK=ROWS, key=value.")] = None,
    sample: Annotated[int, typer.Option(min=2, max=160, help="Templates a measure.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the templates' draw.")] = 0,
    pairs: Annotated[Path | None, typer.Option(help="Preference pairs, for --group.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Column with groups; repeatable.")] = None,
    train: Annotated[Path | None, typer.Option(help="Texts the model was trained on.")] = None,
    heldout: Annotated[Path | None, typer.Option(help="Such texts that it was not.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the results.")] = None,
    name: Annotated[str | None, typer.Option(help="The subject's name in that folder.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print warnings and errors only.")] = False,
) -> None:
    """Audit bias and privacy of a model, a reward stage, a run's stages, or any predictions."""
    set_environment(offline=Path(subject).expanduser().exists())
    from align.audit import Asked, run_audit
    from align.progress import Progress

    asked = Asked(sample, seed, pairs, tuple(group or ()), out, name, train, heldout)
    with Progress(quiet=quiet) as progress:
        for line in run_audit(subject, settings or (), asked, progress):
            progress.note(line)
