"""Any model on tasks without a run: settings, folders, numbers, another model's folder."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align import cli
from align.errors import UserError
from align.evaluation import evaluate_lone, lone_run, model_name
from align.models import load_model
from align.progress import Progress
from align.references import ModelReference
from evals.compare import compare_stored
from reward.scorer_training import Labelled, train_scorer

ROWS = [
    {
        "question": f"the shop in {place} sells",
        "choices": {"text": ["a red box", "blue bells"], "label": ["A", "B"]},
        "answerKey": "AB"[number % 2],
    }
    for number, place in enumerate(["rome", "oslo", "berlin", "the river", "the big shop"])
]


@pytest.fixture
def rows(workplace: Path) -> Path:
    """The working directory with rows of ARC's shape."""
    (workplace / "arc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return workplace


def evaluated(model: Path, *settings: str, **given: Any) -> list[str]:
    """What evaluating prints last."""
    run = lone_run(str(model), settings, **{"tasks": None, "out": "results", "name": None} | given)
    return evaluate_lone(run, Progress(out=io.StringIO(), quiet=True))


def never(*_: Any, **__: Any) -> None:
    raise AssertionError("a model was loaded")


def test_accuracy_is_that_of_the_likeliest_choice(rows: Path, tiny_folder: Path) -> None:
    lines = evaluated(tiny_folder, "arc_easy=arc.jsonl", "evals.tasks.arc_easy.seed=3")
    loaded = load_model(ModelReference(str(tiny_folder)))
    hits = [right(loaded, row) for row in ROWS]
    folder = rows / "results" / "model"
    result = json.loads((folder / "arc_easy" / "result.json").read_text())
    (acc,) = [row for row in result["estimates"] if row["metric"] == "acc"]
    assert (acc["value"], acc["n"]) == (sum(hits) / 5, 5)
    assert lines[-1] == "results: results/model"
    assert any(line.split()[:3] == ["acc", "5", f"{20 * sum(hits)}.0%"] for line in lines)
    harness = json.loads((folder / "results_lm_eval.json").read_text())
    assert harness["results"]["arc_easy"]["acc,none"] == sum(hits) / 5


def right(loaded: Any, row: dict[str, Any]) -> bool:
    """Whether the right choice is likelier, from the plain logits of each whole text."""
    import torch

    sums = []
    question = loaded.tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"]
    for choice in row["choices"]["text"]:
        text = f"Question: {row['question']}\nAnswer: {choice}"
        ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logs = loaded.model(ids).logits[0].log_softmax(-1)
        taken = logs[:-1].gather(1, ids[0, 1:, None])[:, 0]
        sums.append(float(taken[len(question) - 1 :].sum()))
    return sums.index(max(sums)) == "AB".index(row["answerKey"])


def test_a_finished_result_is_read(
    rows: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluated(tiny_folder, "arc_easy=arc.jsonl")
    monkeypatch.setattr("align.models.load_model", never)
    assert evaluated(tiny_folder, "arc_easy=arc.jsonl") == first
    with pytest.raises(AssertionError, match="a model was loaded"):
        evaluated(tiny_folder, "arc_easy=arc.jsonl", "evals.tasks.arc_easy.num_fewshot=1")


def test_tasks_come_from_a_run_s_yaml_without_its_training(rows: Path, tiny_folder: Path) -> None:
    Path("conf").mkdir()  # rows of the YAML lie beside it, those of the command line do not
    Path("conf/arc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:4]))
    Path("conf/run.yaml").write_text(
        "name: other\nmodel: {base: org/other, adapters: [org/lora]}\n"
        "sft: {data: {world: instructions, limit: 9}}\n"
        "evals: {tasks: {mine: {definition: arc_easy, data: {path: arc.jsonl}}}}\n"
        "report: {gate: [{task: mine, metric: acc, stage: sft, at_least: 1}]}\n"
    )
    evaluated(tiny_folder, "arc_easy=arc.jsonl", tasks=Path("conf/run.yaml"), name="2024")
    found = {
        path.parent.name: json.loads(path.read_text())["n"]
        for path in (rows / "results" / "2024").glob("*/result.json")
    }
    assert found == {"mine": 4, "arc_easy": 5}


def test_two_models_are_compared_from_what_was_written(
    rows: Path, tiny_folder: Path, adapters: tuple[Path, Path]
) -> None:
    evaluated(tiny_folder, "arc_easy=arc.jsonl")
    setting = f'model.adapters=["{adapters[0]}"]'
    evaluated(tiny_folder, "arc_easy=arc.jsonl", setting, name="tuned")
    tables = compare_stored([Path("results")])
    assert tables["stages"] == ["model", "tuned"]
    samples = {
        name: [
            json.loads(line)["correct"]
            for line in Path(f"results/{name}/arc_easy/samples.jsonl").read_text().splitlines()
        ]
        for name in tables["stages"]
    }
    (acc,) = [row for row in tables["comparisons"] if row["metric"] == "acc"]
    expected = (sum(samples["tuned"]) - sum(samples["model"])) / 5
    assert acc["difference"] == pytest.approx(expected)
    hashes = {model["hash"] for model in tables["models"].values()}
    assert len(hashes) == 2


def test_another_model_s_folder_is_refused(
    rows: Path, tiny_folder: Path, adapters: tuple[Path, Path]
) -> None:
    evaluated(tiny_folder, "arc_easy=arc.jsonl", name="taken")
    before = Path("results/taken/results_lm_eval.json").read_bytes()
    setting = f'model.adapters=["{adapters[0]}"]'
    with pytest.raises(UserError, match=r"results/taken: holds the results of .*; choose another"):
        evaluated(tiny_folder, "arc_easy=arc.jsonl", setting, name="taken")
    assert Path("results/taken/results_lm_eval.json").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), "no task to evaluate; allowed: --tasks, --lm-eval, or TASK=ROWS"),
        (("seed=3",), "no task to evaluate"),
        (("arc_easy",), "'arc_easy': neither rows nor a setting"),
        (("arc_esay=arc.jsonl",), "no task definition is called 'arc_esay'"),
        (("seed=x", "arc_easy=arc.jsonl"), "override 'seed=x': seed: \"x\" (text)"),
        (("evals.task=3",), "evals.task"),
    ],
)
def test_wrong_settings_are_refused(
    rows: Path, tiny_folder: Path, settings: tuple[str, ...], said: str
) -> None:
    with pytest.raises(UserError) as error:
        evaluated(tiny_folder, *settings)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: folder("runs/quick/2-sft", "manifest.json"), "quick-2-sft"),
        (lambda: folder("models/tiny", "config.json"), "tiny"),
        (lambda: "models/Smol-1.Q4_1.gguf", "Smol-1.Q4_1"),
        (lambda: "org/model-7b", "org__model-7b"),
        (lambda: folder("models/.a b", "config.json"), "a-b"),
    ],
)
def test_names_of_models(workplace: Path, make: Callable[[], str], name: str) -> None:
    assert model_name(make()) == name


