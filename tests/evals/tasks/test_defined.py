"""From an entry of the configuration to a task, its items and what its result depends on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from align.config import RunConfig, SourceConfig, TaskConfig
from align.data.sources import DataContext
from align.errors import UserError
from align.inputs import _data_inputs
from align.settings import load_run
from align.stages import STAGES, sources
from evals.engine import Engine
from evals.plan import Entry, configured_entries
from evals.tasks import build_task
from evals.tasks.generation import GenerationTask
from evals.tasks.likelihood import LoglikelihoodTask, RollingTask
from evals.tasks.multiple_choice import MultipleChoiceTask

SOURCE = SourceConfig(path="rows.jsonl")
MINE = """
task: mine
output_type: multiple_choice
doc_to_text: "Is it {{q}}?"
doc_to_choice: ["no", "yes"]
doc_to_target: y
metric_list: [{metric: acc}]
metadata: {version: 3.0}
"""
ROWS = [{"q": "red", "y": 1}, {"q": "blue", "y": 0}, {"q": "bread", "y": 1}]


def entry(**changes: Any) -> TaskConfig:
    return TaskConfig(**{"definition": "arc_easy", "data": SOURCE} | changes)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("arc_easy", MultipleChoiceTask),
        ("lambada", LoglikelihoodTask),
        ("wikitext", RollingTask),
        ("gsm8k", GenerationTask),
    ],
)
def test_each_output_has_its_task(name: str, kind: type) -> None:
    task = build_task("x", entry(definition=name))
    assert isinstance(task, kind)
    assert task.name == "x"


def test_what_a_run_sets_goes_before_the_definition() -> None:
    task: Any = build_task("x", entry(definition="gsm8k"))
    assert (task.asking.shots, task.asking.chat, task.asking.seed) == (5, False, 1234)
    task = build_task(
        "x", entry(definition="gsm8k", num_fewshot=0, chat=True, system_prompt="Go.", seed=3)
    )
    assert (task.asking.shots, task.asking.chat, task.asking.seed) == (0, True, 3)
    assert "through the chat template with a system message, without examples" in task.definition


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"definition": "arc_eazy"}, "no task definition is called 'arc_eazy'"),
        ({"prompt": "x"}, "evals.tasks.x: prompt is never read by a definition"),
        ({"definition": "gsm8k", "groups": ("a",)}, "groups: is never read by this definition"),
        ({"definition": "gsm8k", "cluster": "a"}, "cluster: is never read by this definition"),
        ({"clusters": 3}, "clusters draws whole clusters, and no column names them"),
        ({"system_prompt": "x"}, "system_prompt: needs the chat template; set chat: true"),
        ({"fewshot_data": SOURCE}, "fewshot_data: is never read without examples"),
        ({"definition": "wikitext", "num_fewshot": 1}, "whole documents are not asked"),
        ({"definition": "wikitext", "chat": True}, "whole documents are not asked"),
    ],
)
def test_entries_that_cannot_be_used(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        build_task("x", entry(**changes))
    assert message in str(error.value)


def test_kinds_read_nothing_of_a_definition() -> None:
    config = TaskConfig(kind="perplexity", data=SOURCE, num_fewshot=1)
    with pytest.raises(UserError, match="num_fewshot is never read by kind perplexity"):
        build_task("x", config)


@pytest.mark.parametrize("named", [{}, {"kind": "perplexity", "definition": "arc_easy"}])
def test_exactly_one_of_kind_and_definition(named: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of kind and definition"):
        TaskConfig(data=SOURCE, **named)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, a definition of its own and rows."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    (home / "mine.yaml").write_text(MINE, encoding="utf-8")
    (home / "model").mkdir()
    for name, rows in (("rows", ROWS), ("shots", [{"q": "soup", "y": 0}, {"q": "car", "y": 1}])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (home / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return home


def run_of(folder: Path, **task: Any) -> RunConfig:
    settings = {"definition": "mine.yaml", "data": {"path": "rows.jsonl"}} | task
    run = {"model": {"base": "model"}, "evals": {"tasks": {"own": settings}}, "name": "t"}
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    return load_run(Path(folder.name) / "run.yaml")


def entry_of(config: RunConfig) -> Entry:
    root = Path(str(config.data.root))
    job: Any = SimpleNamespace(data=DataContext(root, None, 0))
    return configured_entries(config, job)["own"]


def test_a_definition_s_file_lies_beside_the_run(folder: Path) -> None:
    config = run_of(folder)
    assert config.evals is not None
    assert config.evals.tasks["own"].definition == "home/mine.yaml"
    with pytest.raises(UserError, match=r"evals\.tasks\.own\.definition: no such file: 'x\.yaml'"):
        run_of(folder, definition="x.yaml")


def test_a_definition_s_file_is_an_input_of_the_stage(folder: Path) -> None:
    stage = next(stage for stage in STAGES if stage.name == "evals")

    def inputs(config: RunConfig) -> dict[str, dict[str, str]]:
        found = _data_inputs(config, stage)
        return {key: value for key, value in found.items() if key.endswith("definition")}

    before = inputs(run_of(folder))
    assert before["evals.tasks.own.definition"]["path"] == "home/mine.yaml"
    (folder / "mine.yaml").write_text(MINE + "num_fewshot: 1\n", encoding="utf-8")
    after = inputs(run_of(folder))
    assert (
        after["evals.tasks.own.definition"]["hash"]
        != (before["evals.tasks.own.definition"]["hash"])
    )
    assert inputs(run_of(folder, definition="arc_easy")) == {}


def test_items_are_scored_through_the_configuration(folder: Path, engine: Engine) -> None:
    shots = {"path": "shots.jsonl"}
    config = run_of(folder, num_fewshot=1, fewshot_data=shots)
    assert set(sources(config, "evals")) == {
        "evals.tasks.own.data",
        "evals.tasks.own.fewshot_data",
    }
    entry = entry_of(config)
    result = entry.task.evaluate(engine, entry.rows)
    prompts = [sample["prompt"] for sample in result.samples]
    assert {p.split("\n\n")[0] for p in prompts} <= {"Is it soup? no", "Is it car? yes"}
    assert [p.split("\n\n")[1] for p in prompts] == ["Is it red?", "Is it blue?", "Is it bread?"]
    signature = entry.signature(7)
    assert "|shots:1|version:3.0|" in signature
    assert "kind:multiple_choice" in signature


def test_a_result_depends_on_definition_and_examples(folder: Path) -> None:
    settings = [
        entry_of(run_of(folder)).settings,
        entry_of(run_of(folder, num_fewshot=1)).settings,
        entry_of(run_of(folder, num_fewshot=1, fewshot_data={"path": "shots.jsonl"})).settings,
    ]
    (folder / "shots.jsonl").write_text('{"q": "car", "y": 1}\n', encoding="utf-8")
    settings.append(
        entry_of(run_of(folder, num_fewshot=1, fewshot_data={"path": "shots.jsonl"})).settings
    )
    (folder / "mine.yaml").write_text(MINE.replace("Is it", "Is this"), encoding="utf-8")
    settings.append(entry_of(run_of(folder)).settings)
    texts = {json.dumps(dict(value), sort_keys=True) for value in settings}
    assert len(texts) == 5
