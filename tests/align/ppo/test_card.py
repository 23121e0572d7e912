"""The model card beside a saved policy."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from align.ppo.trainer import PPOTrainer

Make = Callable[..., PPOTrainer]


def politeness(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text.split())) for text in completions]


def parts(card: str) -> tuple[dict[str, Any], str]:
    """Front matter, and the text behind it."""
    empty, front, text = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front), text


def rows_of(text: str) -> dict[str, list[str]]:
    """Cells of the card's table by their first column."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_a_card_says_what_was_trained_and_how_it_went(
    make_trainer: Make, make_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = make_model()
    model.config._name_or_path = "somebody/words-16"
    trainer = make_trainer(model=model, score=[politeness, lambda prompts, **_: [0.0] * 8])
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    front, text = parts((tmp_path / "saved" / "README.md").read_text())
    assert front["base_model"] == "somebody/words-16"
    assert front["library_name"] == "peft"
    assert "ppo" in front["tags"]
    assert "against politeness, <lambda>, starting from somebody/words-16" in text
    assert "2 updates of 8 responses, 2 epochs each, learning rate 0.01" in text
    assert "KL coefficient 0.05, clip range 0.2, temperature 1, seed 3" in text
    assert f"torch {version('torch')}" in text
    logged = [row for row in trainer.state.log_history if "update" in row]
    names = {
        "score": "score/mean",
        "KL to the reference, nats a response": "kl/k1",
        "entropy, nats a token": "policy/entropy",
        "length, tokens": "response/length",
    }
    table = rows_of(text)
    assert table.pop("metric") == ["first update", "last update"]
    assert table == {
        words: [f"{logged[0][name]:.4g}", f"{logged[-1][name]:.4g}"]
        for words, name in names.items()
    }
    assert table["score"][0] != table["score"][1]


def test_a_card_before_training_has_no_table(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(parts={"peft_config": None}, critic="head")
    trainer.save_model(str(tmp_path / "saved"))
    front, text = parts((tmp_path / "saved" / "README.md").read_text())
    assert front["library_name"] == "transformers"
    assert "base_model" not in front  # a model without a name
    assert "starting from unknown" in text
    assert "0 updates" in text
    assert rows_of(text) == {}


def test_every_checkpoint_has_its_card(make_trainer: Make, tmp_path: Path) -> None:
    make_trainer(checkpoint_updates=1).train()
    for number, updates in ((4, 1), (8, 2)):
        text = (tmp_path / "out" / f"checkpoint-{number}" / "README.md").read_text()
        assert f"{updates} updates of 8 responses" in text
