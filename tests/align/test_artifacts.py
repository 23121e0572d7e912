"""Atomic files, content hashes, manifests and staleness, checkpoints, the lock."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from align import artifacts
from align.artifacts import MetricsLog, StageRecord, StageResult, staleness
from align.checkpoints import last_complete_checkpoint, mark_complete
from align.errors import UserError


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A stage folder with one model file, samples, and logs."""
    folder = tmp_path / "2-sft"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights.safetensors").write_bytes(b"\x00\x01")
    (folder / "samples.jsonl").write_text('{"a": 1}\n')
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "x").write_text("x")
    return folder


def record(**changes: object) -> StageRecord:
    base = StageRecord(
        stage="2-sft",
        config={"sft": {"epochs": 1.0, "lora": {"r": 8}}, "seed": 1},
        inputs={"model": {"path": "../1-pretrain", "hash": "aa"}},
        code="cc",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    artifacts.write_json_atomic(path, {"a": 1})
    with pytest.raises(TypeError, match="no JSON form for object"):
        artifacts.write_json_atomic(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failing_generator_of_lines_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def lines() -> object:
        yield "new"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        artifacts.write_lines_atomic(path, lines())  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    import numpy as np

    value = {"nan": float("nan"), "inf": np.float32("inf"), "n": np.int64(3), "v": np.arange(2)}
    assert artifacts.jsonable(value) == {"nan": None, "inf": None, "n": 3, "v": [0, 1]}


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # NIST's example for SHA-256 of "abc".
    assert artifacts.file_hash(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_folder_hash_covers_contents_and_names_but_no_logs(stage: Path) -> None:
    # Definition: SHA-256 of the canonical JSON of {relative name: SHA-256 of the contents}.
    entries = {
        "model/weights.safetensors": hashlib.sha256(b"\x00\x01").hexdigest(),
        "samples.jsonl": hashlib.sha256(b'{"a": 1}\n').hexdigest(),
    }
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    before = artifacts.folder_hash(stage)
    assert before == hashlib.sha256(text.encode()).hexdigest()
    (stage / "metrics.jsonl").write_text("other")
    (stage / "manifest.json").write_text("{}")
    (stage / ".samples.jsonl.x.tmp").write_text("left by a kill")
    assert artifacts.folder_hash(stage) == before
    (stage / "samples.jsonl").rename(stage / "other.jsonl")
    assert artifacts.folder_hash(stage) != before


def test_json_hash_ignores_the_order_of_keys() -> None:
    expected = hashlib.sha256(b'{"a":1,"b":[2,null]}').hexdigest()
    assert artifacts.json_hash({"b": [2, float("nan")], "a": 1}) == expected


def test_code_hash_changes_with_any_source_of_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "hashed_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    (package / "inner" / "deep.py").write_text("x = 1")
    (tmp_path / "hashed_module.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    both = artifacts.code_hash(["hashed_package", "hashed_module"])
    assert both == artifacts.code_hash(["hashed_module", "hashed_package"])
    (package / "inner" / "deep.py").write_text("x = 2")
    changed = artifacts.code_hash(["hashed_package", "hashed_module"])
    assert changed != both
    (package / "inner" / "prompt.yaml").write_text("task: x")
    read = artifacts.code_hash(["hashed_package", "hashed_module"])
    assert read not in (both, changed), "what modules read counts"
    (tmp_path / "hashed_module.py").write_text("x = 2")
    assert artifacts.code_hash(["hashed_package", "hashed_module"]) != changed


def test_manifest_holds_what_the_outputs_depend_on(stage: Path) -> None:
    result = StageResult({"loss": float("nan")}, [{"rows": 3}], {"base": "model", "adapters": []})
    artifacts.write_manifest(stage, record(command="align sft x", seconds=1.239), result)
    manifest = artifacts.read_manifest(stage)
    assert manifest["outputs"]["model/weights.safetensors"] == {
        "bytes": 2,
        "hash": hashlib.sha256(b"\x00\x01").hexdigest(),
    }
    assert sorted(manifest["outputs"]) == ["model/weights.safetensors", "samples.jsonl"]
    assert manifest["metrics"] == {"loss": None}
    assert manifest["data"] == [{"rows": 3}]
    assert manifest["model"] == {"base": "model", "adapters": []}
    assert manifest["inputs"] == {"model": {"path": "../1-pretrain", "hash": "aa"}}
    assert (manifest["command"], manifest["seconds"]) == ("align sft x", 1.24)
    assert manifest["packages"]["numpy"] == __import__("numpy").__version__


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"command": "another", "seconds": 9.0}, None),
        ({"config": {"sft": {"epochs": 1, "lora": {"r": 8}}, "seed": 1}}, None),
        (
            {"config": {"sft": {"epochs": 2, "lora": None}, "seed": 1, "x": 1}},
            "config differs: sft.epochs, sft.lora, x",
        ),
        ({"inputs": {"model": {"path": "elsewhere", "hash": "aa"}}}, None),
        ({"inputs": {"model": {"path": "../1-pretrain", "hash": "bb"}}}, "inputs differ: model"),
        ({"inputs": {}}, "inputs differ: model"),
        ({"code": "dd"}, "code differs"),
    ],
)
def test_staleness_names_what_differs(
    stage: Path, changes: dict[str, object], reason: str | None
) -> None:
    artifacts.write_manifest(stage, record(), StageResult({}))
    assert staleness(stage, record(**changes)) == reason


