"""Bad input of every kind through the command line: one line, exit code 2, nothing damaged."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from align import cli
from align.artifacts import (
    StageRecord,
    StageResult,
    file_hash,
    stage_lock,
    write_manifest,
    write_text_atomic,
)

RUN = """\
name: tiny
model: {base: ./base}
sft:
  data: {path: rows.jsonl}
  batch_size: 2
"""
GOOD = "".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"question {i}"},
                {"role": "assistant", "content": f"answer {i}"},
            ]
        }
    )
    + "\n"
    for i in range(20)
)
LINES_19 = "".join(GOOD.splitlines(keepends=True)[:19])
SFT = Path("runs/tiny/2-sft")
MANIFEST = "runs/tiny/2-sft/manifest.json"


def nothing() -> None:
    """The mistake is in the arguments."""


def content(path: str, data: str | bytes) -> Callable[[], None]:
    """Put something else into a file."""

    def prepare() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data if isinstance(data, bytes) else data.encode())

    return prepare


def missing_rows() -> None:
    Path("rows.jsonl").rename("other.jsonl")


def no_weights() -> None:
    Path("base/model.safetensors").unlink()


def pickled_weights() -> None:
    no_weights()
    Path("base/pytorch_model.bin").write_bytes(b"\x80\x04N.")


def cut_weights() -> None:
    path = Path("base/model.safetensors")
    path.write_bytes(path.read_bytes()[:-100])


def adapter_only() -> None:
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").write_text("{}")


def truncated_gz() -> None:
    Path("rows.jsonl.gz").write_bytes(gzip.compress(GOOD.encode())[:-20])


def row(messages: object) -> str:
    """Nineteen good lines, and line 20."""
    return LINES_19 + json.dumps({"messages": messages}) + "\n"


def reads(path: str) -> tuple[str, ...]:
    return ("run", "run.yaml", f"sft.data.path={path}")


@dataclass(frozen=True)
class Fault:
    """A mistake, and what must be said of it."""

    name: str
    expected: tuple[str, ...]
    prepare: Callable[[], None] = nothing
    arguments: tuple[str, ...] = ("run", "run.yaml")


def override(name: str, setting: str, *expected: str) -> Fault:
    return Fault(name, expected, arguments=("run", "run.yaml", setting))


def config(name: str, data: str | bytes, *expected: str) -> Fault:
    return Fault(name, ("run.yaml", *expected), content("run.yaml", data))


def data(name: str, data: str | bytes, *expected: str) -> Fault:
    return Fault(name, expected, content("rows.jsonl", data))


def chat(name: str, model: str, prepare: Callable[[], None], *expected: str) -> Fault:
    return Fault(name, expected, prepare, ("chat", model, "--prompt", "hello"))


BAD_SETTINGS = (
    Fault("no configuration", ("nix.yaml", "No such file"), arguments=("run", "nix.yaml")),
    Fault("folder as configuration", ("base", "Is a directory"), arguments=("run", "base")),
    config("empty configuration", "", "the file is empty"),
    config("configuration is a list", "- 1\n", "holds a list"),
    config("invalid YAML", RUN + "sft: [\n", "not valid YAML"),
    config("duplicate key", RUN + "name: other\n", ":6", "duplicate key name"),
    config("configuration is not text", b"name: \xff\xfe\n", "not UTF-8"),
    config("huge configuration", "#" * 2_000_000, "2,000,000 bytes"),
    config("missing key", "model: {base: ./base}\n", "name: is missing"),
    config("two starts", RUN + "pretrain: {data: {path: x}}\n", "exactly one of `model`"),
    override("unknown key", "sft.learnig_rate=1", "learnig_rate", "learning_rate (nearest)"),
    override("unknown section", "stf={}", "unknown key 'stf'", "sft (nearest)"),
    override("mistyped number", "sft.batch_size=many", '"many" (text)', "an integer"),
    override("out of range", "sft.learning_rate=-1", "-1 (integer)", "> 0"),
    override("absurd size", "sft.batch_size=1e400", "sft.batch_size", "an integer"),
    override("absurd count", f"sft.data.limit={10**30}", "sft.data.limit", "<= 1000000000000"),
    override("not a number", "sft.epochs=.nan", "sft.epochs", "NaN"),
    override("no value", "sft.epochs", "not an override", "dotted.key=value"),
    override("path as name", "name=../x", "name", "text that matches"),
    override("two sources", "sft.data.world=text", "sft.data", "exactly one of world, path, hub"),
    override("batches do not divide", "sft.gradient_accumulation=3", "must divide batch_size"),
    override("no such model", "model.base=./nix", "model.base", "'./nix'"),
    override("file as output", "output=elsewhere", "elsewhere/tiny", "cannot create the folder"),
    Fault("stage without section", ("no section `ppo`", "sft"), arguments=("ppo", "run.yaml")),
)
BAD_DATA = (
    Fault("no data", ("rows.jsonl", "other.jsonl"), missing_rows),
    data("empty data", "", "rows.jsonl"),
    data("half-written line", LINES_19 + '{"messages": [{"ro', "rows.jsonl:20"),
    data("row is a list", LINES_19 + "[1]\n", "rows.jsonl:20"),
    data("data is not text", LINES_19.encode() + b'{"messages": "\xff"}\n', "rows.jsonl:20"),
    data("wrong field", GOOD.replace("messages", "massages"), "rows.jsonl:1", "massages"),
    data("wrong type in a row", row([{"role": "user", "content": 3}]), "rows.jsonl:20", "content"),
    data("unknown role", row([{"role": "robot", "content": "x"}]), "rows.jsonl:20", "robot"),
    data("too few rows", GOOD.splitlines()[0], "1 rows", "cannot be split"),
    Fault("truncated gz", ("rows.jsonl.gz",), truncated_gz, reads("rows.jsonl.gz")),
    Fault("unknown kind of file", ("rows.xyz",), content("rows.xyz", GOOD), reads("rows.xyz")),
)
LATER = "reward={data: {world: preferences, limit: 40}, trainer: {adam_beta: 1}}"
BAD_TRAINING = (
    override("unknown argument", "sft.trainer.adam_beta=1", "sft.trainer.adam_beta", "(nearest)"),
    override("mistyped argument", "sft.trainer.logging_steps=often", "sft.trainer.logging_steps"),
    override("argument of a later stage", LATER, "reward.trainer.adam_beta: unknown", "(nearest)"),
    Fault("model without weights", ("base", "weights"), no_weights),
    Fault("pickled weights", ("base", "safetensors"), pickled_weights),
    Fault("broken manifest", ("2-sft/manifest.json: broken",), content(MANIFEST, '{"stage": ')),
)
BAD_MODELS = (
    chat("no model", "./nix", nothing, "./nix"),
    chat("empty model folder", "empty", lambda: Path("empty").mkdir(), "empty: no model"),
    chat("no weights", "base", no_weights, "base"),
    chat("pickled weights for chat", "base", pickled_weights, "base", "safetensors"),
    chat("truncated weights", "base", cut_weights, "base"),
    chat("broken model config", "base", content("base/config.json", "{"), "base"),
    chat("adapter as model", "adapter", adapter_only, "adapter", "no model by itself"),
    chat("garbage as GGUF", "x.gguf", content("x.gguf", b"not a gguf"), "x.gguf"),
    chat("another file as model", "rows.jsonl", nothing, "rows.jsonl", "not a model file"),
    chat("stage with a broken manifest", str(SFT), content(MANIFEST, "{"), "manifest.json"),
    chat("stage whose adapter is no adapter", str(SFT), nothing, "adapter"),
    Fault("report of nothing", ("base: no run in this folder",), arguments=("report", "base")),
    Fault("export of nothing", ("./nix",), arguments=("export", "./nix", "out")),
    Fault("export over something", ("base",), arguments=("export", str(SFT), "base")),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest model that loads."""
    from align.config import ArchitectureConfig
    from align.models import build_model, save_model
    from align.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([GOOD], 300)
    size = ArchitectureConfig(hidden_size=8, layers=1, heads=1, intermediate_size=8, vocab_size=300)
    folder = tmp_path_factory.mktemp("model") / "base"
    save_model(build_model(size, tokenizer, seed=0), tokenizer, folder)
    return folder


