"""What two systems learned: by hand, and against scipy."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def lib() -> Iterator[ModuleType]:
    """The benchmarks' comparison."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("lib.learning")


def held(scores: list[float], kl: float = 1.0) -> dict[str, Any]:
    return {"score": scores, "kl": [kl] * len(scores)}


def test_one_seed_is_compared_over_prompts_and_several_over_seeds(lib: ModuleType) -> None:
    ours, peer = [1.0, 2.0, 4.0], [0.5, 2.5, 1.0]
    alone = lib.paired([(held(ours, 2.0), held(peer, 3.0))])
    ends = stats.ttest_rel(ours, peer).confidence_interval(0.95)
    assert alone["over"] == "prompts"
    assert (alone["difference"]["low"], alone["difference"]["high"]) == pytest.approx(tuple(ends))
    assert (alone["kl_ours"], alone["kl_peer"]) == (2.0, 3.0)
    seeds = [([1.0, 3.0], [0.0, 2.0]), ([2.0, 2.0], [4.0, 1.0]), ([5.0, 3.0], [1.0, 1.0])]
    several = lib.paired([(held(a), held(b)) for a, b in seeds])
    means = np.array([[np.mean(side) for side in pair] for pair in seeds])  # 2 1, 2 2.5, 4 1
    ends = stats.ttest_rel(means[:, 0], means[:, 1]).confidence_interval(0.95)
    assert several["over"] == "seeds"
    assert several["ours_by_seed"] == [2.0, 2.0, 4.0]
    assert several["peer_by_seed"] == [1.0, 2.5, 1.0]
    assert several["difference"]["value"] == pytest.approx((1 - 0.5 + 3) / 3)
    assert (several["difference"]["low"], several["difference"]["high"]) == pytest.approx(
        tuple(ends)
    )


def test_time_to_the_peers_last_score(lib: ModuleType) -> None:
    # fewer than 16 updates: no smoothing
    peer = {"scores": [0.0, 0.4, 0.6], "ended": [10.0, 20.0, 30.0]}
    ours = {"scores": [0.1, 0.7, 0.5], "ended": [4.0, 8.0, 12.0]}
    never = {"scores": [0.1, 0.2, 0.3], "ended": [4.0, 8.0, 12.0]}
    found = lib.learning([(ours, peer), (never, peer)])
    assert found["time_ratios"] == [30 / 8, 0.0]
    assert found["reached"] == 1
    assert found["last_score_ours"] == [0.5, 0.3]
    assert found["difference"]["value"] == pytest.approx((-0.1 - 0.3) / 2)
    # both peers end at .6, so that is the common target: ours after 8 s and never
    assert found["common"]["target"] == pytest.approx(0.6)
    assert found["common"]["seconds_ours"] == [8.0, None]
    assert found["common"]["time_ratio"] is None, "half of our runs never get there"


def test_seconds_to_one_target_of_all_seeds(lib: ModuleType) -> None:
    peer = {"scores": [0.0, 0.4, 0.6], "ended": [10.0, 20.0, 30.0]}
    ours = {"scores": [0.1, 0.7, 0.5], "ended": [4.0, 8.0, 12.0]}
    never = {"scores": [0.1, 0.2, 0.3], "ended": [4.0, 8.0, 12.0]}
    found = lib.to_target([(ours, peer), (ours, never), (never, peer)], 0.4)
    assert found["seconds_ours"] == [8.0, 8.0, None]
    assert found["seconds_peer"] == [20.0, None, 20.0]
    assert found["time_ratio"] == 20 / 8
