"""Supervised fine-tuning: labels by hand, losses against plain transformers, the same bytes."""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from align import sft
from align.artifacts import StageJob
from align.config import LoraConfig, RunConfig, SFTConfig, SourceConfig
from align.config.training import ModelConfig
from align.data.sources import DataContext
from align.errors import UserError
from align.files import folder_hash
from align.models import LoadedModel, load_model, resolve_reference
from align.progress import NullProgress
from align.sft import IGNORED, Encoded, encode_dialogues, heldout, train_sft

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"what does {name} {verb} ?"},
            {"role": "assistant", "content": f"{name} {verb}s the {thing} ."},
        ]
    }
    for name in ("anna", "paul")
    for verb, thing in (("take", "red box"), ("like", "radio"), ("sell", "lamp"))
] + [
    {
        "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hi"},
            {"role": "user", "content": f"is this {word} ?"},
            {"role": "assistant", "content": f"no , this is not {word} at all ."},
        ]
    }
    for word in ("good", "bad", "red", "blue")
]
Train = Callable[..., Any]


@pytest.fixture
def train(workplace: Path, tiny_folder: Path) -> Train:
    """Run the stage into a folder with some settings changed; returns its result."""
    (workplace / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), "utf-8")
    (workplace / "held.jsonl").write_text("\n".join(map(json.dumps, ROWS[1::3])), "utf-8")

    def run(folder: str = "out", seed: int = 1, dtype: Any = "auto", **settings: Any) -> Any:
        defaults = {
            "data": SourceConfig(path="rows.jsonl"),
            "eval_data": SourceConfig(path="held.jsonl"),
            "lora": LoraConfig(r=4, alpha=8, dropout=0.1),
            "epochs": 3,
            "learning_rate": 1e-2,
            "batch_size": 4,
            "gradient_accumulation": 2,
            "max_length": 64,
            "checkpoint_steps": 3,
        }
        config = RunConfig(
            name="t",
            seed=seed,
            device="cpu",
            dtype=dtype,
            model=ModelConfig(base=str(tiny_folder)),
            sft=SFTConfig(**{**defaults, **settings}),
        )
        place = workplace / folder
        place.mkdir(exist_ok=True)
        inputs = {"base": resolve_reference(str(tiny_folder))}
        job = StageJob(place, inputs, DataContext(workplace, None, seed), NullProgress())
        return train_sft(config, job)

    return run


@pytest.fixture
def base(tiny_folder: Path) -> LoadedModel:
    return load_model(resolve_reference(str(tiny_folder)))


def encoded(tokenizer: PreTrainedTokenizerFast, most: int = 64) -> Encoded:
    section = SFTConfig(data=SourceConfig(path="x"), max_length=most)
    return encode_dialogues(tokenizer, ROWS, section)


@torch.no_grad()
def answer_statistics(model: torch.nn.Module, rows: Encoded) -> tuple[float, int, int]:
    """Sum of -log p, tokens most likely and tokens, one unpadded row and one token at a time."""
    loss, correct, tokens = 0.0, 0, 0
    for ids, labels in zip(rows.ids, rows.labels, strict=True):
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        for place, label in enumerate(labels):
            if label != IGNORED:
                loss -= logprobs[place - 1, label].item()
                correct += int(logprobs[place - 1].argmax() == label)
                tokens += 1
    return loss, correct, tokens


def first_loss(folder: Path) -> float:
    return json.loads((folder / "metrics.jsonl").read_text("utf-8").splitlines()[0])["loss"]


class TestEncoding:
    def test_labels_are_on_answers_only(self, bytes_tokenizer) -> None:
        rows = encoded(bytes_tokenizer)
        answer = [6 + (220 if c == " " else ord(c) - 0x21) for c in "anna takes the red box ."]
        before = len(rows.ids[0]) - len(answer) - 1
        assert rows.ids[0][:2] == [1, 3]
        assert rows.ids[0][before - 2 : before] == [2, 4]
        assert rows.labels[0] == [IGNORED] * before + [*answer, 2]
        # both answers of the longer dialogues count
        assert sum(label == 2 for label in rows.labels[-1]) == 2

    def test_long_dialogues_are_left_out_and_counted(self, tiny_tokenizer) -> None:
        lengths = sorted(map(len, encoded(tiny_tokenizer).ids))
        rows = encoded(tiny_tokenizer, most=lengths[5])
        assert sorted(map(len, rows.ids)) == [n for n in lengths if n <= lengths[5]]
        assert rows.too_long == len(ROWS) - len(rows.ids) > 0

    def test_no_dialogue_short_enough(self, tiny_tokenizer) -> None:
        with pytest.raises(UserError, match=r"sft\.max_length: none of 10 .* 3 tokens"):
            encoded(tiny_tokenizer, most=3)


