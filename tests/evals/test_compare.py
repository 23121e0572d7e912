"""Stored results compared: numbers by hand, and everything that must not be compared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align.errors import UserError
from evals.compare import compare_stored
from evals.report.lines import comparison_lines
from evals.stats import Resampling

Store = Callable[..., Path]
BEFORE = [1] * 4 + [0] * 16
DOCUMENTS = {"kind": "perplexity", "chat": True, "max_new_tokens": 48}


def after(gained: int, lost: int) -> list[int]:
    """`BEFORE` with some items won and some lost."""
    return [0] * lost + [1] * (4 - lost) + [1] * gained + [0] * (16 - gained)


@pytest.fixture
def models(store: Store, tmp_path: Path) -> tuple[Path, Path]:
    """Two models on two tasks of twenty items."""
    for name, gained, lost in (("easy", 8, 0), ("hard", 6, 1)):
        store(tmp_path / "one" / name, {"acc": BEFORE})
        store(tmp_path / "two" / name, {"acc": after(gained, lost)})
    return tmp_path / "one", tmp_path / "two"


def row_of(tables: dict[str, Any], task: str, table: str = "comparisons") -> dict[str, Any]:
    (row,) = [row for row in tables[table] if row["task"] == task]
    return row


def test_differences_p_and_q_by_hand(models: tuple[Path, Path]) -> None:
    tables = compare_stored(models)
    easy, hard = row_of(tables, "easy"), row_of(tables, "hard")
    # two of two minus one: (8 - 0)/20 and (6 - 1)/20
    assert (easy["difference"], hard["difference"]) == pytest.approx((0.4, 0.25))
    # exact McNemar: 2 * (1/2)^8, and 2 * (1 + 7) (1/2)^7
    assert (easy["p"], hard["p"]) == pytest.approx((2 / 256, 16 / 128))
    # Benjamini-Hochberg over two: the smaller p doubles, the larger stays
    assert (easy["q"], hard["q"]) == pytest.approx((4 / 256, 16 / 128))
    assert easy["low"] > 0 > hard["low"]
    assert (hard["before"], hard["after"], hard["n"]) == ("one", "two", 20)
    # sqrt(p + q - (p - q)^2)/(n + 2)) of Bonett and Price with p = 7/22, q = 2/22, times
    # 1.9600 + 0.8416: sqrt((9/22 - 25/484)/22) = 0.12746
    assert hard["mde"] == pytest.approx(2.80159 * 0.12746, abs=1e-4)
    values = [row["value"] for row in tables["estimates"]]
    assert values == pytest.approx([4 / 20, 12 / 20, 4 / 20, 9 / 20])
    assert tables["models"]["two"] == {"folder": str(models[1]), "hash": "two"}
    assert (tables["left_out"], tables["notes"]) == ([], [])


def test_items_are_paired_by_their_hash(store: Store, tmp_path: Path) -> None:
    names = [f"item-{index}" for index in range(20)]
    store(tmp_path / "one" / "quiz", {"acc": BEFORE})
    store(tmp_path / "two" / "quiz", {"acc": BEFORE[::-1]}, ids=names[::-1])
    row = row_of(compare_stored([tmp_path / "one", tmp_path / "two"]), "quiz")
    assert (row["difference"], row["p"]) == (0, 1)


def test_every_model_is_compared_with_the_first(
    store: Store, models: tuple[Path, Path], tmp_path: Path
) -> None:
    store(tmp_path / "three" / "easy", {"acc": after(0, 2)})
    tables = compare_stored([*models, tmp_path / "three"])
    found = {(r["before"], r["after"]): r["difference"] for r in tables["comparisons"]}
    assert found == pytest.approx({("one", "two"): 0.4, ("one", "three"): -0.1})
    assert tables["left_out"] == ["hard: no result of three"]


def test_a_run_is_all_its_stages_in_their_order(store: Store, tmp_path: Path) -> None:
    evals = tmp_path / "run" / "5-evals"
    for stage, hits in (("ppo", after(8, 0)), ("base", BEFORE), ("sft", after(1, 0))):
        store(evals / stage / "quiz", {"acc": hits})
    (evals / "ledger.json").write_text(json.dumps({"stages": ["base", "sft", "ppo"]}))
    by_run = compare_stored([tmp_path / "run"])
    by_stage = compare_stored([evals / "base", evals / "sft", evals / "ppo"])
    assert by_run["stages"] == ["run/base", "run/sft", "run/ppo"]
    assert by_run["comparisons"] == by_stage["comparisons"]
    found = [row["difference"] for row in by_run["comparisons"]]
    assert found == pytest.approx([0.05, 0.4])


def test_f1_is_of_the_positive_class_that_was_asked_for(store: Store, tmp_path: Path) -> None:
    asked = {"kind": "classification", "prompt": "{x}", "target": "y", "choices": ["no", "yes"]}
    # rows [tp, fp, fn] of "no", then of "yes": three right "no", one "yes" taken for "no"
    confusion = [[1, 0, 0, 0, 0, 0]] * 3 + [[0, 1, 0, 0, 0, 1]]
    stats = {"accuracy": [1, 1, 1, 0], "f1": np.array(confusion)}
    for name in ("one", "two"):
        folder = store(tmp_path / name / "quiz", stats, asked) / "quiz" / "result.json"
        folder.write_text(json.dumps(json.loads(folder.read_text()) | {"positive": "no"}))
    tables = compare_stored([tmp_path / "one", tmp_path / "two"])
    f1 = [row["value"] for row in tables["estimates"] if row["metric"] == "binary_f1"]
    assert f1 == pytest.approx([6 / 7, 6 / 7])  # 2 * 3 / (2 * 3 + 1); of "yes" it would be 0


def test_metrics_that_older_results_lack_are_left_out(store: Store, tmp_path: Path) -> None:
    asked = {"kind": "classification", "prompt": "{x}", "target": "y", "choices": ["no", "yes"]}
    stats = {"accuracy": [1, 1, 1, 0], "f1": [[1, 0, 0, 0, 0, 0]] * 4}
    store(tmp_path / "one" / "quiz", stats, asked)
    store(tmp_path / "two" / "quiz", stats | {"brier_score": [0.1, 0.2, 0.3, 0.4]}, asked)
    tables = compare_stored([tmp_path / "one", tmp_path / "two"])
    found = {row["metric"] for row in tables["comparisons"]}
    assert found == {row["metric"] for row in tables["estimates"]}
    assert found == {"accuracy", "macro_f1", "binary_f1"}
    assert tables["left_out"] == [
        f"quiz {name}: not all results hold its rows" for name in ("brier_score", "ece")
    ]


def test_perplexity_per_token_of_other_tokens_is_left_out(store: Store, tmp_path: Path) -> None:
    nll = np.linspace(5, 9, 12)
    for name, tokens in (("one", 4.0), ("two", 5.0)):
        rows = np.stack([nll, np.full(12, tokens), np.full(12, 3.0), np.full(12, 20.0)], axis=1)
        store(tmp_path / name / "text", {"perplexity": rows}, DOCUMENTS)
    tables = compare_stored([tmp_path / "one", tmp_path / "two"], (), Resampling(200))
    metrics = [row["metric"] for row in tables["comparisons"]]
    assert metrics == ["word_perplexity", "byte_perplexity", "bits_per_byte"]
    assert tables["left_out"] == ["text token_perplexity: one and two have other tokens"]
    assert sum(row["metric"] == "token_perplexity" for row in tables["estimates"]) == 2


def test_only_the_wanted_tasks(models: tuple[Path, Path]) -> None:
    tables = compare_stored(models, ["hard"])
    assert {row["task"] for row in tables["comparisons"]} == {"hard"}
    assert row_of(tables, "hard")["q"] == pytest.approx(16 / 128)  # one test: nothing to adjust


def test_other_code_or_number_format_is_said(
    store: Store, models: tuple[Path, Path], tmp_path: Path
) -> None:
    store(tmp_path / "half" / "easy", {"acc": BEFORE}, dtype="bfloat16")
    tables = compare_stored([models[0], tmp_path / "half"])
    assert tables["notes"] == [
        "not the same dtype (one: auto, half: bfloat16); differences may come from it"
    ]


def lengthened(store: Store, tmp_path: Path) -> list[Path]:
    store(tmp_path / "more" / "easy", {"acc": [*BEFORE, 1]})
    return [tmp_path / "one", tmp_path / "more"]


def asked_otherwise(store: Store, tmp_path: Path) -> list[Path]:
    store(tmp_path / "shots" / "easy", {"acc": BEFORE}, {"num_fewshot": 5})
    return [tmp_path / "one", tmp_path / "shots"]


def of_other_tasks(store: Store, tmp_path: Path) -> list[Path]:
    store(tmp_path / "other" / "quiz", {"acc": BEFORE})
    return [tmp_path / "one", tmp_path / "other"]


def of_two_models(store: Store, tmp_path: Path) -> list[Path]:
    store(tmp_path / "two" / "easy", {"acc": BEFORE}, model="newer")
    return [tmp_path / "one", tmp_path / "two"]


def changed_rows(store: Store, tmp_path: Path) -> list[Path]:
    (tmp_path / "two" / "easy" / "stats.npz").write_bytes(b"")
    return [tmp_path / "one", tmp_path / "two"]


def broken_manifest(store: Store, tmp_path: Path) -> list[Path]:
    (tmp_path / "two" / "easy" / "manifest.json").write_text("{")
    return [tmp_path / "one", tmp_path / "two"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lengthened, "task easy, one and more: the results are of different items: 20 shared, 0"),
        (asked_otherwise, "task easy, one and shots: different settings: num_fewshot (3 and 5)"),
        (of_other_tasks, "no task has results of all models (one: easy, hard; other: quiz)"),
        (of_two_models, "the tasks of two were scored with 2 different models"),
        (changed_rows, "samples.jsonl or stats.npz is not what manifest.json says"),
        (broken_manifest, "manifest.json: broken JSON"),
        (lambda _, path: [path / "one"], "one model is nothing to compare"),
        (lambda _, path: [path / "one", path / "one"], "named twice"),
        (lambda _, path: [path / "one", path / "nix"], "no such folder"),
        (lambda _, path: [path / "one", path / "one" / "easy"], "no finished results"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    store: Store, models: tuple[Path, Path], tmp_path: Path, make: Any, said: str
) -> None:
    with pytest.raises(UserError) as error:
        compare_stored(make(store, tmp_path))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("task", "said"), [("esay", "no result of a task 'esay'; allowed: easy"), ("last", "of two")]
)
def test_a_wanted_task_must_be_there(
    store: Store, models: tuple[Path, Path], tmp_path: Path, task: str, said: str
) -> None:
    store(tmp_path / "one" / "last", {"acc": BEFORE})
    with pytest.raises(UserError, match=said):
        compare_stored(models, [task])


def test_an_unfinished_task_is_no_result(models: tuple[Path, Path]) -> None:
    (models[1] / "easy" / "manifest.json").unlink()
    assert compare_stored(models)["left_out"] == ["easy: no result of two"]


def test_lines_for_a_terminal(models: tuple[Path, Path]) -> None:
    lines = comparison_lines(compare_stored(models))
    (easy, hard) = [line.split() for line in lines if line.startswith("  acc")]
    assert easy[:3] == ["acc", "20", "20.0%"]
    assert easy[-6:] == ["p", "=", ".008,", "q", "=", ".016"]
    assert hard[-3:] == ["detectable:", "35.7", "pp"]  # the null says what it could have found
    assert lines[0] == f"one: {models[0]}"


def test_comparing_loads_no_model_library(models: tuple[Path, Path]) -> None:
    code = (
        "import sys; from align.cli import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'transformers', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "compare", *map(str, models)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
