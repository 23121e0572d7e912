"""What processes tell each other, with the messages of the others written by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import distributed

from align import cli
from align.errors import UserError
from align.team import ALONE, Elsewhere, launched_rank, open_team

Message = tuple[Any, str | None]


class Others:
    """Stands for gloo: this process's messages are kept, the others' are given."""

    def __init__(self, rank: int, *rounds: list[Message]) -> None:
        self.rank, self.rounds, self.said = rank, list(rounds), list[Message]()
        self.events: list[Any] = []

    def all_gather_object(self, answers: list[Any], mine: Message) -> None:
        self.said.append(mine)
        if not self.rounds:
            raise RuntimeError("Connection closed by peer")
        answers[:] = self.rounds.pop(0)
        answers.insert(self.rank, mine)

    def init_process_group(self, backend: str, timeout: timedelta) -> None:
        self.events.append((backend, timeout >= timedelta(hours=1)))

    def destroy_process_group(self) -> None:
        self.events.append("closed")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one of a launcher's, with others that say what they are told to."""

    @contextmanager
    def launch(others: Others, count: int = 2, local: int = 0) -> Iterator[Others]:
        given = {"WORLD_SIZE": count, "RANK": others.rank, "LOCAL_RANK": local}
        with monkeypatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, str(value))
            for name in ("all_gather_object", "init_process_group", "destroy_process_group"):
                patch.setattr(distributed, name, getattr(others, name))
            patch.setattr(distributed, "get_rank", lambda: others.rank)
            patch.setattr(distributed, "get_world_size", lambda: count)
            patch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
            yield others

    return launch


def test_alone_an_exchange_gives_back_what_it_gets() -> None:
    mine = object()
    assert ALONE.exchange(mine) == [mine]
    assert ALONE.from_main(lambda: mine) is mine
    assert ALONE.main


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # Some clusters set the size of a job for every program in it; launchers set both.
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    with open_team() as team:
        assert team is ALONE
    assert launched_rank() == 0


def test_values_arrive_in_the_order_of_ranks(launched: Any) -> None:
    with launched(Others(1, [("a", None), ("c", None)]), 3), open_team() as team:
        assert (team.rank, team.count, team.main) == (1, 3, False)
        assert team.exchange("b") == ["a", "b", "c"]
        assert launched_rank() == 1


def test_the_main_process_decides_and_the_others_do_not_ask(launched: Any) -> None:
    with launched(Others(1, [("main", None)])) as others, open_team() as team:
        assert team.from_main(lambda: pytest.fail("called")) == "main"
        assert others.said == [(None, None)]
    with launched(Others(0, [(None, None)])) as others, open_team() as team:
        assert team.from_main(lambda: 7) == 7
        assert others.said == [(7, None)]


def test_processes_meet_over_gloo_and_part(launched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with launched(Others(0), local=3) as others:
        with open_team():
            # Weights that transformers leaves to one process would be random on the others.
            assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
        assert others.events == [("gloo", True), "closed"]
    assert chosen == [1]  # 3 modulo 2 GPUs


def test_an_error_of_another_process_is_the_main_ones(launched: Any) -> None:
    with (
        launched(Others(0, [(None, "no such file")])) as others,
        pytest.raises(UserError, match="process 1: no such file") as raised,
        open_team() as team,
    ):
        team.exchange(1)
    assert not isinstance(raised.value, Elsewhere)
    assert others.events[-1] == "closed"


def test_another_process_tells_the_main_one_and_is_silent(launched: Any) -> None:
    with (
        launched(Others(1, [(None, None)])) as others,
        pytest.raises(Elsewhere),
        open_team(),
    ):
        raise UserError("bad row", where="file")
    assert others.said == [(None, "file: bad row")]


def test_the_main_process_does_not_wait_to_fail(launched: Any) -> None:
    with (
        launched(Others(0)) as others,
        pytest.raises(UserError, match=r"^bad row$"),
        open_team(),
    ):
        raise UserError("bad row")
    assert others.said == []


def test_who_waits_for_an_ended_process_says_so_once(launched: Any) -> None:
    for rank in (0, 1):
        with (
            launched(Others(rank)) as others,
            pytest.raises(Elsewhere, match="another process of this run has ended"),
            open_team() as team,
        ):
            team.exchange(1)
        assert others.said == [(1, None)]


@pytest.mark.parametrize(
    ("rank", "error", "printed"),
    [
        (0, Elsewhere("ended"), "error: ended\n"),
        (1, Elsewhere("ended"), ""),
        (1, UserError("mine"), "error: mine\n"),  # outside of a team nobody else says it
        (0, KeyboardInterrupt(), "interrupted; the same command resumes\n"),
        (1, KeyboardInterrupt(), ""),
    ],
)
def test_one_process_speaks(
    rank: int,
    error: BaseException,
    printed: str,
    launched: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with launched(Others(rank)):
        code = cli.main([])
    assert capsys.readouterr().err == printed
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 2)
