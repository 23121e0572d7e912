"""`align audit` on a tiny language model and on a run: what is written, read again and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from align import cli, models
from align.audit import subject_kind
from align.config import ArchitectureConfig
from align.data.world import World
from evals.bias.template_items import sample_items


@pytest.fixture(scope="module")
def wide_folder(
    tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny model with room for the templates."""
    shape = ArchitectureConfig(
        hidden_size=16, layers=1, heads=2, intermediate_size=16, vocab_size=320, context=256
    )
    return save_model(shape, tiny_tokenizer, tmp_path_factory.mktemp("wide") / "model")


def save_model(shape: ArchitectureConfig, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """A random model, saved."""
    models.save_model(models.build_model(shape, tokenizer, seed=7), tokenizer, folder)
    return folder


def audit(*words: str) -> int:
    return cli.main(["audit", *words, "--quiet"])


def read(folder: Path) -> Any:
    return json.loads((folder / "audit.json").read_text(encoding="utf-8"))


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("a model was loaded")


def test_a_language_model_is_audited_and_its_results_are_read_again(
    workplace: Path, wide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert audit(str(wide_folder), "--sample", "2", "--seed", "3") == 0
    folder = workplace / "results" / "model"
    found = read(folder)
    rows = sample_items(2, seed=3)
    lines = (folder / "identity" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    assert len(items) == len(rows) == 2 * 2 * 39
    # the first row of the table is the mean of its items, as stored
    first = found["bias"][0]
    assert (first["measure"], first["attribute"], first["group_a"]) == (
        "in prompt",
        "gender",
        "woman",
    )
    effects = [item["effect"] for item, row in zip(items, rows, strict=True) if same(row, first)]
    assert first["value"] == pytest.approx(sum(effects) / 2)
    assert first["clusters"] == len(effects) == 2
    assert found["stages"] == ["model"]
    assert found["reward_model"] is None
    assert found["subject"]["population"]["colour"]["items"] == 160 * 30
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "Largest effects, model" in page
    assert "gender" in page
    monkeypatch.setattr("align.models.load_model", never)
    assert audit(str(wide_folder), "--sample", "2", "--seed", "3") == 0
    assert read(folder) == found
    with pytest.raises(AssertionError, match="a model was loaded"):
        audit(str(wide_folder), "--sample", "2", "--seed", "4")


def same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = ("measure", "attribute", "group_a", "group_b")
    return all(row[key] == other[key] for key in keys)


def test_a_run_is_audited_stage_by_stage_with_its_own_bias_tasks(
    workplace: Path, wide_folder: Path
) -> None:
    items = [row for row in World(3).counterfactual(144) if row["measure"] == "tone"][:4]
    lines = "".join(json.dumps(row) + "\n" for row in items)
    (workplace / "people.jsonl").write_text(lines, encoding="utf-8")
    table = {"path": str(workplace / "people.jsonl")}
    run = workplace / "runs" / "mine"
    run.mkdir(parents=True)
    config = {
        "name": "mine",
        "model": {"base": str(wide_folder)},
        "evals": {
            "tasks": {
                "people": {"kind": "counterfactual", "data": table, "seed": 1234},
                "text": {"kind": "perplexity", "data": {"path": "is/not/read.txt"}},
            }
        },
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert subject_kind(str(run)) == "run"
    assert audit(str(run), "--sample", "2") == 0
    found = read(run / "6-audit")
    assert found["stages"] == ["base"]
    assert {row["task"] for row in found["bias"]} == {"identity", "people"}
    assert "no reward model" in found["drift"]["outcome"]
    assert "no reward model" in (run / "6-audit" / "report.md").read_text(encoding="utf-8")
    assert (run / "6-audit" / "base" / "people" / "result.json").is_file()


def test_a_model_is_audited_for_privacy_on_two_files(
    workplace: Path, wide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, count in (("train", 5), ("held", 4)):
        lines = [f"{name} text number {number} by jane@doe.org\n\n" for number in range(count)]
        (workplace / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    words = (str(wide_folder), "--sample", "2", "--train", "train.txt", "--heldout", "held.txt")
    words = (*words, "audit.prompt_tokens=4", "audit.next_tokens=3", "audit.documents=4")
    assert audit(*words) == 0
    folder = workplace / "results" / "model"
    found = read(folder)
    rows = found["privacy"]["membership"]
    assert [row["score"] for row in rows] == ["loss", "min_k", "min_k_pp", "zlib"]
    assert {(row["stage"], row["set"], row["n"], row["heldout"]) for row in rows} == {
        ("model", "given", 4, 4)
    }
    assert [row["n"] for row in found["privacy"]["extraction"]] == [4, 4]
    trained = {row["kind"]: row for row in found["privacy"]["training_personal"]}
    assert (trained["mail"]["passages"], trained["mail"]["distinct"]) == (5, 1)
    assert found["cases"]["model"][0]["side_a"]["spans"]
    everything = "".join(path.read_text("utf-8") for path in folder.glob("*.*"))
    assert "jxxx@xxx.xxx" in everything
    assert "jane@doe.org" not in everything
    monkeypatch.setattr("align.models.load_model", never)
    assert audit(*words) == 0
    assert read(folder) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pairs", "pairs.jsonl"), "--pairs and --group go with a reward stage"),
        (("--group", "origin"), "--pairs and --group go with a reward stage"),
        (("--sample", "1"), "Invalid value for '--sample'"),
        (("--sample", "161"), "Invalid value for '--sample'"),
        (("nothing",), "neither rows nor a setting"),
        (("--train", "texts.txt"), "--train needs --heldout"),
        (("--heldout", "texts.txt"), "--train needs --heldout"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    words: tuple[str, ...],
    said: str,
    workplace: Path,
    wide_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit(str(wide_folder), *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_nothing_of_that_name_and_the_folder_of_another_model(
    workplace: Path,
    tiny_tokenizer: PreTrainedTokenizerFast,
    wide_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit("./no/such/model") == 2
    assert "no such model" in capsys.readouterr().err
    assert audit(str(wide_folder), "--sample", "2", "--name", "mine") == 0
    shape = ArchitectureConfig(
        hidden_size=16, layers=2, heads=2, intermediate_size=16, vocab_size=320, context=256
    )
    other = save_model(shape, tiny_tokenizer, workplace / "other")
    assert audit(str(other), "--sample", "2", "--name", "mine") == 2
    assert "holds the results of" in capsys.readouterr().err


def test_a_table_of_predictions_is_audited_without_a_model(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("align.models.load_model", never)
    lines = [
        "label,prediction,score,sex",
        *(f"{i % 2},{i // 2 % 2},0.{i % 9},{'fm'[i % 3 % 2]}" for i in range(120)),
    ]
    Path("guess.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert subject_kind("guess.csv") == "predictions"
    assert audit("guess.csv", "--group", "sex", "--seed", "4", "positive=1") == 0
    folder = workplace / "results" / "guess"
    found = read(folder)
    assert found["n"] == 120
    assert (found["subject"]["name"], found["subject"]["seed"]) == ("guess", 4)
    assert {row["constraint"] for row in found["mitigations"]} == {
        "demographic_parity",
        "equalized_odds",
    }
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "ThresholdOptimizer, equalized odds by sex" in page
    assert "Gaps between groups" in (folder / "report.md").read_text(encoding="utf-8")
    for words, message in (
        ((), "no groups to compare"),
        (("--group", "age"), "no column age"),
        (("--group", "sex", "threshold=high"), "threshold"),
        (("--group", "sex", "--pairs", "guess.csv"), "--pairs goes with a reward stage"),
    ):
        capsys.readouterr()
        assert audit("guess.csv", *words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
