"""Where a user's function lies, and that its hash follows its source."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from align.artifacts import path_hash
from align.config import RunConfig
from reward.files import function_file, gold_input, reward_inputs


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and beside it a folder that Python searches."""
    for name in ("here", "library"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "library")])
    return tmp_path


def ppo(**section: Any) -> RunConfig:
    own = {"data": {"path": "p"}} | section
    return RunConfig.model_validate(
        {"name": "x", "model": {"base": "b"}, "reward": {"data": {"path": "q"}}, "ppo": own}
    )


def test_a_module_is_found_as_python_finds_it(place: Path) -> None:
    assert function_file("mine:f") is None
    (place / "here" / "mine.py").write_text("")
    assert function_file("mine:f") == Path("mine.py")
    (place / "library" / "mine.py").write_text("")
    assert function_file("mine:f") == Path("../library/mine.py")  # the working directory is last
    assert function_file("mine") is None  # a folder or hub id
    (place / "here" / "pack").mkdir()
    (place / "here" / "pack" / "inner.py").write_text("")
    assert function_file("pack.inner:f") == Path("pack/inner.py")
    assert function_file("pack:f") is None  # a folder that is no package holds no function
    (place / "here" / "pack" / "__init__.py").write_text("")
    assert function_file("pack:f") == Path("pack")


def test_a_gold_function_is_its_name_and_its_source(place: Path) -> None:
    module = place / "here" / "mine.py"
    found = []
    for text, name in (("a", "mine:f"), ("a", "mine:g"), ("b", "mine:f"), ("a", "mine:f")):
        module.write_text(text)
        found.append(gold_input(ppo(gold=name))["gold"])
    assert [entry["path"] for entry in found] == ["mine.py"] * 4
    hashes = [entry["hash"] for entry in found]
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[3]


def test_a_gold_model_is_its_contents_or_its_name(place: Path) -> None:
    (place / "here" / "judge").mkdir()
    (place / "here" / "judge" / "a").write_text("1")
    contents = path_hash(place / "here" / "judge")
    assert gold_input(ppo(gold="judge")) == {"gold": {"path": "judge", "hash": contents}}
    hub = {"path": "me/judge", "hash": "hub:me/judge"}
    assert gold_input(ppo(gold="me/judge")) == {"gold": hub}
    assert gold_input(ppo()) == {}


def test_the_function_that_another_is_about_counts_too(place: Path) -> None:
    (place / "here" / "mine.py").write_text("")
    options = {"of": {"function": "mine:f"}, "words": {"a": "b"}}
    config = ppo(rewards=[{"function": "counterfactual_penalty", "options": options}])
    assert set(reward_inputs(config)) == {"ppo.rewards.0.of"}
