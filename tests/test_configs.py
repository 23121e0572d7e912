"""Every committed configuration is valid and opens with what a reader needs to know."""

import re
from pathlib import Path

import pytest

from align.settings import load_run
from align.stages import STAGES, sources

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def load(path: Path) -> object:
    """The run, whether or not its model has been fetched to this machine."""
    named = re.search(r"^model:", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return load_run(path, ["model.base=org/name"] if named else [])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_is_valid_and_named_like_its_file(path: Path) -> None:
    assert load(path).name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_opens_with_hardware_time_expectation_and_command(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    head = " ".join(line for line in lines[:12] if line.startswith("#"))
    for word in ("Hardware: ", "Time", "Expected|result", "Command: "):
        assert re.search(word, head)
    assert f"configs/{path.name}" in head


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_memory_that_the_log_does_not_know_is_called_an_estimate(path: Path, project: Path) -> None:
    head = path.read_text(encoding="utf-8").split("\nname:")[0]
    log = (project / "docs" / "log.md").read_text(encoding="utf-8").split("\n\n")
    for size in re.findall(r"\d+ GB", head):
        measured = any(path.stem in entry and size in entry for entry in log)
        assert measured or f"about {size} (memory not measured)" in head


@pytest.mark.real_data
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_its_files_are_among_the_public_slices(path: Path, shared_data: Path) -> None:
    run = load(path)
    named = [
        source.path
        for stage in STAGES
        if getattr(run, stage.name) is not None
        for source, _ in sources(run, stage.name).values()
        if source.path is not None
    ]
    missing = [name for name in named if not (Path(run.data.root) / name).exists()]
    assert missing == []
