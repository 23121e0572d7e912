"""Open generation as a task: sampling, scorers, missing scores, stored results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align.config import EvalsConfig, SourceConfig, TaskConfig
from align.errors import UserError
from evals.bias.open_generation import OpenTask, first_word
from evals.bias.open_numbers import Scored
from evals.bias.open_prompts import make_prompt
from evals.engine import Engine
from evals.ledger import Results, build_ledger
from evals.report.lines import ledger_lines
from evals.stats import Resampling
from evals.task import BiasTask, GroupTask
from evals.tasks import build_task
from reward import scorer as scorers

TASK = OpenTask("open", "open_prompts", samples=3, temperature=1.0, max_new_tokens=6, seed=5)
ROWS = [
    make_prompt(f"The {who} {verb}", "job", who, verb)
    for verb in ("praised the", "sold", "said that")
    for who in ("cook", "baker")
]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that the scorers `marks` and `whole` were given; both score capitals' share."""
    seen: list[str] = []

    def score(texts: Any) -> list[float | None]:
        seen.extend(texts)
        return [len(t) / 100 if "e" in t else None for t in texts]

    monkeypatch.setattr(scorers, "open_scorer", lambda *_: scorers.Scorer(score, "x 1", 0.0, 1.0))
    return seen


def judged(**further: Any) -> OpenTask:
    return replace(
        TASK, scorers={"toxicity": "x"}, scored={"toxicity": Scored("x 1", 0.0, 1.0)}, **further
    )


def test_every_prompt_gets_different_responses_and_the_seed_repeats_them(engine: Engine) -> None:
    result = TASK.evaluate(engine, ROWS)
    responses = [sample["responses"] for sample in result.samples]
    assert [len(own) for own in responses] == [3] * 6
    assert all(len(set(own)) > 1 for own in responses)
    assert responses == [s["responses"] for s in TASK.evaluate(engine, ROWS).samples]
    other = replace(TASK, seed=6).evaluate(engine, ROWS)
    assert responses != [sample["responses"] for sample in other.samples]
    assert result.clusters == ("praised the",) * 2 + ("sold",) * 2 + ("said that",) * 2
    lengths = [sample["scores"]["length"] for sample in result.samples]
    assert result.stats["length"] == pytest.approx(np.array([[np.mean(n), 1] for n in lengths]))
    assert max(map(max, lengths)) <= 6


def test_scores_are_those_of_the_response_alone_but_regard_reads_the_prompt(
    engine: Engine, read: list[str]
) -> None:
    result = judged().evaluate(engine, ROWS)
    texts = [text for sample in result.samples for text in sample["responses"]]
    assert read == texts
    read.clear()
    regard = replace(TASK, scorers={"regard": "x"}, scored={"regard": Scored("x 1", 0.0, 1.0)})
    regard.evaluate(engine, ROWS)
    prompts = [sample["prompt"] for sample in result.samples for _ in range(3)]
    assert read == [p + t for p, t in zip(prompts, texts, strict=True)]
    read.clear()
    chat = replace(regard, chat=True).evaluate(engine, ROWS)
    assert read == [text for sample in chat.samples for text in sample["responses"]]


def test_a_response_without_a_score_is_missing_and_counted(engine: Engine, read: list[str]) -> None:
    result = judged().evaluate(engine, ROWS)
    lost = 0
    for sample, row in zip(result.samples, result.stats["toxicity"].tolist(), strict=True):
        known = [len(t) / 100 for t in sample["responses"] if "e" in t]
        lost += 3 - len(known)
        want = [np.mean(known), 1] if known else [0, 0]
        assert row == pytest.approx(want)
        assert [s is None for s in sample["scores"]["toxicity"]] == [
            "e" not in t for t in sample["responses"]
        ]
    assert lost > 0
    assert result.stats["toxicity_missing"][:, 0].sum() * 3 == pytest.approx(lost)


def test_an_empty_response_has_no_regard_whatever_the_prompt(
    engine: Engine, read: list[str]
) -> None:
    task = replace(TASK, scorers={"regard": "x"}, scored={"regard": Scored("x 1", 0.0, 1.0)})
    values = task._values(["The cook", "The cook"], ["  ", " sees"])
    assert values["regard"] == pytest.approx([np.nan, 0.13], nan_ok=True)


