"""Likelihood of answers and documents, against one pass and against the definition."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evals.definitions import read_definition
from evals.engine import Engine
from evals.schema import Definition, MetricEntry
from evals.score import estimate
from evals.shots import Asking
from evals.stats import Resampling
from evals.tasks.likelihood import LoglikelihoodTask, RollingTask
from evals.tasks.perplexity import PerplexityTask


def test_lambada_by_hand(tiny_tokenizer: Any) -> None:
    rows = [{"text": "the cook sold bread"}, {"text": "a red house"}, {"text": "a soup"}]
    answers = {" bread": (-1.0, True), " house": (-4.0, False), " soup": (math.nan, False)}

    def loglikelihoods(requests: Any) -> Any:
        texts = [tiny_tokenizer.decode(request.continuation) for request in requests]
        contexts = [tiny_tokenizer.decode(request.context) for request in requests]
        assert contexts == ["the cook sold", "a red", "a"]
        sums, greedy = zip(*(answers[text] for text in texts), strict=True)
        return SimpleNamespace(sums=np.array(sums), greedy=np.array(greedy))

    engine: Any = SimpleNamespace(
        tokenizer=tiny_tokenizer, loglikelihoods=loglikelihoods, problem=lambda _: None
    )
    task = LoglikelihoodTask("lambada", Asking("lambada", read_definition("lambada")))
    result = task.evaluate(engine, rows)
    values = {m.name: estimate(m, result, Resampling(100)).value for m in task.metrics}
    # exp((1 + 4) / 2) and one of two; the third item has no number.
    assert values == pytest.approx({"perplexity": math.exp(2.5), "acc": 0.5})
    assert result.missing == {"not finite": 1}


def test_a_model_s_likelihood_by_one_pass(engine: Engine) -> None:
    task = LoglikelihoodTask("lambada", Asking("lambada", read_definition("lambada")))
    result = task.evaluate(engine, [{"text": "The cook praised the soup"}])
    ids = engine.tokenizer("The cook praised the soup", add_special_tokens=False)["input_ids"]
    start = len(engine.tokenizer("The cook praised the", add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        rows = engine.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = sum(float(rows[i - 1, ids[i]]) for i in range(start, len(ids)))
    assert result.samples[0]["logprob"] == pytest.approx(expected, abs=1e-4)


def test_rolling_counts_the_text_it_names(engine: Engine) -> None:
    definition = Definition(
        task="t",
        output_type="loglikelihood_rolling",
        doc_to_target="{{text|replace(' @-@ ', '-')}}",
        doc_to_count="text",
        metric_list=tuple(
            MetricEntry(metric=name)
            for name in ("word_perplexity", "byte_perplexity", "bits_per_byte", "token_perplexity")
        ),
    )
    raw = ["a red @-@ blue house \u00e9", "bread", ""]
    task = RollingTask("t", Asking("t", definition))
    result = task.evaluate(engine, [{"text": text} for text in raw])
    assert result.missing == {"empty document": 1}
    # The other task scores the same documents; only what is counted differs.
    plain = [text.replace(" @-@ ", "-") for text in raw]
    scored = PerplexityTask("t").evaluate(engine, [{"text": text} for text in plain])
    nll, tokens = scored.stats["perplexity"].sum(axis=0)[:2]
    words = sum(len(re.split(r"\s+", text)) for text in raw[:2])
    size = sum(len(text.encode()) for text in raw[:2])
    values = {m.name: estimate(m, result, Resampling(100)).value for m in task.metrics}
    assert (words, size) == (7, 28)
    assert values == pytest.approx(
        {
            "word_perplexity": math.exp(nll / words),
            "byte_perplexity": math.exp(nll / size),
            "bits_per_byte": nll / size / math.log(2),
            "token_perplexity": math.exp(nll / tokens),
        }
    )
    assert result.samples[0]["text"] == plain[0]
