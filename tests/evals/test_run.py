"""The evaluation stage end to end on tiny models: stored results, skipping, ledger, faults."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from align.artifacts import StageJob
from align.config import RunConfig
from align.data.encoding import response_text
from align.data.sources import DataContext
from align.errors import UserError
from align.models import save_model
from align.progress import NullProgress, Progress
from align.references import ModelReference
from align.team import Team
from evals.audit import Rewards
from evals.run import run_evals

WORDS = ["soup", "bread", "house", "car", "baker", "cook"]


def rows_file(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Small sets of every kind."""
    folder = tmp_path / "data"
    folder.mkdir()
    reviews = [
        {"text": f"the {word} is good", "label": index % 2, "gender": "ab"[index % 2]}
        for index, word in enumerate(WORDS)
    ]
    rows_file(folder, "reviews.jsonl", reviews)
    pairs = [{"source": f"a {word}", "target": f"ein {word}"} for word in WORDS]
    rows_file(folder, "pairs.jsonl", pairs)
    rows_file(folder, "text.jsonl", [{"text": f"the {word} sold " * 4} for word in WORDS])
    turns = [{"prompt": [{"role": "user", "content": f"{word} ?"}], "word": word} for word in WORDS]
    rows_file(folder, "prompts.jsonl", turns)
    dialogues = [
        {"messages": [*turn["prompt"], {"role": "assistant", "content": "good"}]} for turn in turns
    ]
    rows_file(folder, "dialogues.jsonl", dialogues)
    preferences = [
        turn
        | {"chosen": [{"role": "assistant", "content": "good"}]}
        | {"rejected": [{"role": "assistant", "content": "bad soup"}]}
        for turn in turns
    ]
    rows_file(folder, "preferences.jsonl", preferences)
    swaps = [
        {
            "id": f"{word}-{control}",
            "measure": "tone",
            "attribute": "trade",
            "control": control,
            "template": word,
            "cluster": word,
            "group_a": "baker",
            "group_b": "baker" if control else "cook",
            "render": "text",
            "prompt_a": f"the baker likes {word} and is",
            "prompt_b": f"the {'bread baker' if control else 'cook'} likes {word} and is",
            "preferred_a": " good",
            "dispreferred_a": " bad",
            "preferred_b": " good",
            "dispreferred_b": " bad",
        }
        for word in WORDS
        for control in (False, True)
    ]
    rows_file(folder, "swaps.jsonl", swaps)
    return folder


def config_of(**evals: Any) -> RunConfig:
    tasks = {
        "reviews": {
            "kind": "classification",
            "data": {"path": "reviews.jsonl"},
            "prompt": "{text} ?",
            "target": "label",
            "choices": ["good", "bad"],
            "groups": ["gender"],
        },
        "tavi": {
            "kind": "translation",
            "data": {"path": "pairs.jsonl"},
            "prompt": "translate: {source}",
            "target": "target",
            "max_new_tokens": 6,
        },
        "text": {"kind": "perplexity", "data": {"path": "text.jsonl"}},
        "swaps": {"kind": "counterfactual", "data": {"path": "swaps.jsonl"}},
    }
    prompts = {"path": "prompts.jsonl"}
    ppo = {"data": prompts, "eval_data": prompts, "response_length": 6, "max_prompt_length": 40}
    return RunConfig.model_validate(
        {
            "name": "tiny",
            "model": {"base": "unused"},
            "sft": {"data": {"path": "dialogues.jsonl"}, "eval_data": {"path": "dialogues.jsonl"}},
            "reward": {"data": {"path": "preferences.jsonl"}},
            "ppo": ppo,
            "evals": {"tasks": tasks, "prompts": 4, "resamples": 200, **evals},
        }
    )


