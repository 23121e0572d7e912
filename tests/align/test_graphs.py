"""Recording CUDA graphs without a GPU: what is done, and what happens when it cannot be."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator

import pytest
import torch

from align import graphs
from align.graphs import recorded, runs_ahead

GPU = torch.device("cuda", 0)
events: list[str] = []


class Stream:
    device = GPU

    def __init__(self, device: torch.device | None = None) -> None:
        self.name = "side" if device else "main"

    def wait_stream(self, other: "Stream") -> None:
        events.append(f"{self.name} waits for {other.name}")


class Graph:
    """A CUDA graph that breaks on ending where the work did."""

    broken = False

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        events.append(f"begin in {pool}, {capture_error_mode}")

    def capture_end(self) -> None:
        events.append("end")
        if Graph.broken:
            raise RuntimeError("capture was invalidated")

    def replay(self) -> None:
        events.append("replay")


@contextlib.contextmanager
def entered(what: Stream | torch.device) -> Iterator[None]:
    name = what.name if isinstance(what, Stream) else "device"
    events.append(f"on {name}")
    try:
        yield
    finally:
        events.append(f"off {name}")


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of torch.cuda, written down."""
    events.clear()
    Graph.broken = False
    monkeypatch.setattr(graphs, "_recorders", {})
    monkeypatch.setattr(graphs, "_failed", set())
    modes, pools = ["default"], itertools.count(1)
    fakes: dict[str, object] = {
        "CUDAGraph": Graph,
        "Stream": Stream,
        "stream": entered,
        "device": entered,
        "current_stream": lambda device: Stream(),
        "graph_pool_handle": lambda: f"pool {next(pools)}",
        "get_sync_debug_mode": lambda: modes[-1],
        "set_sync_debug_mode": lambda mode: (modes.append(mode), events.append(f"mode {mode}")),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)


def saying(text: str) -> Callable[[], None]:
    return lambda: events.append(text)


def failing(error: Exception) -> Callable[[], None]:
    def work() -> None:
        events.append("work")
        raise error

    return work


def test_work_is_recorded_on_a_stream_of_its_own_and_replayed() -> None:
    replay = recorded(saying("work"), GPU)
    assert replay is not None
    assert events == [
        "side waits for main", "on device", "on side", "begin in pool 1, thread_local", "work",
        "end", "off side", "off device", "main waits for side",
    ]  # fmt: skip
    replay()
    assert events[-1] == "replay"


def test_what_breaks_is_said_once_and_leaves_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    Graph.broken = True
    with caplog.at_level(logging.WARNING):
        assert recorded(failing(RuntimeError("not while capturing")), GPU) is None
        assert events[-3:] == ["end", "off side", "off device"]
        tried = len(events)
        assert recorded(saying("work"), GPU) is None
    assert len(events) == tried
    assert caplog.text.count("without CUDA graphs") == 1
    assert "not while capturing" in caplog.text


def test_want_of_memory_does_not_end_recording(caplog: pytest.LogCaptureFixture) -> None:
    assert recorded(failing(torch.OutOfMemoryError("out of memory")), GPU) is None
    for _ in range(2):
        assert recorded(saying("work"), GPU) is not None
    begun = [event for event in events if event.startswith("begin")]
    assert begun == [f"begin in pool {pool}, thread_local" for pool in (1, 2, 2)]
    assert not caplog.text


def test_autocast_keeps_no_cast_of_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    seen: list[object] = []

    def work() -> None:
        seen.append((torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")))
        seen.append(torch.is_autocast_cache_enabled())

    with torch.autocast("cuda", torch.float16):
        recorded(work, GPU)
        assert torch.is_autocast_cache_enabled()
    assert seen == [(True, torch.float16), False]


def test_work_that_waits_is_done_again_and_not_recorded() -> None:
    waits = iter([RuntimeError("called a synchronizing CUDA operation"), None])

    def work() -> None:
        events.append("work")
        if error := next(waits):
            raise error

    assert not runs_ahead(work, GPU)
    assert events == ["mode error", "work", "mode default", "work"]


def test_work_that_runs_ahead_is_done_once() -> None:
    assert runs_ahead(saying("work"), GPU)
    assert events == ["mode error", "work", "mode default"]


def test_another_error_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        runs_ahead(failing(RuntimeError("shape mismatch")), GPU)
    assert events == ["mode error", "work", "mode default"]


def test_elsewhere_the_work_is_only_done() -> None:
    assert not runs_ahead(saying("work"), torch.device("cpu"))
    assert events == ["work"]