class TestHeldOut:
    @pytest.mark.parametrize("batch_size", [1, 3, 10])
    def test_equals_the_definition_for_any_batch_size(self, base, batch_size: int) -> None:
        rows = encoded(base.tokenizer)
        loss, correct, tokens = answer_statistics(base.model, rows)
        result = heldout(base.model, rows, base.tokenizer.pad_token_id, batch_size)
        assert result.loss == pytest.approx(loss / tokens, abs=1e-5)
        assert (result.accuracy, result.tokens) == (correct / tokens, tokens)

    def test_the_stage_reports_that_of_its_saved_adapter(self, train, workplace: Path) -> None:
        result = train()
        (workplace / "out" / "manifest.json").write_text(json.dumps({"model": result.model}))
        model, tokenizer, _ = load_model(resolve_reference("out"))
        held = encode_dialogues(
            tokenizer, ROWS[1::3], SFTConfig(data=SourceConfig(path="x"), max_length=64)
        )
        loss, correct, tokens = answer_statistics(model, held)
        assert result.metrics["heldout_loss"] == pytest.approx(loss / tokens, abs=1e-5)
        assert result.metrics["heldout_token_accuracy"] == correct / tokens


class TestTraining:
    @pytest.mark.parametrize("packing", [False, True])
    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_the_first_loss_is_that_of_the_answers(
        self, train: Train, workplace: Path, base, packing: bool, accumulation: int
    ) -> None:
        # One step sees everything: dialogues packed into a block must not see each other.
        rows = encoded(base.tokenizer)
        loss, _, tokens = answer_statistics(base.model, rows)
        train(
            batch_size=10,
            gradient_accumulation=accumulation,
            packing=packing,
            epochs=1,
            lora=LoraConfig(r=2),
            checkpoint_steps=1,
        )
        assert first_loss(workplace / "out") == pytest.approx(loss / tokens, abs=1e-4)

    def test_it_learns(self, train: Train, base) -> None:
        before = heldout(base.model, encoded(base.tokenizer), base.tokenizer.pad_token_id, 4)
        result = train(epochs=6)
        assert result.metrics["heldout_loss"] < before.loss - 1
        assert result.metrics["dialogues"] == 10
        assert result.metrics["steps"] == 18
        assert result.data[0]["dropped"]["longer than max_length"] == 0
        assert len(result.data) == 2

    def test_what_it_writes(self, train: Train, workplace: Path, tiny_folder: Path) -> None:
        result = train()
        out = workplace / "out"
        assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*")) == [
            "adapter",
            "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors",
            "metrics.jsonl",
            "samples.jsonl",
        ]
        assert result.model["adapters"] == ["adapter"]
        assert (out / result.model["base"]).samefile(tiny_folder)
        samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        assert [sample["prompt"] for sample in samples] == [
            row["messages"][:-1] for row in ROWS[1::3]
        ]
        assert samples[0]["reference"] == "anna likes the radio ."

    def test_without_lora_the_whole_model_trains(
        self, train: Train, workplace: Path, tiny_folder: Path
    ) -> None:
        result = train(lora=None, learning_rate=1e-3)
        assert result.model == {"base": "model", "adapters": []}
        tuned = load_model(resolve_reference(str(workplace / "out" / "model"))).model
        before = load_model(resolve_reference(str(tiny_folder))).model
        for name, weight in tuned.named_parameters():
            assert not torch.equal(weight, before.get_parameter(name)), name
        assert result.metrics["trainable_parameters"] == tuned.num_parameters()

    def test_numbers_on_the_way(self, train: Train, workplace: Path) -> None:
        train(trainer={"eval_strategy": "epoch"})
        rows = map(json.loads, (workplace / "out/metrics.jsonl").read_text("utf-8").splitlines())
        assert [row["step"] for row in rows if "eval_loss" in row] == [3, 6, 9]

    def test_bfloat16(self, train: Train, workplace: Path) -> None:
        result = train(dtype="bfloat16")
        weights = load_file(workplace / "out" / "adapter" / "adapter_model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        exact = train("exact")
        assert result.metrics["heldout_loss"] == pytest.approx(
            exact.metrics["heldout_loss"], rel=0.05
        )

    def test_dialogues_longer_than_the_context(self, train: Train) -> None:
        with pytest.raises(UserError, match=r"sft\.max_length: 65 exceeds the context of 64"):
            train(max_length=65)

    def test_nobody_is_called(self, train: Train, monkeypatch) -> None:
        called: list[object] = []

        monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
        monkeypatch.delenv("CI", raising=False)  # where it is set, TRL calls nobody anyway
        monkeypatch.setattr(
            "trl.trainer.base_trainer.send_telemetry", lambda *a, **k: called.append(a)
        )
        train(trainer={"max_steps": 1})
        assert called == []


class TestSameBytes:
    def test_another_seed_gives_another_adapter(self, train: Train, workplace: Path) -> None:
        for folder, seed in (("a", 1), ("b", 2)):
            train(folder, seed=seed, trainer={"max_steps": 1})
        name = "adapter/adapter_model.safetensors"
        assert (workplace / "a" / name).read_bytes() != (workplace / "b" / name).read_bytes()

    def test_killed_and_run_again(
        self, train: Train, workplace: Path, kill_at, passes: list[int]
    ) -> None:
        whole = train("whole")
        for step in (2, 5, 7):
            with kill_at(step):
                train("killed")
        names = sorted(path.name for path in (workplace / "killed" / "checkpoints").iterdir())
        assert names == ["checkpoint-3", "checkpoint-6"]  # and no model card
        passes.clear()
        again = train("killed")
        assert passes[0] == 6  # it went on from the checkpoint
        assert folder_hash(workplace / "whole") == folder_hash(workplace / "killed")
        assert whole.metrics == again.metrics

    def test_killed_after_the_last_step(self, train: Train, workplace: Path, monkeypatch) -> None:
        settings = {"lora": None, "learning_rate": 1e-3, "epochs": 1}
        train("whole", **settings)

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(sft, "write_rows_atomic", killed)
            with pytest.raises(KeyboardInterrupt):
                train("killed", **settings)
        train("killed", **settings)
        assert folder_hash(workplace / "whole") == folder_hash(workplace / "killed")

    def test_packed_and_killed(self, train: Train, workplace: Path, kill_at) -> None:
        settings = {"packing": True, "batch_size": 2}
        train("whole", **settings)
        with kill_at(5):
            train("killed", **settings)
        train("killed", **settings)
        assert folder_hash(workplace / "whole") == folder_hash(workplace / "killed")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("max_length", 5, "is set by the stage itself"),
        ("packing", True, "is set by the stage itself"),
        ("assistant_only_loss", True, "is set by the stage itself"),
        ("learning_rate", 0.1, "is set by the stage itself"),
        ("los_type", "dft", "unknown argument; allowed: loss_type"),
    ],
)
def test_trainer_arguments(train: Train, name: str, value: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"sft\.trainer\.{name}: {complaint}"):
        train(trainer={name: value})


