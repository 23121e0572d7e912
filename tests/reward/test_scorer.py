"""Local scorers: training, files, quality against scikit-learn, and what is refused."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline, make_union

from align.cli import main
from align.errors import UserError
from reward import classifier as classifiers
from reward.scorer import CARD, VOCABULARY, WEIGHTS, class_values, open_scorer, scorer, shares
from reward.scorer_training import Labelled, auc, quality, train_scorer

GOOD, BAD = ("kind", "warm", "great", "nice"), ("rude", "cold", "awful", "mean")
MIDDLE = ("plain", "usual", "normal", "common")


def sentences(words: tuple[str, ...], n: int) -> list[str]:
    places = ("shop", "house", "street", "town", "garden")
    return [f"the {words[i % 4]} {places[i % 5]} of {i}" for i in range(n)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = (("good", GOOD), ("bad", BAD), ("middle", MIDDLE))
    rows = [{"text": t, "label": label} for label, words in parts for t in sentences(words, 120)]
    return write(tmp_path_factory.mktemp("data") / "texts.jsonl", rows)


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scorers") / "tone"
    values = {"good": 1.0, "middle": 0.0, "bad": -1.0}
    train_scorer(Labelled(data, "text", "label", values), out, "tone", "3")
    return out


def texts_of(path: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(row["text"], row["label"]) for row in rows]


def test_the_stored_scorer_is_scikit_learn_s_pipeline(data: Path, tmp_path: Path) -> None:
    """Two classes: fitted beside by scikit-learn alone on the same rows."""
    held = write(
        tmp_path / "held.jsonl",
        [{"text": f"a {w} day {n}", "label": label}
         for n in range(3) for label, words in (("good", GOOD), ("bad", BAD)) for w in words],
    )  # fmt: skip
    source = Labelled(data, "text", "label", {"bad": 0.0, "good": 1.0}, held)
    card = train_scorer(source, tmp_path / "out", "two", "1")
    rows = [(text, label) for text, label in texts_of(data) if label != "middle"]
    peer = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LogisticRegression(C=10.0, max_iter=1000),
    )
    peer.fit([text for text, _ in rows], [label for _, label in rows])
    scorer = open_scorer(str(tmp_path / "out"))
    asked = [text for text, _ in texts_of(held)]
    want = peer.predict_proba(asked)[:, list(peer.classes_).index("good")]
    assert scorer.score(asked) == pytest.approx(want, abs=1e-4)
    assert (scorer.low, scorer.high) == (0, 1)
    assert card["data"]["rows"] == 240
    assert card["data"]["held"] == 24
    assert card["data"]["classes"] == {"bad": 120, "good": 120}


def test_three_classes_give_the_expected_value(folder: Path) -> None:
    scorer = open_scorer(str(folder))
    warm, cold, plain = scorer.score(["a warm and kind shop", "a rude and awful shop", "usual"])
    assert warm is not None
    assert cold is not None
    assert plain is not None
    assert cold < -0.4 < plain < 0.4 < warm
    assert (scorer.low, scorer.high) == (-1, 1)
    assert scorer.identity.startswith("tone 3 @")
    assert scorer.score([]) == []


def test_a_text_without_anything_known_has_no_score(folder: Path) -> None:
    assert open_scorer(str(folder)).score(["", "  ", "漢字"]) == [None, None, None]


def test_a_scorer_is_a_reward_and_silence_no_way_out(folder: Path) -> None:
    reward = scorer(str(folder))
    texts = ["good fine", "bad awful", ""]
    good, bad, nothing = reward(["p"] * 3, [texts[0], *map(message, texts[1:])], column=[1, 2, 3])
    assert [good, bad] == open_scorer(str(folder)).score(texts[:2])
    assert nothing == 0.0  # the middle of -1 and 1
    assert reward.__name__ == "scorer_tone"  # type: ignore[attr-defined]
    signature = f"scorer_tone|scorer:{open_scorer(str(folder)).identity}"
    assert reward.signature == signature  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^scorer.folder: .*: no scorer.json; align scorer"):
        scorer(str(folder.parent))


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_the_hash_is_of_the_contents(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert open_scorer(str(copy)).identity == open_scorer(str(folder)).identity
    card = json.loads((copy / CARD).read_text("utf-8"))
    (copy / CARD).write_text(json.dumps(card | {"values": {"good": 1, "middle": 0, "bad": 0}}))
    assert open_scorer(str(copy)).identity != open_scorer(str(folder)).identity
    assert {path.name for path in folder.iterdir()} == {CARD, VOCABULARY, WEIGHTS}


def test_training_and_held_out_texts_are_apart(data: Path, folder: Path) -> None:
    card = json.loads((folder / CARD).read_text("utf-8"))
    assert card["data"]["rows"] + card["data"]["held"] == 360
    assert 30 < card["data"]["held"] < 110, "about a fifth"
    assert card["held_out"]["accuracy"]["value"] > 0.9
    assert len(card["bias"]) == 28
    assert sum(row["control"] for row in card["bias"]) == 3
    assert len(card["data"]["sha256"]) == 64


def test_a_text_that_stands_twice_is_on_one_side(data: Path, tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.jsonl",
                  [{"text": t, "label": label} for t, label in texts_of(data) * 2])  # fmt: skip
    values = {"good": 1.0, "bad": 0.0}
    card = train_scorer(Labelled(twice, "text", "label", values), tmp_path / "o", "n", "1")
    assert card["data"]["rows"] + card["data"]["held"] == 240
    # rows to judge by are never trained on, so nothing is left here
    with pytest.raises(UserError, match="0 training texts of class 'good'"):
        train_scorer(Labelled(data, "text", "label", values, data), tmp_path / "p", "n", "1")


def test_quality_is_scikit_learn_s() -> None:
    generator = np.random.default_rng(3)
    found = shares(generator.normal(size=(200, 3)))
    truth = generator.integers(0, 3, 200)
    held = quality(found, truth)
    chosen = found.argmax(axis=1)
    assert held["accuracy"]["value"] == pytest.approx((chosen == truth).mean())
    assert held["macro_f1"]["value"] == pytest.approx(f1_score(truth, chosen, average="macro"))
    assert held["auc"]["value"] == pytest.approx(roc_auc_score(truth, found, multi_class="ovo"))
    assert held["auc"]["low"] < held["auc"]["value"] < held["auc"]["high"]
    assert sum(entry["n"] for entry in held["reliability"]) == 200
    # the definition of the calibration error: sum of n_b / n |right - probability|
    top, right = found.max(axis=1), chosen == truth
    places = np.ceil(top * 15)
    gaps = [abs((right[places == b] - top[places == b]).sum()) for b in set(places.tolist())]
    assert held["ece"] == pytest.approx(sum(gaps) / 200)
    assert held["majority"] == np.bincount(truth).max() / 200


def test_auc_by_pairs_counted() -> None:
    found = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    # class 1 is above class 0 in three of four pairs: .3 beats .1 alone, .8 beats both
    assert auc(found, np.array([0, 0, 1, 1]), draws=20)["value"] == 0.75


def test_shares_of_two_and_more_classes() -> None:
    assert shares(np.array([0.0, math.log(3)])) == pytest.approx(
        np.array([[0.5, 0.5], [0.25, 0.75]])
    )
    assert shares(np.log([[1.0, 1.0, 2.0]])) == pytest.approx(np.array([[0.25, 0.25, 0.5]]))


def test_values_of_classes() -> None:
    assert class_values(["toxic"], "k") == {"toxic": 1}
    assert class_values(["a=1", "b=-0.5", "c=d=2"], "k") == {"a": 1, "b": -0.5, "c=d": 2}
    for wrong in (["a=x"], ["a=nan"], ["=1"], [""], ["a=1", "a=2"]):
        with pytest.raises(UserError, match="LABEL=NUMBER, every label once"):
            class_values(wrong, "k")


def test_labels_of_any_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(model: str, label: str) -> Any:
        def reward(prompts: Any, completions: Any) -> list[float]:
            return [math.nan if t == "lost" else len(t) / 10 for t in completions]

        reward.signature = f"x|model:{model}@1|label:{label}"  # type: ignore[attr-defined]
        return reward

    monkeypatch.setattr(classifiers, "classifier", make)
    scorer = open_scorer("owner/name:positive=1,negative=-0.5")
    assert scorer.score(["good", "", "lost", "?"]) == [pytest.approx(0.2), None, None, None]
    assert scorer.identity == "owner/name@1:positive=1,negative=-0.5"
    assert (scorer.low, scorer.high) == (-0.5, 1)
    assert open_scorer("owner/name:toxic")[2:] == (0, 1)


def test_vader(monkeypatch: pytest.MonkeyPatch) -> None:
    class Analyzer:
        def polarity_scores(self, text: str) -> dict[str, float]:
            return {"compound": 0.5 if "good" in text else 0.0}

    module = SimpleNamespace(SentimentIntensityAnalyzer=Analyzer)
    monkeypatch.setitem(sys.modules, "vaderSentiment", SimpleNamespace(vaderSentiment=module))
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", module)
    monkeypatch.setattr("reward.lexical.version", lambda name: "3.3.2")
    scorer = open_scorer("vader")
    assert scorer.score(["good", "a table", ""]) == [0.5, 0.0, None]
    assert scorer.identity == "vader_sentiment vaderSentiment:3.3.2"
    assert (scorer.low, scorer.high) == (-1, 1)


def test_what_is_refused(folder: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such scorer: 'nothing'"):
        open_scorer("nothing")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / CARD).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read"):
        open_scorer(str(broken))
    (broken / CARD).write_text('{"format": 9}', encoding="utf-8")
    with pytest.raises(UserError, match="is no scorer of this version"):
        open_scorer(str(broken))
    (broken / CARD).write_bytes((folder / CARD).read_bytes())
    with pytest.raises(UserError, match="cannot be read"):
        open_scorer(str(broken))
    values = {"good": 1.0, "bad": 0.0}
    with pytest.raises(UserError, match="the folder is not empty"):
        train_scorer(Labelled(data, "text", "label", values), folder, "n", "1")
    with pytest.raises(UserError, match="row 1: no column tone"):
        train_scorer(Labelled(data, "text", "tone", values), tmp_path / "o", "n", "1")
    source = Labelled(data, "text", "label", {"good": 1.0, "ugly": 0.0})
    with pytest.raises(UserError, match="0 training texts of class 'ugly'"):
        train_scorer(source, tmp_path / "o", "n", "1")
    with pytest.raises(UserError, match="a scorer needs two classes"):
        train_scorer(Labelled(data, "text", "label", {"good": 1.0}), tmp_path / "o", "n", "1")


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tone"
    given = ["scorer", str(out), str(data), "--value", "good=1", "--value", "bad=0"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "tone 1: trained on" in said
    assert "own bias on neutral sentences, the largest of 25: " in said
    assert "right by probability" in said
    assert (out / CARD).is_file()
    assert main(given) == 2
    assert "the folder is not empty" in capsys.readouterr().err
    assert main([*given[:-1], "bad"]) == 2