def test_honest_is_the_share_of_first_words_in_the_list(engine: Engine, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Fool\nold goat\n", encoding="utf-8")
    task = replace(TASK, kind="honest", hurtful=str(words), words="words.txt @1")
    values = task._values(["p"] * 4, [" fool, he said", "no fool", "an old goat", "foolish"])
    assert values["honest"].tolist() == [1, 0, 0, 0]
    assert values["hurtful"].tolist() == [1, 1, 1, 0]
    assert [n.name for n in task.numbers()] == ["refusal", "length", "hurtful", "honest"]
    plain = replace(task, kind="bold")
    assert "honest" not in plain._values(["p"], ["fool"])
    assert [n.name for n in plain.numbers()] == ["refusal", "length", "hurtful"]
    assert first_word("") == ""


def test_refusals_are_counted() -> None:
    values = TASK._values(["p"] * 2, ["I'm sorry, but no.", "Yes."])
    assert values["refusal"].tolist() == [1, 0]


def test_tables_of_two_models(engine: Engine, read: list[str]) -> None:
    task = judged()
    before = task.evaluate(engine, ROWS)
    after = replace(task, seed=9).evaluate(engine, ROWS)
    results = Results(
        stages=("base", "sft"),
        tasks={"open": task},
        signatures={"open": "s"},
        scored={("base", "open"): before, ("sft", "open"): after},
    )
    assert isinstance(task, BiasTask)
    assert isinstance(task, GroupTask)
    ledger = build_ledger(results, Resampling(resamples=200))
    measures = {row["measure"] for row in ledger["bias"]}
    assert measures == {"toxicity", "toxicity_any@3", "refusal", "length"}
    (row,) = [
        r for r in ledger["bias_comparisons"] if r["measure"] == "length" and r["before"] == "base"
    ]
    means = [
        {g: np.mean([r.stats["length"][i, 0] for i in range(6) if ROWS[i]["group"] == g])
         for g in ("cook", "baker")}
        for r in (before, after)
    ]  # fmt: skip
    change = [own["cook"] - own["baker"] for own in means]
    assert row["difference"] == pytest.approx(change[1] - change[0])
    groups = {(r["group"], r["metric"]) for r in ledger["groups"]}
    assert ("cook", "toxicity_missing") in groups
    assert ("baker", "toxicity_max@3") in groups
    text = "\n".join(ledger_lines(ledger))
    assert "Open prompts: open generation" in text
    assert "x 1" in str(ledger["tasks"][0]["metrics"]["toxicity"])


def test_prompts_that_do_not_fit_are_missing(engine: Engine) -> None:
    long = make_prompt("word " * 200, "job", "cook", "c")
    assert TASK.evaluate(engine, [*ROWS, long]).missing == {"longer than 90 tokens": 1}
    with pytest.raises(UserError, match="no prompt could be answered"):
        TASK.evaluate(engine, [long])


def test_the_configuration() -> None:
    data = SourceConfig(path="x")
    config = TaskConfig(kind="bold", data=data, samples=2, temperature=0.5, clusters=3, chat=True)
    task = build_task("t", config)
    assert isinstance(task, OpenTask)
    assert "2 sampled at temperature 0.5, at most 48 tokens, seed 1234, chat" in task.definition
    assert "at most 3 clusters of every group" in task.definition
    with pytest.raises(UserError, match="prompt is never read by kind bold"):
        build_task("t", TaskConfig(kind="bold", prompt="x", data=data))
    with pytest.raises(UserError, match="samples is never read by kind bbq"):
        build_task("t", TaskConfig(kind="bbq", samples=2, data=data))
    with pytest.raises(UserError, match="no rows"):
        task.items([])
    with pytest.raises(ValueError, match="refusal needs no scorer"):
        EvalsConfig(tasks={}, scorers={"refusal": "x"})


def test_scorers_beside_the_yaml_are_found(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    config = EvalsConfig(tasks={}, scorers={"a": "mine:x=1", "b": "vader"}, hurtful="gone")
    found = config.located(tmp_path)
    assert Path(found["scorers"]["a"].partition(":")[0]).resolve() == (tmp_path / "mine").resolve()
    assert found["scorers"]["a"].endswith(":x=1")
    assert found["scorers"]["b"] == "vader"
    assert found["hurtful"] == "gone"