@pytest.fixture
def micro_batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Lengths of the dialogues in each micro-batch of what is trained."""
    seen: list[list[int]] = []
    step = sft.QuietSFTTrainer.training_step

    def noted(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        seen.append(inputs["attention_mask"].sum(-1).tolist())
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(sft.QuietSFTTrainer, "training_step", noted)
    return seen


def test_micro_batches_hold_dialogues_of_similar_lengths(
    train: Train, base: LoadedModel, micro_batches: list[list[int]]
) -> None:
    train(epochs=2, batch_size=6, gradient_accumulation=3)
    lengths = [len(ids) for ids in encoded(base.tokenizer).ids]
    # Ten rows: a step of three pairs and one of two, in each epoch.
    steps = [list(chain(*micro_batches[i:j])) for i, j in ((0, 3), (3, 5), (5, 8), (8, 10))]
    assert steps == [sorted(step, reverse=True) for step in steps]
    assert sorted(steps[0] + steps[1]) == sorted(steps[2] + steps[3]) == sorted(lengths)
    assert steps[:2] != steps[2:]


def test_the_order_within_a_step_changes_nothing_learnt(
    train: Train, workplace: Path, micro_batches: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"lora": LoraConfig(r=4, alpha=8), "batch_size": 5, "gradient_accumulation": 5}
    train("sorted", **settings)
    grouped = [micro_batches.pop(0) for _ in range(len(micro_batches))]
    monkeypatch.setattr("align.grouping.sorted", lambda rows, **_: rows, raising=False)
    train("unsorted", **settings)
    assert micro_batches != grouped
    one, other = (
        load_file(workplace / name / "adapter" / "adapter_model.safetensors")
        for name in ("sorted", "unsorted")
    )
    for key, weight in one.items():
        torch.testing.assert_close(weight, other[key], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"trainer": {"train_sampling_strategy": "sequential"}}, {"gradient_accumulation": 1}],
)
def test_steps_of_one_micro_batch_and_other_orders_are_the_trainers_own(
    train: Train, base: LoadedModel, micro_batches: list[list[int]], settings: Any
) -> None:
    train(epochs=1, **settings)
    lengths = [len(ids) for ids in encoded(base.tokenizer).ids]
    if "trainer" in settings:
        assert micro_batches == [lengths[i : i + 2] for i in range(0, 10, 2)]
    else:
        assert [len(batch) for batch in micro_batches] == [4, 4, 2]
        assert micro_batches != [sorted(batch, reverse=True) for batch in micro_batches]
        assert sorted(chain(*micro_batches)) == sorted(lengths)