def wordy(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
    """A score that can be checked by hand: characters of the response."""
    return [float(len(response_text(completion))) for completion in completions]


def vowels(prompts: list[Any], completions: list[Any], word: list[str], **_: Any) -> list[float]:
    """A second score that needs a column of the prompts."""
    texts = [response_text(completion) for completion in completions]
    return [text.count("e") + len(name) / 10 for text, name in zip(texts, word, strict=True)]


@pytest.fixture
def job(
    tmp_path: Path,
    data: Path,
    tiny_tokenizer: Any,
    model_of: Callable[[int], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> StageJob:
    """Three models that differ, a scripted reward model, and an empty folder for the results."""
    inputs = {}
    for seed, stage in enumerate(("base", "sft", "ppo", "reward")):
        folder = tmp_path / "run" / stage
        save_model(model_of(seed), tiny_tokenizer, folder)
        inputs[stage] = ModelReference(str(folder))
    results = tmp_path / "run" / "5-evals"
    results.mkdir()
    rewards = Rewards(raw=lambda: wordy, normalised=lambda: wordy)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr("evals.run.reward_model", lambda *_: rewards)
    context = DataContext(root=data, world=None, seed=0)
    return StageJob(results, inputs, context, Progress(out=io.StringIO()))


def said(job: StageJob) -> str:
    """What the stage printed."""
    return str(job.progress._out.getvalue())  # type: ignore[attr-defined]


def ledger_of(job: StageJob) -> dict[str, Any]:
    ledger: dict[str, Any] = json.loads((job.folder / "ledger.json").read_text(encoding="utf-8"))
    return ledger


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def find(rows: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    """The only row with these values."""
    (row,) = [row for row in rows if all(row[key] == keys[key] for key in keys)]
    return row


def samples_of(job: StageJob, stage: str, task: str) -> list[dict[str, Any]]:
    text = (job.folder / stage / task / "samples.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_ledger_agrees_with_the_stored_samples(job: StageJob) -> None:
    result = run_evals(config_of(), job, vowels)
    ledger = ledger_of(job)
    assert ledger["stages"] == ["base", "sft", "ppo"]
    hits = {}
    for stage in ledger["stages"]:
        samples = samples_of(job, stage, "reviews")
        labels, answers = ([s[key] for s in samples] for key in ("label", "response"))
        row = find(ledger["estimates"], stage=stage, task="reviews", metric="accuracy")
        assert row["value"] == pytest.approx(accuracy_score(labels, answers))
        assert (row["n"], row["method"], row["better"]) == (6, "Wilson, 0.95", "higher")
        assert result.metrics[f"{stage}/reviews/accuracy"] == row["value"]
        hits[stage] = row["value"]
    change = find(
        ledger["comparisons"], task="reviews", metric="accuracy", before="base", after="ppo"
    )
    assert change["difference"] == pytest.approx(hits["ppo"] - hits["base"])
    assert change["test"] == "exact McNemar"
    pairs = {(row["before"], row["after"]) for row in ledger["comparisons"]}
    assert pairs == {("base", "sft"), ("sft", "ppo"), ("base", "ppo")}
    stored = np.load(job.folder / "sft" / "text" / "stats.npz")["perplexity"].sum(axis=0)
    row = find(ledger["estimates"], stage="sft", task="text", metric="word_perplexity")
    assert row["value"] == pytest.approx(np.exp(stored[0] / stored[2]))


def test_prompts_are_answered_and_scored_by_every_stage(job: StageJob) -> None:
    run_evals(config_of(), job, vowels)
    ledger = ledger_of(job)
    assert len(ledger["samples"]) == 4
    for sample in ledger["samples"]:
        assert sample["scores"] == {s: float(len(r)) for s, r in sample["responses"].items()}
        word = sample["prompt"].removesuffix(" ?")
        gold = {s: r.count("e") + len(word) / 10 for s, r in sample["responses"].items()}
        assert sample["gold"] == pytest.approx(gold)
    for stage in ledger["stages"]:
        scores = [sample["scores"][stage] for sample in ledger["samples"]]
        row = find(ledger["estimates"], stage=stage, task="prompts", metric="reward")
        assert row["value"] == pytest.approx(np.mean(scores))
        assert row["n"] == 4


def test_tables_of_groups_models_and_definitions(job: StageJob) -> None:
    run_evals(config_of(), job, vowels)
    ledger = ledger_of(job)
    rates = [row for row in ledger["groups"] if row["stage"] == "ppo"]
    assert {row["group"] for row in rates} == {"a", "b"}
    assert {row["task"] for row in ledger["group_differences"]} == {"reviews"}
    gap = find(ledger["group_gaps"], stage="ppo", metric="accuracy")
    shares = [row["value"] for row in rates if row["metric"] == "accuracy"]
    assert gap["value"] == pytest.approx(max(shares) - min(shares))
    change = find(
        ledger["group_changes"],
        before_stage="sft",
        after_stage="ppo",
        metric="accuracy",
        kind="rate",
        group_a="a",
    )
    levels = [
        find(ledger["groups"], stage=stage, metric="accuracy", group="a")["value"]
        for stage in ("sft", "ppo")
    ]
    assert [change["before"], change["after"]] == pytest.approx(levels)
    assert ledger["models"]["sft"]["reference"] == "sft"
    assert len({model["hash"] for model in ledger["models"].values()}) == 3
    tavi = find(ledger["tasks"], name="tavi")
    assert "rows:6" in tavi["signature"]
    assert "bleu:nrefs:1|case:mixed" in tavi["signature"]
    stored = json.loads((job.folder / "ppo" / "tavi" / "result.json").read_text("utf-8"))
    assert stored["signature"].endswith(f"|model:{ledger['models']['ppo']['hash'][:12]}")
    assert {row["metric"] for row in stored["estimates"]} == {"bleu", "chrf"}


def test_baselines_stand_beside_the_accuracy(job: StageJob) -> None:
    run_evals(config_of(), job, vowels)
    rows = ledger_of(job)["baselines"]
    # Six reviews, labels 0 and 1 in turn.
    assert {(row["task"], row["metric"]) for row in rows} == {
        ("reviews", "uniform_guess"),
        ("reviews", "majority_answer"),
    }
    assert {(row["stage"], row["value"], row["n"]) for row in rows} == {
        (stage, 0.5, 6) for stage in ("base", "sft", "ppo")
    }
    stored = json.loads((job.folder / "sft" / "reviews" / "result.json").read_text("utf-8"))
    assert [row["metric"] for row in stored["baselines"]] == ["uniform_guess", "majority_answer"]


def test_perturbed_versions_are_compared_and_stand_apart(job: StageJob) -> None:
    config = config_of()
    tasks = config.evals.tasks  # type: ignore[union-attr]
    asked = tasks["reviews"].model_copy(update={"perturb": ("case", "names")})
    evals = config.evals.model_copy(  # type: ignore[union-attr]
        update={"tasks": tasks | {"reviews": asked}}
    )
    run_evals(config, job, vowels)
    plain, printed = ledger_of(job), said(job)
    changed = config.model_copy(update={"evals": evals})
    stage = run_evals(changed, job, vowels)
    # What was scored before is not scored again, and every other table is as it was.
    again = said(job)[len(printed) :]
    assert "base/reviews+case " in again
    assert "base/reviews " not in again
    ledger = ledger_of(job)
    table = ledger.pop("robustness")
    assert {key: plain[key] for key in ledger} == ledger
    assert plain["robustness"] == []
    assert [record["task"] for record in stage.data] == [*tasks, "prompts"]
    metrics = [row["metric"] for row in find_all(ledger["estimates"], "reviews", "sft")]
    assert len(table) == 3 * 2 * len(metrics)
    row = find(table, stage="sft", task="reviews", perturbation="case", metric="accuracy")
    before, after = (
        [s["correct"] for s in samples_of(job, "sft", name)] for name in ("reviews", "reviews+case")
    )
    assert row["value"] == pytest.approx(np.mean(after))
    assert row["change"]["difference"] == pytest.approx(np.mean(after) - np.mean(before))
    assert row["changed"] == 1
    assert samples_of(job, "sft", "reviews+case")[0]["prompt"].startswith("THE SOUP IS GOOD")
    # No review names a person.
    names = find(table, stage="sft", task="reviews", perturbation="names", metric="ece")
    assert (names["changed"], names["change"]["difference"]) == (0, 0)
    stored = json.loads((job.folder / "sft" / "reviews" / "result.json").read_text("utf-8"))
    assert len(stored["robustness"]) == 2 * len(metrics)


def find_all(rows: list[dict[str, Any]], task: str, stage: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["task"], row["stage"]) == (task, stage)]


def test_reward_model_is_audited_on_held_out_pairs(job: StageJob) -> None:
    run_evals(config_of(), job, vowels)
    audit = ledger_of(job)["reward_model"]
    # "good" has 4 characters, "bad soup" 8: the scripted score never prefers the chosen one.
    assert audit["accuracy"]["value"] == 0.0
    assert audit["score_mean"] == 6.0
    assert 1 <= audit["accuracy"]["n"] <= 5


def test_bias_is_measured_compared_and_audited(job: StageJob) -> None:
    run_evals(config_of(reward_bias=["swaps"]), job, vowels)
    ledger = ledger_of(job)
    means = {}
    for stage in ledger["stages"]:
        samples = samples_of(job, stage, "swaps")
        effects = [s["effect"] for s in samples if s["columns"]["control"] == "false"]
        row = find(ledger["bias"], stage=stage, task="swaps", control=False)
        assert row["value"] == pytest.approx(np.mean(effects))
        assert (row["n"], row["clusters"], row["unit"]) == (6, 6, "nats")
        means[stage] = row["value"]
    change = find(ledger["bias_comparisons"], before="sft", after="ppo", control=False)
    assert change["difference"] == pytest.approx(means["ppo"] - means["sft"])
    audited = ledger["reward_model"]["bias"]
    # The scripted score sees the answers alone, which are the same for both groups.
    assert {row["value"] for row in audited} == {0.0}
    assert {row["measure"] for row in audited} == {"tone", "tone:score"}


def test_overlap_with_the_training_text_is_found(job: StageJob, data: Path) -> None:
    rows_file(data, "text.jsonl", [{"text": f"{word} sold " * 8} for word in WORDS[:3]])
    turn = {"role": "user", "content": "x bread sold bread sold bread sold bread sold y"}
    answer = {"role": "assistant", "content": "good"}
    rows_file(data, "dialogues.jsonl", [{"messages": [turn, answer]}])
    run_evals(config_of(), job, vowels)
    found = {row["task"]: row for row in ledger_of(job)["overlap"]}
    assert (found["text"]["rows"], found["text"]["share"]) == (1, pytest.approx(1 / 3))
    assert found["text"]["examples"][0].startswith("bread sold bread")
    assert found["reviews"]["rows"] == 0


def test_clean_numbers_stand_beside_all(job: StageJob, data: Path) -> None:
    texts = [f"{word} sold " * 8 for word in WORDS[:3]]
    rows_file(data, "text.jsonl", [{"text": text} for text in texts])
    answer = {"role": "assistant", "content": "good"}
    turns = [[{"role": "user", "content": f"x {texts[1]} y"}, answer]]
    turns.append([{"role": "user", "content": "the soup is good"}, answer])  # a whole review
    rows_file(data, "dialogues.jsonl", [{"messages": turn} for turn in turns])
    run_evals(config_of(), job, vowels)
    ledger = ledger_of(job)
    assert all("items" not in row for row in ledger["overlap"])
    row = find(ledger["estimates"], stage="sft", task="text", metric="bits_per_byte")
    assert row["contaminated"] == pytest.approx(1 / 3)
    kept = [s for s in samples_of(job, "sft", "text") if not s["text"].startswith(WORDS[1])]
    nll, size = (sum(s[key] for s in kept) for key in ("nll", "bytes"))
    assert row["clean"]["value"] == pytest.approx(nll / size / np.log(2))
    assert row["clean"]["n"] == 2
    assert row["clean"]["low"] < row["clean"]["value"] < row["clean"]["high"]
    review = find(ledger["estimates"], stage="sft", task="reviews", metric="accuracy")
    hits = [s["correct"] for s in samples_of(job, "sft", "reviews")]
    assert review["contaminated"] == pytest.approx(1 / 6)
    assert review["clean"]["value"] == pytest.approx(np.mean(hits[1:]))
    other = find(ledger["estimates"], stage="sft", task="tavi", metric="bleu")
    assert (other["contaminated"], other["clean"]) == (0, None)


def test_the_words_of_a_template_are_no_overlap(job: StageJob, data: Path) -> None:
    """Training on the same question about other rows is no leak."""
    question = "one two three four five six seven eight nine"
    turn = {"role": "user", "content": f"{question} other"}
    answer = {"role": "assistant", "content": "good"}
    rows_file(data, "dialogues.jsonl", [{"messages": [turn, answer]}])
    config = config_of()
    asked = {"prompt": f"{question} {{text}}"}
    tasks = config.evals.tasks  # type: ignore[union-attr]
    changed = tasks | {"reviews": tasks["reviews"].model_copy(update=asked)}
    evals = config.evals.model_copy(update={"tasks": changed})  # type: ignore[union-attr]
    run_evals(config.model_copy(update={"evals": evals}), job, vowels)
    assert find(ledger_of(job)["overlap"], task="reviews")["rows"] == 0


def test_finished_tasks_are_not_run_again(job: StageJob) -> None:
    run_evals(config_of(), job, vowels)
    before = (job.folder / "ledger.json").read_bytes()
    printed = said(job)
    run_evals(config_of(resamples=200, batch_tokens=100), job, vowels)
    again = said(job)[len(printed) :]
    assert again.split("\n")[:3] == [f"{s}: all tasks up to date" for s in ("base", "sft", "ppo")]
    assert "reviews" not in again
    assert (job.folder / "ledger.json").read_bytes() == before


def test_another_positive_class_is_another_number_of_the_same_answers(job: StageJob) -> None:
    config = config_of()
    values, printed = {}, ""
    for positive in ("good", "bad"):
        tasks = config.evals.tasks  # type: ignore[union-attr]
        named = tasks["reviews"].model_copy(update={"positive": positive})
        evals = config.evals.model_copy(  # type: ignore[union-attr]
            update={"tasks": tasks | {"reviews": named}}
        )
        run_evals(config.model_copy(update={"evals": evals}), job, vowels)
        again, printed = said(job)[len(printed) :], said(job)
        rows = [row for row in ledger_of(job)["estimates"] if row["metric"] == "binary_f1"]
        values[positive] = [row["value"] for row in rows]
        task = find(ledger_of(job)["tasks"], name="reviews")
        assert f"binary_f1:class {('good', 'bad').index(positive)}" in task["signature"]
    assert "base: all tasks up to date" in again
    assert values["good"] != values["bad"]


def test_only_what_changed_is_run_again(job: StageJob, data: Path) -> None:
    run_evals(config_of(), job, vowels)
    printed = said(job)
    (job.folder / "sft" / "tavi" / "manifest.json").unlink()
    rows_file(data, "text.jsonl", [{"text": "the soup"}])
    run_evals(config_of(), job, vowels)
    again = said(job)[len(printed) :]
    for name, expected in {"sft/tavi": True, "base/tavi": False, "base/reviews": False}.items():
        assert (f"{name} " in again) == expected
    assert all(f"{stage}/text 1/1" in again for stage in ("base", "sft", "ppo"))


def test_batch_size_changes_no_number(job: StageJob) -> None:
    run_evals(config_of(batch_tokens=40), job, vowels)
    small = ledger_of(job)
    for path in job.folder.rglob("manifest.json"):
        path.unlink()
    run_evals(config_of(batch_tokens=8192), job, vowels)
    large = ledger_of(job)
    assert small["samples"] == large["samples"]
    for one, other in zip(small["estimates"], large["estimates"], strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-4)


def test_an_adapter_that_changes_nothing_is_an_error(
    job: StageJob, tiny_tokenizer: Any, model_of: Callable[[int], Any]
) -> None:
    folder = Path(job.inputs["ppo"].base)
    save_model(model_of(1), tiny_tokenizer, folder)  # the same as sft
    with pytest.raises(UserError, match="the models of sft and ppo give exactly the same logits"):
        run_evals(config_of(), job, vowels)
    assert not (job.folder / "ledger.json").exists()


def test_scores_that_are_not_finite_are_an_error(job: StageJob) -> None:
    with pytest.raises(UserError, match="gold gave nan for response 0"):
        run_evals(config_of(), job, lambda prompts, **_: [float("nan")] * len(prompts))


def test_functions_that_ppo_adds_up_are_scored_as_the_reward_model_is(job: StageJob) -> None:
    config = config_of(tasks={})
    rewards = [
        {"function": "reward_model", "weight": 0.5},
        {"function": "pattern", "name": "e", "options": {"regex": "e"}, "weight": 2},
    ]
    ppo = RunConfig.model_validate(
        config.model_dump() | {"ppo": config.ppo.model_dump() | {"rewards": rewards}}
    )  # type: ignore[union-attr]
    run_evals(ppo, job)
    ledger = ledger_of(job)
    for stage in ("sft", "ppo"):
        texts = [sample["responses"][stage] for sample in ledger["samples"]]
        parts = {
            "reward": [float(len(text)) for text in texts],
            "score/e": [float("e" in text) for text in texts],
        }
        # no one is silent, so the score is the weighted sum
        parts["score"] = [0.5 * a + 2 * b for a, b in zip(*parts.values(), strict=True)]
        for metric, values in parts.items():
            row = find(ledger["estimates"], stage=stage, task="prompts", metric=metric)
            assert row["value"] == pytest.approx(np.mean(values)), metric
            assert row["n"] == 4
        assert [sample["scores"][stage] for sample in ledger["samples"]] == parts["score"]
    before, after = (
        find(ledger["estimates"], stage=stage, task="prompts", metric="score")["value"]
        for stage in ("sft", "ppo")
    )
    keys = {"task": "prompts", "before": "sft", "after": "ppo"}
    row = find(ledger["comparisons"], **keys, metric="score")
    assert row["difference"] == pytest.approx(after - before)
    assert row["n"] == 4
    named = {row["metric"] for row in ledger["comparisons"] if row["task"] == "prompts"}
    assert {"score", "reward", "score/e"} <= named


def test_run_without_rewards_and_prompts(job: StageJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.run.reward_model", lambda *_: None)
    run_evals(config_of(prompts=0), job)
    ledger = ledger_of(job)
    assert (ledger["reward_model"], ledger["samples"]) == (None, [])
    assert {row["task"] for row in ledger["estimates"]} == {"reviews", "tavi", "text"}


def test_two_processes_keep_one_ledger(
    job: StageJob, tmp_path: Path, in_threads: Callable[..., Any]
) -> None:
    calls: list[int] = []

    def counted(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        calls.append(len(prompts))
        return vowels(prompts, completions, **columns)

    run_evals(config_of(batch_tokens=100), job, counted)
    expected = contents(job.folder)
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    folders = [job.folder, tmp_path / "of another machine"]

    def work(team: Team) -> Any:
        own = replace(job, folder=folders[team.rank], progress=NullProgress(), team=team)
        return run_evals(config_of(batch_tokens=100), own, counted)

    main, other = in_threads(2, work)
    assert contents(job.folder) == expected
    assert not folders[1].exists()
    assert calls == [4] * 6  # three models, once alone and once together
    assert (len(main.metrics) > 10, other.metrics) == (True, {})
    # Half done: what is stored is not run again, and the others learn so.
    (job.folder / "sft" / "tavi" / "manifest.json").unlink()
    in_threads(2, work)
    assert contents(job.folder) == expected
    assert len(calls) == 6
