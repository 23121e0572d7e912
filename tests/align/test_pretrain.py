"""Pretraining: blocks by hand, the best weights kept, and the same bytes whatever happens."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from align import pretrain
from align.artifacts import StageJob
from align.config import ArchitectureConfig, PretrainConfig, RunConfig, SourceConfig
from align.data.sources import DataContext
from align.errors import UserError
from align.files import folder_hash
from align.models import ModelReference, build_model, load_model
from align.pretrain import Packed, blocks_seen, pack_blocks, train_pretrain
from align.progress import NullProgress
from align.training import is_over, log_steps

SENTENCES = [
    f"{name} {verb} the {thing} ."
    for name in ("anna", "paul", "maria", "the cat")
    for verb in ("takes", "likes", "sells")
    for thing in ("red box", "blue bell", "small boat", "radio", "lamp")
]
Train = Callable[..., Any]


@pytest.fixture
def train(workplace: Path) -> Train:
    """Run the stage into a folder with some settings changed; returns its result."""
    lines = [json.dumps({"text": sentence}) for sentence in SENTENCES]
    (workplace / "text.jsonl").write_text("\n".join(lines), "utf-8")
    architecture = ArchitectureConfig(
        hidden_size=32,
        layers=2,
        heads=2,
        intermediate_size=64,
        vocab_size=300,
        context=32,
        dropout=0.1,
    )

    def run(folder: str = "out", seed: int = 1, **settings: Any) -> Any:
        defaults = {
            "data": SourceConfig(path="text.jsonl"),
            "architecture": architecture,
            "epochs": 2,
            "learning_rate": 1e-2,
            "batch_size": 4,
            "gradient_accumulation": 2,
            "max_length": 16,
            "checkpoint_steps": 4,
        }
        section = PretrainConfig(**{**defaults, **settings})
        config = RunConfig(name="t", seed=seed, device="cpu", pretrain=section)
        place = workplace / folder
        place.mkdir(exist_ok=True)
        job = StageJob(place, {}, DataContext(workplace, None, seed), NullProgress())
        return train_pretrain(config, job)

    return run


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[Packed]:
    """What the stage packs: training text, then held-out text."""
    kept: list[Packed] = []

    def pack(*arguments: Any) -> Packed:
        kept.append(pack_blocks(*arguments))
        return kept[-1]

    monkeypatch.setattr(pretrain, "pack_blocks", pack)
    return kept


def logged(folder: Path, key: str) -> dict[int, float]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    return {row["step"]: row[key] for row in rows if key in row}


class TestBlocks:
    def test_documents_stand_between_bos_and_eos(self, bytes_tokenizer) -> None:
        a, b, c = (ord(char) - 0x21 + 6 for char in "abc")
        packed = pack_blocks(bytes_tokenizer, ["ab", "c", "abc"], 4)
        # 1 a b 2 | 1 c 2 1 | a b c 2
        assert packed.blocks.tolist() == [[1, a, b, 2], [1, c, 2, 1], [a, b, c, 2]]
        assert packed.left_over == 0
        packed = pack_blocks(bytes_tokenizer, ["ab", "c"], 4)
        assert packed.blocks.tolist() == [[1, a, b, 2]]
        assert packed.left_over == 3

    def test_special_tokens_in_a_text_are_text(self, bytes_tokenizer) -> None:
        packed = pack_blocks(bytes_tokenizer, ["<|end|>"], 9)
        assert packed.blocks[0].tolist() == [1, *(6 + ord(c) - 0x21 for c in "<|end|>"), 2]


def test_blocks_seen() -> None:
    # 10 blocks an epoch: batches of 4, 4 and 2
    assert [blocks_seen(steps, 10, 4) for steps in (0, 1, 2, 3, 4, 6)] == [0, 4, 8, 10, 14, 20]


@pytest.mark.parametrize(
    ("losses", "patience", "over"),
    [
        ([], 1, False),
        ([3.0], 1, False),
        ([3.0, 2.0], 1, False),
        ([3.0, 3.0], 1, True),  # not lower is not better
        ([3.0, 4.0, 2.0, 2.5], 2, False),
        ([3.0, 2.0, 2.5, 2.1], 2, True),
        ([3.0, math.nan, math.nan], 2, True),
        ([3.0, 4.0, 5.0], None, False),
    ],
)
def test_patience(losses: list[float], patience: int | None, over: bool) -> None:
    history = [{"loss": 1.0}, *({"eval_loss": loss} for loss in losses)]
    assert is_over(history, patience) is over


def test_log_lines_fall_due_at_checkpoints() -> None:
    for steps in range(1, 300):
        assert steps % log_steps(steps) == 0
    assert log_steps(100) == 10
    assert log_steps(97) == 1
    assert log_steps(5) == 1


class TestTraining:
    def test_it_learns_and_reports_what_it_did(
        self, train: Train, workplace: Path, packed: list[Packed]
    ) -> None:
        result = train(epochs=5)
        out = workplace / "out"
        vocabulary = result.metrics["vocabulary"]
        assert result.metrics["heldout_loss"] < math.log(vocabulary) - 2
        perplexity = math.exp(result.metrics["heldout_loss"])
        assert result.metrics["heldout_perplexity"] == pytest.approx(perplexity)
        assert result.metrics["tokens_seen"] == 5 * packed[0].blocks.numel()
        assert result.model == {"base": "model", "adapters": []}
        assert result.data[0]["rows"] == len(SENTENCES)
        assert sorted(p.name for p in out.iterdir()) == ["metrics.jsonl", "model", "samples.jsonl"]
        samples = (out / "samples.jsonl").read_text("utf-8").splitlines()
        assert {"prompt", "response", "reference"} == set(json.loads(samples[0]))

    def test_the_final_loss_is_that_of_the_saved_model(
        self, train: Train, workplace: Path, packed: list[Packed]
    ) -> None:
        result = train()
        model = load_model(ModelReference(str(workplace / "out" / "model"))).model
        blocks = packed[1].blocks
        with torch.no_grad():
            logprobs = model(input_ids=blocks).logits.double().log_softmax(-1)
        chosen = logprobs[:, :-1].gather(-1, blocks[:, 1:, None])
        assert result.metrics["heldout_loss"] == pytest.approx(-chosen.mean().item(), abs=1e-5)

    def test_the_best_weights_are_kept(self, train: Train, workplace: Path) -> None:
        # a rate that overshoots after a while: the best evaluation is not the last
        result = train(epochs=4, learning_rate=0.2, warmup=1.0, patience=None)
        losses = logged(workplace / "out", "eval_loss")
        assert min(losses.values()) < losses[max(losses)] - 0.01
        assert result.metrics["heldout_loss"] == pytest.approx(min(losses.values()), abs=1e-5)

    def test_patience_ends_training(self, train: Train, workplace: Path) -> None:
        result = train(epochs=20, learning_rate=0.5, warmup=1.0, patience=2)
        losses = list(logged(workplace / "out", "eval_loss").values())
        assert losses.index(min(losses)) == len(losses) - 3
        assert result.metrics["steps"] == 4 * len(losses)

    def test_trainer_arguments_reach_the_trainer(self, train: Train) -> None:
        assert train(trainer={"max_steps": 3}).metrics["steps"] == 3

    def test_the_caller_s_random_numbers_stay(self, train: Train) -> None:
        torch.manual_seed(0)
        expected = torch.rand(2)
        torch.manual_seed(0)
        train(trainer={"max_steps": 2})
        assert torch.equal(torch.rand(2), expected)


class TestSameBytes:
    def test_another_seed_gives_another_model(self, train: Train, workplace: Path) -> None:
        for folder, seed in (("a", 1), ("b", 2)):
            train(folder, seed=seed, trainer={"max_steps": 2})
        for name in ("model/model.safetensors", "samples.jsonl"):
            assert (workplace / "a" / name).read_bytes() != (workplace / "b" / name).read_bytes()

    def test_killed_and_run_again(
        self, train: Train, workplace: Path, kill_at, passes: list[int]
    ) -> None:
        whole = train("whole")
        # before any checkpoint, at one, after one, again, past the first epoch
        for step in (2, 4, 7, 9):
            with kill_at(step):
                train("killed")
        steps = sorted(p.name for p in (workplace / "killed" / "checkpoints").iterdir())
        assert steps[-1] == "checkpoint-8"
        passes.clear()
        again = train("killed")
        assert passes[0] == 8  # it went on from the checkpoint
        assert folder_hash(workplace / "whole") == folder_hash(workplace / "killed")
        assert whole.metrics == again.metrics
        for key in ("loss", "eval_loss"):
            assert logged(workplace / "whole", key) == logged(workplace / "killed", key)

    @pytest.mark.parametrize("patience", [1, None])
    def test_killed_after_the_last_step(
        self,
        train: Train,
        workplace: Path,
        monkeypatch,
        passes: list[int],
        patience: int | None,
    ) -> None:
        settings = {"learning_rate": 0.5, "warmup": 1.0, "patience": patience}
        whole = train("whole", **settings)

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pretrain, "save_model", killed)
            with pytest.raises(KeyboardInterrupt):
                train("killed", **settings)
        passes.clear()
        again = train("killed", **settings)
        assert passes == []  # nothing was left to train
        assert whole.metrics == again.metrics
        assert folder_hash(workplace / "whole") == folder_hash(workplace / "killed")

    def test_a_save_that_was_cut_short_is_not_used(
        self, train: Train, workplace: Path, monkeypatch, passes: list[int]
    ) -> None:
        train("whole")
        save = Trainer._save_optimizer_and_scheduler
        calls = []

        def cut(self: Trainer, folder: str) -> None:
            calls.append(folder)
            if len(calls) == 2:
                raise KeyboardInterrupt
            save(self, folder)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_save_optimizer_and_scheduler", cut)
            with pytest.raises(KeyboardInterrupt):
                train("killed")
        assert (workplace / "killed/checkpoints/checkpoint-8/model.safetensors").is_file()
        passes.clear()
        train("killed")
        assert passes[0] == 4
        assert folder_hash(workplace / "whole") == folder_hash(workplace / "killed")


class TestMistakes:
    def test_blocks_longer_than_the_context(self, train: Train) -> None:
        with pytest.raises(UserError, match=r"pretrain\.max_length: 33 exceeds the context of 32"):
            train(max_length=33)

    def test_too_little_text(self, train: Train) -> None:
        with pytest.raises(UserError, match=r"fills .* blocks of 32 tokens"):
            train(max_length=32, batch_size=100)

    @pytest.mark.parametrize(
        ("name", "value", "complaint"),
        [
            ("seed", 3, "is set by the stage itself"),
            ("learning_rate", 0.1, "is set by the stage itself"),
            ("output_dir", "x", "is set by the stage itself"),
            ("eval_steps", 3, "is set by the stage itself"),
            ("adam_beta", 0.5, "unknown argument; allowed: adam_beta"),
        ],
    )
    def test_trainer_arguments(self, train: Train, name: str, value: Any, complaint: str) -> None:
        with pytest.raises(UserError, match=rf"pretrain\.trainer\.{name}: {complaint}"):
            train(trainer={name: value})

    def test_training_that_diverges(self, train: Train, monkeypatch) -> None:
        def broken(*arguments: Any) -> Any:
            model = build_model(*arguments)
            model.model.norm.weight.data.fill_(math.nan)
            return model

        monkeypatch.setattr(pretrain, "build_model", broken)
        with pytest.raises(UserError, match="held-out loss was never finite"):
            train(trainer={"max_steps": 2})