@pytest.fixture
def run(workplace: Path, base: Path) -> Path:
    """A run's YAML and data, and a finished stage of an earlier configuration."""
    Path("run.yaml").write_text(RUN)
    Path("rows.jsonl").write_text(GOOD)
    Path("elsewhere").write_text("a file")
    shutil.copytree(base, "base")
    write_text_atomic(SFT / "adapter" / "weights.safetensors", "weights of an earlier run")
    record = StageRecord(stage="2-sft", config={}, inputs={}, code="")
    model = {"base": "../../../base", "adapters": ["adapter"]}
    write_manifest(SFT, record, StageResult({}, model=model))
    return workplace


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): file_hash(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "fault", [*BAD_SETTINGS, *BAD_DATA, *BAD_TRAINING, *BAD_MODELS], ids=lambda fault: fault.name
)
def test_a_mistake_is_one_line_and_damages_nothing(
    run: Path,
    fault: Fault,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    fault.prepare()
    before = hashes(SFT)
    code = cli.main(list(fault.arguments))
    err = capfd.readouterr().err
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    for word in fault.expected:
        assert word in err
    assert hashes(SFT) == before


def test_a_run_that_another_process_writes_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage_lock(SFT.parent):
        assert cli.main(["run", "run.yaml"]) == 2
    assert f"process {os.getpid()} is writing this run" in capsys.readouterr().err
