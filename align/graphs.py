"""CUDA graphs: work on a GPU that is recorded once and then launched as a whole.

The work must leave its results where they stand, decide nothing by a number on the GPU, and may be
begun anew as long as it has not ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)

Work = Callable[[], None]


def runs_ahead(work: Work, device: torch.device) -> bool:
    """Do the work; returns whether it never waited for a GPU, as what is recorded must not."""
    if device.type != "cuda":
        work()
        return False
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
    else:
        return True
    finally:
        torch.cuda.set_sync_debug_mode(before)
    work()
    return False


def recorded(work: Work, device: torch.device) -> Work | None:
    """What does the work again, without doing it now; None where it cannot be recorded.

    Lack of memory is no reason to give up for good; any other is said once and remembered.
    """
    if device in _failed:
        return None
    try:
        if device not in _recorders:
            _recorders[device] = _Recorder(device)
        return _recorders[device].record(work)
    except torch.OutOfMemoryError:
        _recorders.pop(device, None)  # its memory too; a pool that no graph holds is not used again
        return None
    except RuntimeError as error:
        _failed.add(device)
        cause = error.__context__ or error  # ending a recording that broke complains too
        logger.warning("sampling runs without CUDA graphs, which takes longer: %s", cause)
        return None


class _Recorder:
    """The recordings on a device. Only the newest is still replayed, so they share memory."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._newest: torch.cuda.CUDAGraph | None = None  # it keeps the shared memory alive

    def record(self, work: Work) -> Work:
        # torch.cuda.graph would also empty the allocator's cache, and stays on its stream when the
        # recording breaks
        device = self._stream.device
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.device(device), torch.cuda.stream(self._stream), _no_casts_kept(device):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(self._stream)
        self._newest = graph
        return graph.replay


_recorders: dict[torch.device, _Recorder] = {}
_failed: set[torch.device] = set()


def _no_casts_kept(device: torch.device) -> torch.autocast:
    """Autocast as it is, but no cast weight outlives the recording, in whose memory it lies."""
    kind = device.type
    return torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )
