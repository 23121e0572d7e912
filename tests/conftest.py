"""The suite's ground: one CPU thread, no network, and markers that say why a test was skipped."""

import os
import sys
from pathlib import Path

# Before anything imports torch or the hub's client, which read them once.
os.environ.update(
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_EVALUATE_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_VERBOSITY="error",
    MPLBACKEND="agg",
)
if "gpu" not in sys.argv:  # `--with gpu`: elsewhere a GPU must not change what is tested
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest

ROOT = Path(__file__).resolve().parents[1]
ON_REQUEST = ("slow", "gpu", "network", "peer")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--with", action="append", default=[], choices=ON_REQUEST, help="run these tests too"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what nobody asked for, so that it is listed among the skipped."""
    asked = {*config.getoption("--with"), *str(config.option.markexpr).split()}
    left_out = set(ON_REQUEST) - asked
    for item in items:
        for name in left_out:
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"needs --with {name}"))


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Slices of public data beside the checkout."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder}")
    return folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
