"""Train a local scorer: TF-IDF of words and characters, logistic regression, held-out quality.

Only plain files are written (JSON, safetensors); nothing is pickled. A part of the texts is held
out by the hash of the text, so a text that stands twice is never on both sides. Its own bias on
neutral sentences is measured at once and stands in the card.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align.config import SourceConfig
from align.data.sources import DataContext, load_rows
from align.errors import UserError
from align.files import make_folder, path_hash, write_json_atomic, write_text_atomic
from evals.bias.scorer_bias import ScorersTask, differences, neutral_items
from evals.calibration import BINS
from evals.metrics import confusion_rows, macro_f1
from evals.stats import Resampling, bootstrap, proportion_estimate
from reward.scorer import CARD, FORMAT, VOCABULARY, WEIGHTS, Score, features, shares

HELD = 0.2
"""Share of the texts held out where no file of them is named."""
LARGEST = 5
"""Differences of its own that a terminal shows; the card has all."""
SELF = "score"
LEAST = 10
"""Texts of every class that training and held-out part must have."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """What a scorer is trained on."""

    data: Path
    text: str
    """Column of the text."""
    label: str
    """Column of the class."""
    values: Mapping[str, float]
    """Class -> its value; rows of other classes are left out."""
    held: Path | None = None
    """Rows to judge by; default: a share of `data`."""


class _Rows:
    """Texts and class numbers."""

    def __init__(self, texts: Sequence[str], classes: Sequence[int]) -> None:
        self.texts, self.classes = list(texts), np.array(classes, dtype=np.int64)


def train_scorer(source: Labelled, out: Path, name: str, version: str) -> dict[str, Any]:
    """Train a scorer, write it to the folder `out`, and return its card.

    Raises:
        UserError: The folder is not empty, a column or class is missing, or a class has too few
            texts.
    """
    from sklearn.linear_model import LogisticRegression

    if out.is_dir() and any(out.iterdir()):
        raise UserError("the folder is not empty", where=str(out), remedy="name another one")
    if len(source.values) < 2:
        raise UserError("a scorer needs two classes", where="--value", allowed="LABEL=NUMBER")
    train, held = _parts(source)
    union = features()
    model = LogisticRegression(C=10.0, max_iter=1000)
    model.fit(union.fit_transform(train.texts), train.classes)

    def probabilities(texts: Sequence[str]) -> Array:
        return shares(model.decision_function(union.transform(texts)))

    values = np.array(list(source.values.values()))
    card = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "values": dict(source.values),
        "data": _data(source, train, held),
        "held_out": quality(probabilities(held.texts), held.classes),
        "bias": own_bias(lambda texts: (probabilities(texts) @ values).tolist()),
        "model": "TF-IDF of words (1, 2) and characters in words (2 to 5); logistic regression, "
        "C 10",
        "versions": _versions(),
    }
    make_folder(out)
    _write(out, union, model)
    write_json_atomic(out / CARD, card)  # last: with it the scorer is complete
    return card


def quality(found: Array, classes: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, macro F1, AUC and reliability on held-out texts.

    AUC is the mean over pairs of classes (Hand and Till 2001), of two classes the usual one; its
    interval is the bootstrap's percentile. Reliability: in each bin of the probability of the
    chosen class, the texts, their mean probability, and the share that is right.

    Args:
        found: Probabilities (n, C).
        classes: True classes (n,), each of which occurs.
    """
    chosen, top = found.argmax(axis=1), found.max(axis=1)
    right = (chosen == classes).astype(np.float64)
    rows = confusion_rows(classes.tolist(), chosen.tolist(), found.shape[1])
    bins = np.clip(np.ceil(top * BINS).astype(int), 1, BINS) - 1
    table = [
        {
            "n": int((bins == b).sum()),
            "probability": float(top[bins == b].mean()),
            "right": float(right[bins == b].mean()),
        }
        for b in sorted(set(bins.tolist()))
    ]
    gaps = [entry["n"] * abs(entry["right"] - entry["probability"]) for entry in table]
    return {
        "n": len(classes),
        "accuracy": asdict(proportion_estimate(right)),
        "macro_f1": asdict(bootstrap(rows, macro_f1, None, Resampling())),
        "auc": auc(found, classes),
        "majority": float(np.bincount(classes).max() / len(classes)),
        "ece": float(sum(gaps) / len(classes)),
        "reliability": table,
    }


def own_bias(score: Score) -> list[dict[str, Any]]:
    """What the scorer makes of neutral sentences that differ in the group (`ScorersTask`)."""
    rows = neutral_items()
    known = ScorersTask({}, {SELF: ""})
    result = known.result(rows, {SELF: differences(score, rows, SELF)})
    return known.bias(result, 0.95)


