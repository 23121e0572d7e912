"""Audits of prediction tables: what is read, judged, left out and refused; Adult by fairlearn."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fairlearn import metrics as fair
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from align.errors import UserError
from evals.prediction_rows import (
    PredictionColumns,
    class_name,
    is_predictions,
    prediction_columns,
    read_predictions,
)
from evals.predictions import audit_predictions
from evals.stats import Resampling

FEW = Resampling(resamples=100)
ROWS: list[dict[str, Any]] = [
    {"label": 1, "prediction": 1, "sex": "f"},
    {"label": 0, "prediction": 1, "sex": "f"},
    {"label": 1, "prediction": 0, "sex": "m"},
    {"label": 0, "prediction": 0, "sex": None},
]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def audit(path: str, *settings: str, groups: tuple[str, ...] = ("sex",)) -> dict[str, Any]:
    return audit_predictions(path, prediction_columns(settings), groups, FEW)


def value(found: Mapping[str, Any], group: str, metric: str) -> Any:
    (row,) = [r for r in found["groups"] if (r["group"], r["metric"]) == (group, metric)]
    return row["value"]


def test_json_lines_and_csv_give_the_same_tables(tmp_path: Path) -> None:
    lines = audit(write(tmp_path / "p.jsonl", ROWS))
    table = tmp_path / "p.csv"
    table.write_text("label,prediction,sex\n1,1,f\n0,1,f\n1,0,m\n0,0,\n", encoding="utf-8")
    assert audit(str(table))["groups"] == lines["groups"]
    assert value(lines, "f", "selection_rate") == 1.0
    assert value(lines, "m", "true_positive_rate") == 0.0
    assert value(lines, "unknown", "selection_rate") == 0.0
    assert lines["n"] == 4
    assert lines["positive"] == "1"
    assert lines["notes"] == ["No mitigation was tried: there are neither scores nor features."]


def test_a_score_alone_is_cut_at_the_threshold(tmp_path: Path) -> None:
    rows = [
        {"y": "good", "p": 0.5, "sex": "f"},
        {"y": "bad", "p": 0.49, "sex": "f"},
        {"y": "bad", "p": 0.7, "sex": "m"},
    ]
    path = write(tmp_path / "p.jsonl", rows)
    found = audit(path, "label=y", "score=p", "positive=good")
    assert value(found, "f", "accuracy") == 1.0
    assert value(found, "m", "false_positive_rate") == 1.0
    higher = audit(path, "label=y", "score=p", "positive=good", "threshold=0.6")
    assert value(higher, "f", "selection_rate") == 0.0
    judged = write(tmp_path / "q.jsonl", [row | {"prediction": "bad"} for row in rows])
    for threshold, share in ((), 0.0), (("threshold=0.45",), 1.0):
        found = audit(judged, "label=y", "score=p", "positive=good", *threshold)
        assert value(found, "f", "selection_rate") == share
    with pytest.raises(UserError, match="scores need a positive class"):
        audit(path, "label=y", "score=p")


def test_other_classes_are_one_beside_a_positive_one(tmp_path: Path) -> None:
    rows = [
        {"label": a, "prediction": b, "sex": "f"}
        for a, b in (("x", "x"), ("y", "z"), ("z", "x"), ("x", "y"))
    ]
    path = write(tmp_path / "p.jsonl", rows)
    assert value(audit(path), "f", "accuracy") == 0.25
    found = audit(path, "positive=x")
    assert value(found, "f", "accuracy") == 0.5  # y taken for z is right: neither is x
    assert value(found, "f", "false_positive_rate") == 0.5


def test_rows_that_cannot_be_judged_are_counted_by_reason(tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"label": None, "prediction": 1, "score": 0.1, "sex": "f"},
        {"label": 1, "prediction": "", "score": 0.1, "sex": "f"},
        {"label": 1, "prediction": 1, "score": None, "sex": "f"},
        {"label": 1, "prediction": 1, "score": "high", "sex": "f"},
        {"label": 1, "prediction": 1, "score": True, "sex": "f"},
    ]
    good = [{**row, "score": 0.5} for row in ROWS]
    found = audit(write(tmp_path / "p.jsonl", [*bad, *good]))
    assert found["missing"] == {"no label": 1, "no prediction": 1, "no finite score": 3}
    assert found["n"] == 4
    with pytest.raises(UserError, match="no row can be judged"):
        audit(write(tmp_path / "q.jsonl", bad))


def test_one_item_has_a_table_and_no_comparison(tmp_path: Path) -> None:
    found = audit(write(tmp_path / "p.jsonl", [{**ROWS[0], "score": 0.9}]))
    assert value(found, "f", "accuracy") == 1.0
    assert found["group_gaps"] == found["group_differences"] == found["mitigations"] == []
    assert found["notes"] == ["No mitigation was tried: it needs two classes and 100 items."]


def test_clusters_and_features_are_used(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [
        {
            "label": int(rng.random() < 0.5),
            "sex": "fm"[i % 2],
            "score": float(rng.random()),
            "cluster": f"person {i // 2}",
            "age": int(rng.integers(20, 60)),
        }
        for i in range(120)
    ]
    path = write(tmp_path / "p.jsonl", rows)
    found = audit(path, "features=age,score", "positive=1")
    assert found["clusters"] == 60
    assert {row["method"] for row in found["mitigations"]} == {
        "ThresholdOptimizer",
        "ExponentiatedGradient",
    }
    kept = [{k: v for k, v in row.items() if k != "cluster"} for row in rows]
    alone = audit(write(tmp_path / "q.jsonl", kept))
    assert alone["clusters"] is None
    assert alone["groups"][0]["low"] != found["groups"][0]["low"]


@pytest.mark.parametrize(
    ("settings", "groups", "message"),
    [
        (
            (),
            (),
            "no groups to compare; allowed: label, prediction, sex; name columns with --group",
        ),
        ((), ("age",), "no column age"),
        (("label=income",), ("sex",), "no column income"),
        (("score=p",), ("sex",), "no column p"),
        (("features=age,size",), ("sex",), "no column age, size"),
        (("positive=2",), ("sex",), "'2' is no class; allowed: 0, 1"),
        (("labels=x",), ("sex",), "labels"),
        (("label",), ("sex",), "not of the form key=value"),
        (("threshold=high",), ("sex",), "threshold"),
        (("threshold=nan",), ("sex",), "threshold"),
    ],
)
def test_what_cannot_be_audited_is_one_line(
    tmp_path: Path, settings: tuple[str, ...], groups: tuple[str, ...], message: str
) -> None:
    path = write(tmp_path / "p.jsonl", ROWS)
    with pytest.raises(UserError) as error:
        audit(path, *settings, groups=groups)
    assert message in str(error.value)


def test_a_table_without_predictions_and_scores_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"label": 1, "sex": "f"}])
    with pytest.raises(UserError, match="neither predictions nor scores"):
        audit(path)


def test_classes_are_compared_as_texts() -> None:
    assert [class_name(x) for x in (1, 1.0, "1", " 1 ", True, 0.5)] == [
        "1",
        "1",
        "1",
        "1",
        "true",
        "0.5",
    ]


def stored(folder: Path, samples: Sequence[Mapping[str, Any]], **content: Any) -> str:
    folder.mkdir()
    write(folder / "samples.jsonl", samples)
    (folder / "stats.npz").write_bytes(b"")
    (folder / "result.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


def test_a_stored_task_knows_its_groups_clusters_and_scores(tmp_path: Path) -> None:
    samples = [
        {
            "id": "1",
            "cluster": "t1",
            "columns": {"identity": "gay"},
            "label": "toxic",
            "response": "fine",
            "logprobs": {"toxic": -2.0, "fine": -1.0},
        },
        {
            "id": "2",
            "cluster": "t1",
            "columns": {"identity": "white"},
            "label": ["fine"],
            "response": "fine",
            "choices": ["toxic", "fine"],
            "logprobs": [-800.0, -1.0],
        },
    ]
    folder = stored(tmp_path / "task", samples, positive="toxic")
    assert is_predictions(folder)
    rows, columns, groups = read_predictions(folder, PredictionColumns(), ())
    assert groups == ("identity",)
    assert (columns.positive, columns.cluster, columns.score) == ("toxic", "cluster", "score")
    assert rows[0]["score"] == pytest.approx(np.exp(-2) / (np.exp(-2) + np.exp(-1)))
    assert 0 <= rows[1]["score"] < 1e-300
    assert [row["label"] for row in rows] == ["toxic", "fine"]
    found = audit_predictions(folder, PredictionColumns(), (), FEW)
    assert value(found, "gay", "true_positive_rate") == 0.0
    plain = stored(tmp_path / "other", [{"id": "1", "response": "x"}])
    with pytest.raises(UserError, match="no labels, responses and groups"):
        read_predictions(plain, PredictionColumns(), ())


@pytest.mark.real_data
def test_adult_equals_fairlearn_to_the_last_digit(shared_data: Path, tmp_path: Path) -> None:
    with gzip.open(
        shared_data / "tabular-adult" / "train.jsonl.gz", "rt", encoding="utf-8"
    ) as file:
        rows = [json.loads(line) for line in file]
    numbers = ("age", "education_num", "hours_per_week", "capital_gain", "capital_loss")
    table = np.array([[row[name] for name in numbers] for row in rows], dtype=float)
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    labels = np.array([int(row["income"] == ">50K") for row in rows])
    guess = LogisticRegression().fit(table[:12000], labels[:12000]).predict(table[12000:])
    labels, rows = labels[12000:], rows[12000:]
    path = write(
        tmp_path / "adult.jsonl",
        [
            {"label": int(y), "prediction": int(g), "sex": row["sex"], "race": row["race"]}
            for y, g, row in zip(labels, guess, rows, strict=True)
        ],
    )
    found = audit(path, groups=("sex", "race"))
    for attribute in ("sex", "race"):
        names = [row[attribute] for row in rows]
        gaps = {r["metric"]: r for r in found["group_gaps"] if r["attribute"] == attribute}
        kept = {"sensitive_features": names}
        parity, odds = gaps["selection_rate"], gaps["equalized_odds"]
        assert parity["value"] == fair.demographic_parity_difference(labels, guess, **kept)
        assert parity["ratio"] == fair.demographic_parity_ratio(labels, guess, **kept)
        assert odds["value"] == fair.equalized_odds_difference(labels, guess, **kept)
        assert odds["ratio"] == fair.equalized_odds_ratio(labels, guess, **kept)
    crossed = [f"{row['sex']} & {row['race']}" for row in rows]
    frame = fair.MetricFrame(
        metrics={
            "accuracy": sk.accuracy_score,
            "f1": sk.f1_score,
            "selection_rate": fair.selection_rate,
            "true_positive_rate": fair.true_positive_rate,
            "false_positive_rate": fair.false_positive_rate,
        },
        y_true=labels,
        y_pred=guess,
        sensitive_features=crossed,
    )
    ours = [row for row in found["groups"] if row["attribute"] == "sex & race"]
    assert len(ours) == 5 * 10
    for row in ours:
        if row["value"] is not None:
            assert row["value"] == frame.by_group.loc[row["group"], row["metric"]]
            if row["metric"] != "f1" or row["denominator"]:
                share = row["numerator"] / row["denominator"]
                assert row["value"] == pytest.approx(share, rel=1e-12)
