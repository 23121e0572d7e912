"""The processes of one command under `accelerate launch`, and what they tell each other.

They exchange Python objects over gloo, on GPUs too: what evaluation exchanges are results, which
are small and on the CPU already. A process that fails ends all (see `open_team`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from align.errors import UserError

T = TypeVar("T")

_PATIENCE = timedelta(days=1)
"""Longest wait for the others; launchers notice a dead process long before."""


class Elsewhere(UserError):
    """Another process has ended, and says why itself."""


@dataclass(frozen=True)
class Team:
    """One process among `count`; alone, exchanges give back what they get."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one process that reads and writes the run's folder."""
        return self.rank == 0

    def exchange(self, mine: T) -> list[T]:
        """What every process gives, in the order of ranks. All of them must call it.

        Raises:
            UserError: Another process met it.
            Elsewhere: Another process has ended.
        """
        if self.count == 1:
            return [mine]
        answers = self._gather((mine, None))
        for rank, (_, failure) in enumerate(answers):
            if failure is not None:
                raise UserError(f"process {rank}: {failure}")
        return [value for value, _ in answers]

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` gives on the main process, for all; the others do not call it."""
        made: list[Any] = self.exchange(make() if self.main else None)
        result: T = made[0]
        return result

    def tell(self, error: UserError) -> None:
        """Say, instead of the next exchange, that this process failed.

        Raises:
            Elsewhere: Another process has ended.
        """
        self._gather((None, str(error)))

    def _gather(self, mine: tuple[Any, str | None]) -> list[tuple[Any, str | None]]:
        from torch import distributed

        answers: list[Any] = [None] * self.count
        try:
            distributed.all_gather_object(answers, mine)
        except RuntimeError as error:
            raise Elsewhere(
                "another process of this run has ended", remedy="its own message says why"
            ) from error
        return answers


ALONE = Team()


def launched_rank() -> int:
    """Rank of this process, by its launcher; 0 where there is none."""
    return int(os.environ["RANK"]) if _launched() > 1 else 0


@contextmanager
def open_team() -> Iterator[Team]:
    """The processes that a launcher started, connected; `ALONE` without one.

    Each takes the GPU of its number on the machine. A `UserError` of another process than the main
    one becomes the main one's at its next exchange; whoever waits for a process that has ended
    meets `Elsewhere`.
    """
    if _launched() == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    # Here every process holds a whole model; with this, transformers would leave all but one empty.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    team = Team(distributed.get_rank(), distributed.get_world_size())
    try:
        yield team
    except UserError as error:
        if not (team.main or isinstance(error, Elsewhere)):
            team.tell(error)
            raise Elsewhere("the main process says why") from error
        raise
    finally:
        distributed.destroy_process_group()


def _launched() -> int:
    """Processes that a launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