def auc(found: Array, classes: NDArray[np.int64], draws: int = 300) -> dict[str, float]:
    """Area under the ROC curve with a 95 % bootstrap interval over texts, drawn by class."""
    from sklearn.metrics import roc_auc_score

    def area(places: NDArray[np.intp]) -> float:
        kept, truth = found[places], classes[places]
        if found.shape[1] == 2:
            return float(roc_auc_score(truth, kept[:, 1]))
        return float(roc_auc_score(truth, kept, multi_class="ovo"))

    members = [np.flatnonzero(classes == c) for c in range(found.shape[1])]
    generator = np.random.default_rng(0)
    again = [
        area(np.concatenate([generator.choice(m, len(m)) for m in members])) for _ in range(draws)
    ]
    low, high = np.quantile(again, [0.025, 0.975])
    return {"value": area(np.arange(len(classes))), "low": float(low), "high": float(high)}


def card_lines(card: Mapping[str, Any]) -> list[str]:
    """The card's numbers as lines of plain text."""
    held, data = card["held_out"], card["data"]
    accuracy, f1, area = (
        f"{held[key]['value']:.3f} [{held[key]['low']:.3f}, {held[key]['high']:.3f}]"
        for key in ("accuracy", "macro_f1", "auc")
    )
    counts = ", ".join(f"{label} {n}" for label, n in data["classes"].items())
    bias = [row for row in card["bias"] if not row["control"]]
    alarms = [row for row in card["bias"] if row["control"] and row["low"] * row["high"] > 0]
    largest = sorted(bias, key=lambda row: -abs(row["value"]))[:LARGEST]
    own = [
        f"{row['group_a']} - {row['group_b']} {row['value']:+.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}]"
        for row in largest
    ]
    bins = [f"{b['probability']:.2f}: {b['right']:.2f} (n {b['n']})" for b in held["reliability"]]
    return [
        f"{card['name']} {card['version']}: trained on {data['rows']} texts ({counts}), "
        f"held out {held['n']}",
        f"accuracy {accuracy} (the commonest class {held['majority']:.3f}), macro F1 {f1}, "
        f"AUC {area}",
        f"calibration error {held['ece']:.3f}; right by probability: {'; '.join(bins)}",
        f"own bias on neutral sentences, the largest of {len(bias)}: {'; '.join(own)}; "
        f"{len(alarms)} of {len(card['bias']) - len(bias)} controls exclude 0",
    ]


def _parts(source: Labelled) -> tuple[_Rows, _Rows]:
    """Training and held-out texts.

    Raises:
        UserError: See `train_scorer`.
    """
    texts = _read(source.data, source)
    if source.held is None:
        held = {text: c for text, c in texts.items() if _share(text) < HELD}
    else:
        held = _read(source.held, source)
    train = {text: c for text, c in texts.items() if text not in held}
    parts = {"training": train, "held-out": held}
    for part, rows in parts.items():
        counts = Counter(rows.values())
        for number, label in enumerate(source.values):
            if counts[number] < LEAST:
                raise UserError(
                    f"{counts[number]} {part} texts of class {label!r}",
                    where=str(source.data),
                    allowed=f"{LEAST} or more",
                )
    made = [_Rows([*rows], [*rows.values()]) for rows in parts.values()]
    return made[0], made[1]


def _read(path: Path, source: Labelled) -> dict[str, int]:
    """Text -> class number; a text that stands twice counts once, with its first class.

    Raises:
        UserError: The file cannot be read, or a row lacks a column.
    """
    numbers = {label: number for number, label in enumerate(source.values)}
    found: dict[str, int] = {}
    rows, _ = load_rows(SourceConfig(path=str(path)), "table", DataContext(None, None, 0))
    for number, row in enumerate(rows, start=1):
        missing = [key for key in (source.text, source.label) if row.get(key) is None]
        if missing:
            raise UserError(
                f"no column {', '.join(missing)}",
                where=f"{path}, row {number}",
                allowed=", ".join(row),
            )
        label = str(row[source.label])
        if label in numbers:
            found.setdefault(str(row[source.text]), numbers[label])
    return found


def _share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _data(source: Labelled, train: _Rows, held: _Rows) -> dict[str, Any]:
    """What the scorer was made from."""
    counts = Counter(train.classes.tolist())
    return {
        "file": source.data.name,
        "sha256": path_hash(source.data),
        "held_file": source.held.name if source.held else None,
        "held_sha256": path_hash(source.held) if source.held else None,
        "text": source.text,
        "label": source.label,
        "rows": len(train.texts),
        "held": len(held.texts),
        "classes": {label: counts[number] for number, label in enumerate(source.values)},
    }


def _versions() -> dict[str, str | None]:
    from align import __version__
    from align.artifacts import package_versions

    return {"alignkit": __version__, **package_versions(["scikit-learn", "numpy"])}


def _write(out: Path, union: Any, model: Any) -> None:
    """Vocabulary and weights."""
    from safetensors.numpy import save

    words = {name: part.get_feature_names_out().tolist() for name, part in union.transformer_list}
    write_text_atomic(out / VOCABULARY, json.dumps(words, ensure_ascii=False) + "\n")
    tensors = {f"idf_{name}": part.idf_ for name, part in union.transformer_list}
    tensors |= {"coefficients": model.coef_, "intercepts": model.intercept_}
    partial = out / f".{WEIGHTS}"
    partial.write_bytes(save({key: np.ascontiguousarray(t) for key, t in tensors.items()}))
    partial.replace(out / WEIGHTS)
