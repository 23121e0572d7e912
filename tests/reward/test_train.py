"""Reward training: what it learns, what it leaves out, and that a kill changes no byte."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import LlamaForSequenceClassification

from align.artifacts import file_hash
from align.config import SourceConfig
from align.config.reward import ReferenceConfig
from align.data.encoding import decode_response, encode_prompt
from align.errors import UserError
from align.models import load_model
from align.progress import NullProgress, Task
from align.references import ModelReference, resolve_reference
from align.shared import initial_head
from evals.engine import Engine
from reward import train
from reward.load import load_reward
from reward.model import RewardModel
from reward.pairs import encode_pairs, sampled
from reward.start import build_classifier
from reward.train import QuietRewardTrainer

Run = Callable[..., Any]


class Killed(Exception):
    """Stands for the process's end."""


class KillingProgress(NullProgress):
    """Ends the process after some optimizer steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def _show(self, task: Task, finished: bool) -> None:
        if task.done >= self._steps:
            raise Killed


def hashes(stage: Path) -> dict[str, str]:
    """Contents of everything the stage leaves, but the log."""
    names = ("manifest.json", "metrics.jsonl")
    files = [p for p in sorted(stage.rglob("*")) if p.is_file() and p.name not in names]
    return {p.relative_to(stage).as_posix(): file_hash(p) for p in files}


def test_a_visible_preference_is_learnt(stage: Path) -> None:
    metrics = json.loads((stage / "manifest.json").read_text())["metrics"]
    # "good" is always chosen over "bad": one word decides, and length does so in no pair but
    # "good" has one letter more than "bad".
    assert metrics["accuracy"]["value"] == 1.0
    assert metrics["longer_wins"]["value"] == 1.0
    assert metrics["margin"]["low"] > 0
    assert (metrics["pairs"], metrics["heldout_pairs"], metrics["too_long"]) == (32, 32, 0)
    assert metrics["steps"] == 12  # 32 pairs / 8 * 3 epochs


def test_the_stage_leaves_what_it_promises(stage: Path) -> None:
    assert set(hashes(stage)) == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/reward_config.json",
        "samples.jsonl",
    }
    config = json.loads((stage / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["score"]
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not config["base_model_name_or_path"]
    samples = [json.loads(line) for line in (stage / "samples.jsonl").read_text().splitlines()]
    scores = [[row["score_chosen"], row["score_rejected"]] for row in samples]
    stored = json.loads((stage / "adapter" / "reward_config.json").read_text())
    assert stored["mean"] == pytest.approx(np.mean(scores))
    assert stored["std"] == pytest.approx(np.std(scores))
    assert stored["n"] == 64


def test_the_manifest_names_the_model_below_and_the_own_adapter(
    stage: Path, sft_reference: Any
) -> None:
    model = json.loads((stage / "manifest.json").read_text())["model"]
    assert (stage / model["base"]).resolve() == Path(sft_reference.base).resolve()
    assert (stage / model["adapters"][0]).resolve() == Path(sft_reference.adapters[0]).resolve()
    assert model["adapters"][1:] == ["adapter"]


def test_killed_and_resumed_is_never_killed(stage: Path, tmp_path: Path, run_reward: Run) -> None:
    # The stage saves after steps 4, 8 and 12; the first kill leaves nothing, the second one step 8.
    folder = tmp_path / "3-reward"
    for steps in (3, 10):
        with pytest.raises(Killed):
            run_reward(folder, progress=KillingProgress(steps))
    assert (folder / "checkpoints" / "checkpoint-8" / "complete.json").is_file()
    run_reward(folder)
    assert hashes(folder) == hashes(stage)
    logs = [(path / "metrics.jsonl").read_text().splitlines() for path in (folder, stage)]
    steps, losses = (
        [[json.loads(line).get(key) for line in lines] for lines in logs]
        for key in ("step", "loss")
    )
    assert steps[0] == steps[1]
    assert losses[0] == losses[1]


def test_the_classifier_is_the_causal_models_trunk_under_a_seeded_head(sft_reference: Any) -> None:
    loaded = load_model(sft_reference, device="cpu")
    model = build_classifier(loaded.model, seed=5)
    assert model.base_model is loaded.model.base_model
    assert torch.equal(model.score.weight, initial_head(32, 5))
    assert model.score.bias is None
    assert model.config.pad_token_id == loaded.tokenizer.pad_token_id != model.config.eos_token_id
    # N(0, 1 / sqrt(H + 1)): for H = 4096 the spread of the weights is known to about 1 %
    assert float(initial_head(4096, 0).std()) == pytest.approx(1 / math.sqrt(4097), rel=0.04)


def test_too_long_pairs_are_left_out_and_counted(
    tmp_path: Path, run_reward: Run, stage_pairs: list[dict[str, Any]], tiny_config: Run
) -> None:
    loud = {**stage_pairs[0], "rejected": [{"role": "assistant", "content": "bad " * 60}]}
    rows = [*stage_pairs[:8], loud]
    result = run_reward(tmp_path / "a", tiny_config(epochs=1), rows)
    assert (result.metrics["pairs"], result.metrics["too_long"]) == (8, 1)
    assert (result.metrics["heldout_pairs"], result.metrics["heldout_too_long"]) == (8, 1)
    assert result.data[0]["dropped"]["longer than max_length"] == 1
    with pytest.raises(UserError, match=r"reward\.data: none of 1 pairs fits 64 tokens"):
        run_reward(tmp_path / "b", tiny_config(), [loud])
    with pytest.raises(UserError, match=r"reward\.max_length: 97 exceeds .* context of 96"):
        run_reward(tmp_path / "c", tiny_config(max_length=97))


def test_a_pair_of_exactly_the_longest_length_is_kept(
    stage: Path, stage_pairs: list[dict[str, Any]]
) -> None:
    encode = RewardModel.load(stage, device="cpu").encode
    encoded = encode_pairs(encode, stage_pairs[:1], 64, "x")
    longest = max(len(ids) for ids in encoded.ids[0].values())
    assert encode_pairs(encode, stage_pairs[:1], longest, "x").left_out == 0
    with pytest.raises(UserError, match="none of 1 pairs"):
        encode_pairs(encode, stage_pairs[:1], longest - 1, "x")


def test_the_trainer_sees_the_tokens_that_the_scorer_sees(
    stage: Path, tmp_path: Path, run_reward: Run, tiny_config: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    original = QuietRewardTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: Any, **more: Any) -> Any:
        pairs = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        seen.extend(tuple(ids[mask.bool()].tolist()) for ids, mask in pairs)
        return original(self, model, inputs, **more)

    monkeypatch.setattr(QuietRewardTrainer, "compute_loss", spy)
    run_reward(tmp_path / "3-reward", tiny_config(epochs=1))
    scorer = RewardModel.load(stage, device="cpu")
    samples = [json.loads(line) for line in (stage / "samples.jsonl").read_text().splitlines()]
    wanted = {
        tuple(scorer.encode(row["prompt"], row[side]))
        for row in samples
        for side in ("chosen", "rejected")
    }
    assert set(seen) == wanted


def test_settings_reach_the_trainer(
    tmp_path: Path, run_reward: Run, tiny_config: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}

    def stop(self: Any, **_: Any) -> None:
        modules = dict(self.model.named_modules())
        found["args"] = self.args
        found["dropout"] = {m.p for n, m in modules.items() if isinstance(m, torch.nn.Dropout)}
        found["trained"] = {n for n, p in self.model.named_parameters() if p.requires_grad}
        raise Killed

    monkeypatch.setattr(QuietRewardTrainer, "train", stop)
    lora = {"r": 2, "alpha": 4, "dropout": 0.25, "target_modules": ["q_proj"]}
    with pytest.raises(Killed):
        run_reward(tmp_path / "3-reward", tiny_config(center=0.5, lora=lora))
    assert found["args"].center_rewards_coefficient == 0.5
    assert str(found["args"].lr_scheduler_type.value) == "cosine"
    assert found["dropout"] == {0.25}
    start = "base_model.model.model.layers"
    assert found["trained"] == {
        "base_model.model.score.modules_to_save.default.weight",
        *(f"{start}.{i}.self_attn.q_proj.lora_{x}.default.weight" for i in (0, 1) for x in "AB"),
    }


def test_micro_batches_hold_pairs_of_similar_lengths(
    tmp_path: Path,
    run_reward: Run,
    tiny_config: Run,
    stage_pairs: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Every second pair is longer by eight words on its rejected side alone.
    rows = [dict(row) for row in stage_pairs]
    for row in rows[::2]:
        text = row["rejected"][0]["content"] + " bad" * 8
        row["rejected"] = [{"role": "assistant", "content": text}]
    widths: list[list[int]] = []
    original = QuietRewardTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: Any, **more: Any) -> Any:
        widths.append(inputs["attention_mask"].sum(-1).tolist())
        return original(self, model, inputs, **more)

    monkeypatch.setattr(QuietRewardTrainer, "compute_loss", spy)
    run_reward(tmp_path / "3-reward", tiny_config(epochs=1, gradient_accumulation=4), rows)
    # The rejected sides follow in a micro-batch of 2 pairs; four make a step.
    longest = [max(batch) for batch in widths]
    assert len(widths) == 16
    assert [longest[i : i + 4] for i in range(0, 16, 4)] == [
        sorted(longest[i : i + 4], reverse=True) for i in range(0, 16, 4)
    ]
    assert max(longest) - min(longest) >= 8


def test_micro_batches_teach_what_a_whole_batch_does(
    tmp_path: Path, run_reward: Run, tiny_config: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(self: Any, rows: Any = None) -> Any:
        return range(32)

    monkeypatch.setattr(QuietRewardTrainer, "_get_train_sampler", drawn)
    found = []
    for folder, accumulation in (("whole", 1), ("parts", 4)):
        config = tiny_config(epochs=1, gradient_accumulation=accumulation)
        run_reward(tmp_path / folder, config)
        found.append(load_file(tmp_path / folder / "adapter" / "adapter_model.safetensors"))
    for key, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][key], rtol=1e-3, atol=1e-5)


def test_nothing_calls_home(
    tmp_path: Path, run_reward: Run, tiny_config: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trl.trainer.base_trainer as trl_base

    called: list[str] = []

    monkeypatch.delenv("CI", raising=False)  # where it is set, TRL calls nobody anyway
    for name in ("send_telemetry", "generate_model_card"):
        monkeypatch.setattr(trl_base, name, lambda *_, name=name, **__: called.append(name))
    result = run_reward(tmp_path / "3-reward", tiny_config(epochs=1))
    assert called == []
    assert result.metrics["steps"] == 4


def test_all_weights_can_train_without_an_adapter(
    tmp_path: Path, run_reward: Run, tiny_config: Run, stage_pairs: list[dict[str, Any]]
) -> None:
    folder = tmp_path / "3-reward"
    result = run_reward(folder, tiny_config(lora=None, epochs=2))
    assert result.model == {"base": "model", "adapters": []}
    assert result.metrics["accuracy"]["value"] == 1.0
    scorer = load_reward(folder, device="cpu")
    classifier = LlamaForSequenceClassification.from_pretrained(folder / "model").eval()
    row = stage_pairs[3]
    with torch.no_grad():
        ids = torch.tensor([scorer.encode(row["prompt"], row["chosen"])])
        expected = float(classifier(input_ids=ids).logits)
    assert scorer([row["prompt"]], [row["chosen"]]) == pytest.approx([expected], abs=1e-5)
    weights = load_file(folder / "model" / "model.safetensors")
    assert torch.equal(weights["score.weight"], classifier.score.weight)
    (folder / "model" / "reward_config.json").unlink()
    with pytest.raises(UserError, match=r"no reward_config\.json"):
        load_reward(folder, device="cpu")


def test_a_diverged_model_is_refused(
    tmp_path: Path, run_reward: Run, tiny_config: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RewardModel, "score_ids", lambda self, rows: [1.0] * len(rows))
    with pytest.raises(UserError, match="all equal"):
        run_reward(tmp_path / "3-reward", tiny_config(epochs=1))


def test_a_bfloat16_base_trains_under_float32_adapters(
    tmp_path: Path, run_reward: Run, tiny_config: Run
) -> None:
    folder = tmp_path / "3-reward"
    config = tiny_config().model_copy(update={"dtype": "bfloat16"})
    assert run_reward(folder, config).metrics["accuracy"]["value"] == 1.0
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.parametrize("first", [True, False])
def test_one_process_writes_and_the_others_wait_for_it(
    tmp_path: Path, run_reward: Run, tiny_config: Run, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    events: list[str] = []
    zero = QuietRewardTrainer.is_world_process_zero
    wait = Accelerator.wait_for_everyone
    save = train._save

    def note(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any) -> Any:
            events.append(name)
            return function(*given)

        return noted

    def trained(*given: Any) -> Any:
        # What `training` itself does of this is not ours: from here on another process may be it.
        events.clear()
        monkeypatch.setattr(
            QuietRewardTrainer, "is_world_process_zero", lambda self: first and zero(self)
        )
        return scores(*given)

    scores = train.score_pairs
    monkeypatch.setattr(train, "score_pairs", trained)
    monkeypatch.setattr(train, "_save", note("write", save))
    monkeypatch.setattr(Accelerator, "wait_for_everyone", note("wait", wait))
    folder = tmp_path / "3-reward"
    run_reward(folder, tiny_config(epochs=1))
    assert events == (["write", "wait"] if first else ["wait"])
    left = {path.name for path in folder.iterdir()} - {"manifest.json", "metrics.jsonl"}
    assert left == ({"adapter", "samples.jsonl"} if first else {"checkpoints"})


def test_margins_enter_the_loss(
    tmp_path: Path, run_reward: Run, tiny_config: Run, stage_pairs: list[dict[str, Any]]
) -> None:
    # One step from the same start: -log sigmoid(c - r - m) grows with m.
    losses, gaps = [], []
    for margin in (0.0, 2.0):
        rows = [{**row, "margin": margin} for row in stage_pairs]
        run_reward(tmp_path / str(margin), tiny_config(epochs=0.25, checkpoint_steps=1), rows)
        first = json.loads((tmp_path / str(margin) / "metrics.jsonl").read_text().splitlines()[0])
        losses.append(first["loss"])
        gaps.append(first["margin"])
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-6)  # the same start and batch
    # all margins of scores are small at the start: log(1 + e^2) - log 2 = 1.434
    assert losses[1] - losses[0] == pytest.approx(math.log1p(math.e**2) - math.log(2), abs=0.2)
    with pytest.raises(UserError, match=r"pair 2: margin is None"):
        encode_pairs(
            lambda prompt, response: [1],
            [{**stage_pairs[0], "margin": 1.0}, stage_pairs[1]],
            9,
            "x",
        )


def test_reference_samples_fix_zero_and_unit(
    tmp_path: Path, run_reward: Run, tiny_config: Run, stage_pairs: list[dict[str, Any]]
) -> None:
    lines = [
        {"prompt": row["prompt"][0]["content"], "response": row["chosen"][0]["content"]}
        for row in stage_pairs[:10]
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    folder = tmp_path / "3-reward"
    config = tiny_config(epochs=1, normalise={"data": {"path": str(path)}})
    result = run_reward(folder, config)
    model = load_reward(folder, device="cpu", normalised=True)
    scores = np.array(
        model([r["prompt"] for r in stage_pairs[:10]], [r["chosen"] for r in stage_pairs[:10]])
    )
    assert (scores.mean(), scores.std()) == pytest.approx((0, 1), abs=1e-4)
    assert model.settings.n == 10
    assert result.data[-1]["rows"] == 10


def test_answers_of_the_start_model_fix_zero_and_unit(
    tmp_path: Path, run_reward: Run, tiny_config: Run, stage_pairs: list[dict[str, Any]]
) -> None:
    folder = tmp_path / "3-reward"
    given = {"sampled": 3, "max_new_tokens": 5, "temperature": 0.7}
    result = run_reward(folder, tiny_config(epochs=1, normalise=given))
    model = load_reward(folder, device="cpu")
    assert model.settings.n == 3
    # the same by hand: the start model's own samples of the first held-out prompts
    config = tiny_config(epochs=1)
    prompts: list[Any] = []
    for row in stage_pairs:
        prompts += [row["prompt"]] if row["prompt"] not in prompts else []
    below = resolve_reference(str(folder))
    loaded = load_model(replace(below, adapters=below.adapters[:-1]), device="cpu")
    ids = [encode_prompt(loaded.tokenizer, prompt) for prompt in prompts[:3]]
    drawn = Engine(loaded.model, loaded.tokenizer).sample(ids, 5, 0.7, config.seed)
    answers = [decode_response(loaded.tokenizer, response.ids) for response in drawn]
    assert any(answers)
    scores = np.array(model(prompts[:3], answers))
    found = (model.settings.mean, model.settings.std)
    assert found == pytest.approx((scores.mean(), scores.std()), abs=1e-5)
    assert result.metrics["score_mean"] == model.settings.mean


def test_samples_of_an_encoder_and_of_prompts_without_room_are_refused(
    tmp_path: Path, run_reward: Run, tiny_config: Run
) -> None:
    config = tiny_config(normalise={"sampled": 3, "max_new_tokens": 5000})
    with pytest.raises(UserError, match="no held-out prompt leaves room for 5000 tokens"):
        run_reward(tmp_path / "3-reward", config)
    start: Any = SimpleNamespace(causal=False)
    settings, nothing = ReferenceConfig(sampled=3), ModelReference("none")
    with pytest.raises(UserError, match="the model writes no text; allowed: a causal LM"):
        sampled(settings, start, [], nothing, tiny_config())
    with pytest.raises(ValidationError, match="exactly one of data and sampled"):
        ReferenceConfig()
    with pytest.raises(ValidationError, match="exactly one of data and sampled"):
        ReferenceConfig(sampled=3, data=SourceConfig(path="x"))


def test_counterparts_are_trained_on_and_counted(
    tmp_path: Path, run_reward: Run, tiny_config: Run
) -> None:
    swaps = {"words": [["tea", "rain"], ["soup", "snow"]]}
    result = run_reward(tmp_path / "a", tiny_config(epochs=1, augment=swaps))
    # four of the eight things, four pairs each; the held-out pairs stay as they are
    assert result.data[0]["counterparts"] == 16
    assert (result.metrics["pairs"], result.metrics["heldout_pairs"]) == (48, 32)
    with pytest.raises(UserError, match="none of 32 pairs holds a word to exchange"):
        run_reward(tmp_path / "b", tiny_config(augment={"words": [["up", "down"]]}))
