"""Ensembles: what members share, that one pass equals many, and how their scores are combined."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModelForSequenceClassification
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

from align.artifacts import file_hash
from align.config import LoraConfig
from align.errors import UserError
from align.models import load_model
from align.ppo.prompts import PromptBatch
from align.ppo.scoring import score_responses
from align.progress import NullProgress, Task
from align.shared import SharedBase
from reward import members
from reward.ensemble import RewardEnsemble, combined
from reward.load import load_reward, reward_on
from reward.members import bootstrap_pairs, member_metrics
from reward.pairs import Encoded

K = 3
PROMPTS: list[Any] = [
    [{"role": "user", "content": "say something about tea"}],
    [{"role": "user", "content": "say something about a very long and cold rain today"}],
    "plain text prompt",
]
RESPONSES: list[Any] = ["the tea is good", "bad", "the snow is bad and old , they say"]


class Killed(Exception):
    """Stands for the process's end."""


class KillingProgress(NullProgress):
    """Ends the process after some optimizer steps in all."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def _show(self, task: Task, finished: bool) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed


@pytest.fixture(scope="module")
def ensemble_config(tiny_config: Callable[..., Any]) -> Any:
    return tiny_config(epochs=1, ensemble={"k": K, "combine": "mean_minus_std", "coefficient": 0.5})


@pytest.fixture(scope="module")
def ensemble_stage(tmp_path_factory: Any, run_reward: Any, ensemble_config: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("ensemble") / "3-reward"
    run_reward(folder, ensemble_config)
    return folder


@pytest.fixture(scope="module")
def model(ensemble_stage: Path) -> Any:
    return load_reward(ensemble_stage, device="cpu")


def adapter_of(stage: Path, number: int) -> Path:
    return stage / "members" / str(number) / "adapter"


def weights_of(stage: Path, number: int) -> dict[str, torch.Tensor]:
    return load_file(adapter_of(stage, number) / "adapter_model.safetensors")


def hashes(stage: Path) -> dict[str, str]:
    names = ("manifest.json", "metrics.jsonl")
    files = [p for p in sorted(stage.rglob("*")) if p.is_file() and p.name not in names]
    return {p.relative_to(stage).as_posix(): file_hash(p) for p in files}


def test_scores_are_combined_by_their_formulas() -> None:
    scores = np.array([[1.0, 4.0], [3.0, 4.0], [5.0, 1.0]])
    # means 3 and 3; lowest 1 and 1; variances (4 + 0 + 4) / 3 and (1 + 1 + 4) / 3
    assert combined(scores, "mean").tolist() == [3.0, 3.0]
    assert combined(scores, "min").tolist() == [1.0, 1.0]
    expected = [3 - 0.5 * (8 / 3) ** 0.5, 3 - 0.5 * 2**0.5]
    assert combined(scores, "mean_minus_std", 0.5) == pytest.approx(expected)


@torch.no_grad()
def test_one_pass_scores_like_every_member_by_itself(
    ensemble_stage: Path, model: RewardEnsemble, sft_reference: Any, tmp_path: Path
) -> None:
    load_model(sft_reference, device="cpu").model.save_pretrained(tmp_path)
    expected = []
    for number in range(K):
        base = LlamaForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
        folder = adapter_of(ensemble_stage, number)
        alone = PeftModelForSequenceClassification.from_pretrained(base, folder).eval()
        stored = json.loads((folder / "reward_config.json").read_text())
        pairs = zip(PROMPTS, RESPONSES, strict=True)
        rows = [torch.tensor([model.encode(*pair)]) for pair in pairs]
        scores = [float(alone(input_ids=row).logits) for row in rows]
        expected.append([(score - stored["mean"]) / stored["std"] for score in scores])
    found = model.member_scores(PROMPTS, RESPONSES)
    assert found == pytest.approx(np.array(expected), abs=1e-5)
    assert np.abs(found[0] - found[1]).min() > 1e-3  # members differ
    each = np.array(expected)
    assert model(PROMPTS, RESPONSES) == pytest.approx(each.mean(0) - 0.5 * each.std(0), abs=1e-5)
    assert model.spread == pytest.approx(each.std(0), abs=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_scores_do_not_depend_on_batch_or_order(
    model: RewardEnsemble, batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [model([p], [r])[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    monkeypatch.setattr(model, "batch_tokens", batch_tokens)
    assert model(PROMPTS[::-1], RESPONSES[::-1]) == pytest.approx(alone[::-1], abs=1e-5)
    ids = [model.encode(*pair) for pair in zip(PROMPTS, RESPONSES, strict=True)]
    assert model.score_ids(ids) == pytest.approx(alone, abs=1e-5)


def test_the_layers_below_run_once(model: RewardEnsemble, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for index, layer in enumerate(model.shared.base.model.layers):
        original = layer.forward

        def counted(*given: Any, index: int = index, original: Any = original, **named: Any) -> Any:
            calls.append(index)
            return original(*given, **named)

        monkeypatch.setattr(layer, "forward", counted)
    model(PROMPTS, RESPONSES)
    assert calls == [0, 1, 1, 1]


def test_members_share_the_lower_layers_of_the_first_training(ensemble_stage: Path) -> None:
    first = load_file(ensemble_stage / "adapter" / "adapter_model.safetensors")
    own = [weights_of(ensemble_stage, number) for number in range(K)]
    lower = [name for name in first if ".layers.0." in name]
    upper = [name for name in first if ".layers.1." in name or "score" in name]
    assert len(lower) + len(upper) == len(first)
    for number, member in enumerate(own):
        assert all(torch.equal(member[name], first[name]) for name in lower)
        others = [first, *own[:number]]
        assert not any(torch.equal(member[name], o[name]) for name in upper for o in others)


def test_a_member_with_other_lower_layers_is_refused(
    ensemble_stage: Path, tmp_path: Path, sft_reference: Any
) -> None:
    broken = tmp_path / "3-reward"
    shutil.copytree(ensemble_stage, broken)
    weights = weights_of(broken, 1)
    name = next(name for name in weights if ".layers.0." in name)
    weights[name] += 1e-3
    save_file(weights, adapter_of(broken, 1) / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"members/1/adapter: differs from the first member"):
        load_reward(broken, device="cpu", reference=sft_reference)
    (broken / "members" / "ensemble.json").write_text("{}")
    with pytest.raises(UserError, match="not an ensemble's settings"):
        load_reward(broken, device="cpu", reference=sft_reference)


def test_normalised_scores_have_mean_0_and_spread_1_on_the_held_out_pairs(
    ensemble_stage: Path, model: RewardEnsemble, stage_pairs: list[dict[str, Any]]
) -> None:
    prompts = [row["prompt"] for row in stage_pairs] * 2
    responses = [row[side] for side in ("chosen", "rejected") for row in stage_pairs]
    scores = np.array(model.normalising()(prompts, responses))
    assert (scores.mean(), scores.std()) == pytest.approx((0, 1), abs=1e-4)
    metrics = json.loads((ensemble_stage / "manifest.json").read_text())["metrics"]
    raw = np.array(model(prompts, responses))
    n = len(stage_pairs)
    assert metrics["accuracy"]["value"] == pytest.approx((raw[:n] > raw[n:]).mean())
    assert metrics["members"] == K
    assert metrics["spread"] == pytest.approx(np.mean(model.spread), abs=1e-5)


def test_members_metrics_by_hand() -> None:
    # margins of three pairs: (1, -1, 3) and (2, -2, 6): the same up to a factor
    scores = np.array([[1.0, 0, 3, 0, 1, 0], [2.0, 0, 6, 0, 2, 0]])
    found = member_metrics(scores, 3)
    assert found["member_accuracy"] == pytest.approx([2 / 3, 2 / 3])
    assert found["member_correlation"] == pytest.approx(1.0)
    # half the distance of two numbers: .5, 0, 1.5, 0, .5, 0
    assert found["spread"] == pytest.approx(2.5 / 6)


def test_a_bootstrap_draws_with_replacement() -> None:
    pairs = Encoded([{"n": i} for i in range(200)], [{"id": i} for i in range(200)], 7)
    drawn = bootstrap_pairs(pairs, 1)
    assert [row["n"] for row in drawn.rows] == [ids["id"] for ids in drawn.ids]
    assert (len(drawn.rows), drawn.left_out) == (200, 7)
    # 1 - (1 - 1/200)^200 = .633 of the pairs are drawn; the standard deviation is about .022
    assert len({row["n"] for row in drawn.rows}) / 200 == pytest.approx(0.633, abs=0.08)
    assert bootstrap_pairs(pairs, 1).rows == drawn.rows != bootstrap_pairs(pairs, 2).rows


def test_every_member_has_seeds_and_pairs_of_its_own(
    tiny_config: Any, run_reward: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float, str]] = []

    def note(config: Any, job: Any, work: Any, *lower: Any) -> None:
        head = float(work.start.model.score.weight.detach().sum())
        seen.append((config.seed, head, str(work.pairs.ids)))

    monkeypatch.setattr(members, "train_one", note)
    monkeypatch.setattr(members, "_judge", lambda *_: {})
    for bootstrap in (True, False):
        seen.clear()
        config = tiny_config(ensemble={"k": K, "bootstrap": bootstrap})
        run_reward(tmp_path / str(bootstrap), config)
        seeds, heads, pairs = (set(column) for column in zip(*seen, strict=True))
        assert len(seeds) == len(heads) == K + 1  # the first training, then the members
        assert len(pairs) == (K + 1 if bootstrap else 1)


def test_killed_and_resumed_is_never_killed(
    ensemble_stage: Path, ensemble_config: Any, tmp_path: Path, run_reward: Any
) -> None:
    folder = tmp_path / "3-reward"
    with pytest.raises(Killed):
        run_reward(folder, ensemble_config, progress=KillingProgress(12))
    assert (folder / "adapter" / "reward_config.json").is_file()
    assert not (folder / "members" / "ensemble.json").exists()
    before = file_hash(folder / "adapter" / "adapter_model.safetensors")
    run_reward(folder, ensemble_config)
    assert file_hash(folder / "adapter" / "adapter_model.safetensors") == before
    assert hashes(folder) == hashes(ensemble_stage)


def test_ppo_scores_with_it_and_sees_the_spread(
    ensemble_stage: Path, model: RewardEnsemble, sft_reference: Any
) -> None:
    loaded = load_model(sft_reference, device="cpu")
    shared = SharedBase(loaded.model)
    reward = reward_on(shared, ensemble_stage, loaded.tokenizer, normalised=True)
    shared.add_adapter("policy", LoraConfig(r=2), trainable=True)
    batch = PromptBatch(PROMPTS, [[1]] * 3, {})
    texts = [str(response) for response in RESPONSES]
    scores = score_responses([reward], batch, texts)
    expected = model.normalising()(PROMPTS, texts)
    assert scores.total.tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.spread["reward_ensemble"].tolist() == pytest.approx(reward.spread)
    assert shared.active_adapter == "policy"


@pytest.mark.parametrize(
    ("ensemble", "message"),
    [
        ({"layers": 3}, "3 upper layers of a model with 2"),
        ({"k": 1}, "greater than or equal to 2"),
        ({"combine": "min", "coefficient": 1.0}, "read with combine: mean_minus_std only"),
    ],
)
def test_what_cannot_be_an_ensemble_is_refused(
    ensemble: dict[str, Any], message: str, tiny_config: Any, run_reward: Any, tmp_path: Path
) -> None:
    with pytest.raises((UserError, ValidationError), match=message):
        run_reward(tmp_path / "3-reward", tiny_config(ensemble=ensemble))
