"""Data sets of the Hugging Face hub: the only module of the data package that uses the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from align.data.readers import Row, Table
from align.errors import UserError

if TYPE_CHECKING:
    from align.config import SourceConfig

SHUFFLE_BUFFER = 10_000
"""Rows held while shuffling a stream: its order is random only within such a window."""


class HubSet(NamedTuple):
    """A split of a hub data set and the licence that its card states."""

    table: Table
    licence: str


def open_hub(source: SourceConfig, seed: int) -> HubSet:
    """Download a split, or open it as a shuffled stream.

    Args:
        source: With `hub` set; `subset`, `split`, `revision` and `streaming` are read.
        seed: Order of the stream.

    Raises:
        UserError: Offline, no such data set, subset or split, no access, or a set that is a script.
    """
    from datasets import load_dataset

    name = str(source.hub)
    if os.path.exists(name):
        raise UserError(f"'{name}' is a local path", where="hub", remedy=f"write path: {name}")
    try:
        opened = load_dataset(
            name,
            source.subset,
            split=source.split,
            revision=source.revision,
            streaming=source.streaming,
        )
    except Exception as error:  # see _explained
        raise _explained(error, name) from None
    if source.streaming:
        opened = opened.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
    licence = opened.info.license or "unknown"
    return HubSet(Table(f"hub set '{name}'", "row", _numbered(opened, name)), str(licence))


def _numbered(rows: Any, name: str) -> Iterator[tuple[int, Row]]:
    """Rows with their numbers; a stream can lose the network half-way."""
    try:
        yield from enumerate(rows, 1)
    except Exception as error:  # see _explained
        raise _explained(error, name) from None


def _explained(error: Exception, name: str) -> UserError:
    """Say what to do about it, by the type of the error.

    Everything that `datasets` raises is explained: its HTTP library, and with it the types, differs
    between versions, and the text of the error is all that the user can act on.
    """
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, ConnectionError):
        return UserError(
            f"the hub cannot be reached, so this machine is offline ({what})",
            where=f"hub set '{name}'",
            remedy="download the set where there is a network and name it with `path`, "
            "or use a set of the generated world (`world`)",
        )
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"no such data set, or no access to it ({what})",
            where=f"hub set '{name}'",
            remedy="check the id and `revision`; for a gated set, log in with: hf auth login",
        )
    return UserError(
        f"cannot be loaded ({what})",
        where=f"hub set '{name}'",
        remedy="check `subset` and `split`; sets that need a script of their own are not supported",
    )
