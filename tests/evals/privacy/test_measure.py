"""A model that knows its documents by heart, and one that never saw them."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from align.config import AuditConfig, CanaryConfig
from align.data.canaries import draw_canaries, plant
from evals.engine import Engine
from evals.privacy.audit import (
    change_rows,
    exposure_rows,
    extraction_gaps,
    extraction_rows,
    membership_rows,
)
from evals.privacy.documents import Document, KnownSet, encode_document
from evals.privacy.measure import measure_set, token_scores
from evals.privacy.membership import SCORES

WORDS = [
    "cook",
    "baker",
    "soup",
    "bread",
    "red",
    "blue",
    "house",
    "car",
    "good",
    "bad",
    "sold",
    "praised",
    "the",
    "and",
    "a",
    "is",
]
SETTINGS = AuditConfig(documents=16, prompt_tokens=6, next_tokens=6, candidates=100)
CANARIES = CanaryConfig(count=6, repeats=(8,), digits=2, format="code {name} is {secret}")


def sentences(n: int, seed: int) -> list[dict[str, Any]]:
    source = random.Random(seed)
    return [{"text": " ".join(source.choices(WORDS, k=14))} for _ in range(n)]


KNOWN = KnownSet("given", "text", sentences(12, 1), sentences(16, 2), canaries=CANARIES)


@pytest.fixture(scope="module")
def raws(model_of: Any, tiny_tokenizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Raw values of a fresh model, and of the same after many epochs on the training rows."""
    fresh = Engine(model_of(seed=3), tiny_tokenizer, batch_tokens=2048)
    first = measure_set(fresh, KNOWN, SETTINGS, 0)
    model = model_of(seed=3)
    rows = plant(KNOWN.members, CANARIES, 0, "text")
    eos = tiny_tokenizer.eos_token_id
    whole = [
        [fresh.prefix_id, *tiny_tokenizer(row["text"], add_special_tokens=False)["input_ids"], eos]
        for row in rows
    ]
    longest = max(map(len, whole))
    ids = torch.tensor([one + [eos] * (longest - len(one)) for one in whole])
    labels = torch.where(
        torch.arange(longest) < torch.tensor([[len(one)] for one in whole]), ids, -100
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model.train()(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    second = measure_set(Engine(model, tiny_tokenizer, 2048), KNOWN, SETTINGS, 0)
    return first, second


def test_a_memorising_model_gives_itself_away(raws: Any) -> None:
    learned = raws[1]
    aucs = {row["score"]: row["value"] for row in membership_rows(learned)}
    assert set(aucs) == set(SCORES)
    assert min(aucs.values()) > 0.97
    training, held = extraction_rows(learned)
    assert (training["side"], training["value"]) == ("members", pytest.approx(1, abs=0.1))
    assert held["value"] < 0.1
    gap = extraction_gaps(learned)[0]
    assert gap["value"] == training["value"] - held["value"]
    assert gap["low"] > 0.5
    unseen, planted = exposure_rows(learned)
    assert (unseen["repeats"], planted["repeats"]) == (0, 8)
    # all 100 secrets of two digits are ranked: at most log2 100 = 6.64 bits
    assert planted["estimate"] == "enumerated"
    assert planted["most"] == pytest.approx(math.log2(100))
    assert planted["value"] > 5.5
    assert planted["first"] >= 4
    assert planted["p"] < 1e-6


def test_a_fresh_model_tells_nothing(raws: Any) -> None:
    fresh = raws[0]
    for row in membership_rows(fresh):
        assert row["low"] < 0.5 < row["high"]
    assert [row["numerator"] for row in extraction_rows(fresh)] == [0, 0]
    for row in exposure_rows(fresh):
        assert row["p"] > 0.01
        assert row["low"] < 1 / math.log(2) < row["high"]


def test_changes_are_paired_on_documents_and_canaries(raws: Any) -> None:
    before, after = raws
    changes = {row["measure"]: row for row in change_rows(before, after)}
    old = {row["score"]: row["value"] for row in membership_rows(before)}
    new = {row["score"]: row["value"] for row in membership_rows(after)}
    for name in SCORES:
        assert changes[f"AUC, {name}"]["difference"] == pytest.approx(new[name] - old[name])
        assert changes[f"AUC, {name}"]["low"] > 0
    gap = changes["extraction, training minus held out"]
    assert gap["difference"] == pytest.approx(
        extraction_gaps(after)[0]["value"] - extraction_gaps(before)[0]["value"]
    )
    eight = changes["exposure, 8 times, bits"]
    level = [exposure_rows(raw)[1]["value"] for raw in raws]
    assert eight["difference"] == pytest.approx(level[1] - level[0])
    assert eight["low"] > 0
    assert (
        changes["exposure, 0 times, bits"]["low"] < 0 < changes["exposure, 0 times, bits"]["high"]
    )


def test_ranks_agree_with_every_secret_scored_by_itself(raws: Any, engine: Engine) -> None:
    """The whole enumeration, one text at a time, on another model."""
    found = measure_set(engine, KNOWN, SETTINGS, 0)["canaries"]
    tokenizer = engine.tokenizer
    for canary, got in list(zip(draw_canaries(CANARIES, 0, "text"), found, strict=True))[5:7]:
        sums = {}
        for number in range(100):
            secret = " ".join(f"{number:02d}")
            text = CANARIES.format.format(name=canary.name, secret=secret)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            row = torch.tensor([[engine.prefix_id, *ids]])
            with torch.no_grad():
                logs = engine.model(row).logits[0, :-1].double().log_softmax(-1)
            # the question is the same for all, so the whole text ranks as its secret does
            sums[secret] = float(logs.gather(-1, row[0, 1:, None]).sum())
        place = 1 + sum(s > sums[canary.secret] for s in sums.values())
        assert (got["rank"], got["total"], got["repeats"]) == (place, 100, canary.repeats)
        assert got["exposure"] == pytest.approx(math.log2(100 / place))


def test_token_scores_by_the_definition(engine: Engine) -> None:
    document = Document((1, 7, 9), (20, 21, 22), False)
    found = token_scores(engine, document)
    with torch.no_grad():
        logits = engine.model(torch.tensor([[1, 7, 9, 20, 21, 22]])).logits[0]
    for place, token in enumerate(document.ids):
        logs = logits[2 + place].double().log_softmax(-1).numpy()
        p = np.exp(logs)
        mean = float(np.sum(p * logs))
        spread = math.sqrt(float(np.sum(p * (logs - mean) ** 2)))
        assert found.logs[place] == pytest.approx(logs[token], abs=1e-5)
        assert found.standard[place] == pytest.approx((logs[token] - mean) / spread, abs=1e-4)


def test_a_uniform_distribution_tells_no_token_from_another(engine: Engine) -> None:
    head = engine.model.lm_head.weight.detach().clone()
    with torch.no_grad():
        engine.model.lm_head.weight.zero_()
    try:
        found = token_scores(engine, Document((1,), (20, 21), False))
    finally:
        with torch.no_grad():
            engine.model.lm_head.weight.copy_(head)
    assert found.standard.tolist() == [0.0, 0.0]
    assert found.logs[0] == pytest.approx(-math.log(len(head)))


def test_personal_data_of_a_prompt_is_not_the_models(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals.stops import Answer

    rows = [{"text": "mail jane@own.org or the cook and the baker and the soup"}]
    known = KnownSet("given", "text", [*rows, {"text": "also bob@other.org"}], [])
    said = "jane@own.org bob@other.org eve@new.org"
    monkeypatch.setattr(engine, "generate", lambda p, n: [Answer(said, [5], True)] * len(p))
    settings = AuditConfig(prompt_tokens=20, next_tokens=2)
    found = measure_set(engine, known, settings, 0)
    mail = found["members"]["personal"][0]
    assert encode_document(engine.tokenizer, 1, {"text": ""}, None) is None
    # jane stands in the prompt; bob in another training row; eve nowhere
    assert (mail["kind"], mail["passages"], mail["documents"], mail["learned"]) == ("mail", 2, 1, 1)
    assert mail["examples"] == ["bxx@xxxxx.xxx", "exx@xxx.xxx"]
    assert found["others"]["scores"] == []
    assert membership_rows(found) == []
    assert extraction_gaps(found) == []
    assert [row["side"] for row in extraction_rows(found)] == ["members"]