def folder(path: str, file: str) -> str:
    Path(path).mkdir(parents=True)
    (Path(path) / file).touch()
    return path


def test_the_command_evaluates_a_model(
    rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["eval", str(tiny_folder), "arc_easy=arc.jsonl", "--name", "tiny"]) == 0
    out, err = capsys.readouterr()
    assert (out.splitlines()[-1], err) == ("results: results/tiny", "")
    assert cli.main(["compare", "results/tiny", "--json", "x.json"]) == 2
    assert "one model is nothing to compare" in capsys.readouterr().err
    assert cli.main(["eval", str(tiny_folder), "arc_easy=arc.jsonl", "--name", "two"]) == 0
    assert cli.main(["compare", "results/tiny", "results/two", "--json", "x.json"]) == 0
    assert json.loads(Path("x.json").read_text())["stages"] == ["tiny", "two"]


def test_lm_eval_that_is_not_installed_is_one_line(
    rows: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "evals.borrowing", raising=False)
    assert cli.main(["eval", str(tiny_folder), "--lm-eval", "piqa"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "--lm-eval needs lm-evaluation-harness" in err
    assert "pip install 'alignkit[lm-eval]'" in err


def test_options_of_a_model_do_not_go_with_a_run(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--name", "--out", "--tasks", "--lm-eval"):
        assert cli.main(["eval", "run.yaml", option, "x"]) == 2
        assert "go with a model" in capsys.readouterr().err


def test_open_generation_is_scored_stored_and_compared(
    workplace: Path, tiny_folder: Path, adapters: tuple[Path, Path]
) -> None:
    words = {"bad": ("rude", "cold", "mean"), "good": ("kind", "warm", "nice")}
    texts = [
        {"text": f"a {word} {place} {n}", "label": label}
        for label, own in words.items()
        for word in own
        for n, place in enumerate(["shop", "house", "road", "yard"] * 8)
    ]
    (workplace / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    source = Labelled(Path("texts.jsonl"), "text", "label", {"bad": 1.0, "good": 0.0})
    train_scorer(source, Path("tone"), "tone", "2")
    settings = (
        "open_prompts=embedded",
        "evals.scorers.toxicity=tone",
        "evals.tasks.open_prompts.clusters=2",
        "evals.tasks.open_prompts.samples=2",
        "evals.tasks.open_prompts.max_new_tokens=4",
    )
    lines = evaluated(tiny_folder, *settings)
    assert any("toxicity, the scorer itself, religion" in line for line in lines)
    evaluated(tiny_folder, *settings, f'model.adapters=["{adapters[0]}"]', name="tuned")
    shutil.rmtree("tone")  # what is stored needs no scorer any more
    tables = compare_stored([Path("results")])
    samples = [
        [json.loads(line) for line in place.read_text("utf-8").splitlines()]
        for place in (Path(f"results/{m}/open_prompts/samples.jsonl") for m in ("model", "tuned"))
    ]
    assert [s["prompt"] for s in samples[0]] == [s["prompt"] for s in samples[1]]
    means = [
        np.nanmean([np.nanmean(np.array(s["scores"]["length"], float)) for s in own])
        for own in samples
    ]
    (length,) = (row for row in tables["comparisons"] if row["metric"] == "length")
    assert length["difference"] == pytest.approx(means[1] - means[0])
    result = json.loads(Path("results/model/open_prompts/result.json").read_text("utf-8"))
    assert "toxicity:tone 2 @" in result["signature"]
    changed = {row["task"] for row in tables["bias_comparisons"]}
    assert changed == {"open_prompts"}, "no stage changes a scorer"


def test_a_scorer_that_is_not_there_is_told_before_anything_runs(
    workplace: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.models.load_model", never)
    with pytest.raises(UserError, match=r"evals\.scorers\.toxicity: no such scorer: 'gone'"):
        evaluated(tiny_folder, "open_prompts=embedded", "evals.scorers.toxicity=gone")
    with pytest.raises(UserError, match=r"evals\.hurtful"):
        evaluated(tiny_folder, "open_prompts=embedded", "evals.hurtful=gone")
