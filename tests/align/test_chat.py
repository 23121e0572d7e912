"""Conversations: the model sees all that was said, and answers as transformers would."""

from pathlib import Path

import pytest

from align import cli
from align.chat import ChatSettings, Conversation
from align.config import ArchitectureConfig
from align.models import build_model, load_model, save_model
from align.references import resolve_reference
from align.tokenizer import train_tokenizer

TEXTS = ["hello , how are you ?", "fine , thank you ."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(TEXTS, 300)
    size = ArchitectureConfig(
        hidden_size=16, layers=1, heads=2, intermediate_size=16, vocab_size=300
    )
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_model(build_model(size, tokenizer, seed=1), tokenizer, path)
    return path


def greedy(folder: Path, messages: list[dict[str, str]]) -> str:
    """transformers' own chat template and greedy search."""
    model, tokenizer, _ = load_model(resolve_reference(str(folder)), device="cpu")
    batch = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**batch, do_sample=False, max_new_tokens=8)
    return str(tokenizer.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True))


def test_each_answer_follows_from_all_before_it(folder: Path) -> None:
    conversation = Conversation(str(folder), ChatSettings(temperature=0, max_tokens=8))
    for text in TEXTS:
        asked = [*conversation.messages, {"role": "user", "content": text}]
        expected = greedy(folder, asked)
        assert conversation.answer(text) == expected
        assert conversation.messages == [*asked, {"role": "assistant", "content": expected}]


def test_the_command_prints_one_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["chat", str(folder), "--prompt", TEXTS[0], "--temperature", "0"]
    assert cli.main([*arguments, "--max-tokens", "8"]) == 0
    expected = greedy(folder, [{"role": "user", "content": TEXTS[0]}])
    assert capsys.readouterr().out == expected + "\n"


def test_a_seed_repeats_a_sampled_answer(folder: Path) -> None:
    def answer(seed: int) -> str:
        settings = ChatSettings(temperature=2.0, max_tokens=16, seed=seed)
        return Conversation(str(folder), settings).answer(TEXTS[0])

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(4)}) > 1