def test_staleness_sees_missing_and_changed_outputs(stage: Path) -> None:
    assert staleness(stage, record()) == "not complete: no manifest"
    artifacts.write_manifest(stage, record(), StageResult({}))
    (stage / "model" / "weights.safetensors").write_bytes(b"\x00\x02")  # same size
    assert staleness(stage, record()) == "outputs differ: model/weights.safetensors"
    (stage / "model" / "weights.safetensors").unlink()
    assert staleness(stage, record()) == "outputs differ: model/weights.safetensors"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "x"}', '{"stage": 1}', "\x00"])
def test_a_broken_manifest_is_named(stage: Path, text: str) -> None:
    (stage / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"2-sft/manifest\.json: broken manifest"):
        staleness(stage, record())


def test_git_state_is_null_for_code_that_is_not_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(artifacts, "__file__", str(tmp_path / "site-packages.py"))
    assert artifacts.git_state() == {"commit": None, "dirty": None}


def test_metrics_log_forgets_what_a_resumed_run_writes_again(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.truncate(0)
    assert log.read() == []
    for step in (1, 2, 3):
        log.append({"step": step, "loss": 1 / step if step < 3 else float("inf")})
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')  # torn by a kill
    assert log.read()[-1] == {"step": 3, "loss": None}
    log.truncate(3)
    log.append({"step": 3, "loss": 0.5})
    assert log.read() == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 0.5},
    ]


def test_only_marked_and_whole_checkpoints_count(tmp_path: Path) -> None:
    assert last_complete_checkpoint(tmp_path / "none") is None
    for step in (9, 10, 20, 30):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "weights").write_bytes(b"123")
        if step != 30:  # killed before the marker
            mark_complete(checkpoint, step)
    (tmp_path / "checkpoint-20" / "weights").write_bytes(b"12")  # cut short
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-10", "checkpoint-9"]


def test_a_second_writer_is_told_the_first_ones_process(tmp_path: Path) -> None:
    with (
        artifacts.stage_lock(tmp_path / "run"),
        pytest.raises(UserError) as caught,
        artifacts.stage_lock(tmp_path / "run"),
    ):
        pass
    assert f"process {os.getpid()} is writing this run" in str(caught.value)
    with artifacts.stage_lock(tmp_path / "run"):
        pass  # free again


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from align.files import stage_lock\n"
        "with stage_lock(Path(sys.argv[1])): os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == 9
    with artifacts.stage_lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match=r"runs/x: cannot create the folder \(Not a directory\)"):
        artifacts.make_folder(tmp_path / "runs" / "x")
