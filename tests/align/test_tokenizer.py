"""The trained tokenizer: merges by hand, byte-exact round trips, equal bytes every time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer

from align.tokenizer import SPECIAL_TOKENS, train_tokenizer


def merges(tokenizer) -> list[list[str]]:
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]


def test_special_tokens_come_first(bytes_tokenizer) -> None:
    assert bytes_tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4, 5]
    assert bytes_tokenizer.pad_token_id == 0
    assert bytes_tokenizer.bos_token_id == 1
    assert bytes_tokenizer.eos_token_id == 2
    assert len(bytes_tokenizer) == 6 + 256


def test_merges_are_the_most_frequent_pairs() -> None:
    # "abab" four times: pairs ab 8, ba 4. After ab is merged: (ab, ab) 4.
    # "xy" once: pair xy 1, which comes last.
    tokenizer = train_tokenizer(["abab abab", "abab", "abab", "xy"], 265)
    assert merges(tokenizer)[:2] == [["a", "b"], ["ab", "ab"]]
    assert len(tokenizer) == 265


def test_a_short_text_gives_fewer_tokens() -> None:
    assert len(train_tokenizer(["ab"], 1000)) == 6 + 256 + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.characters(codec="utf-8")))
def test_any_text_survives(tiny_tokenizer, text: str) -> None:
    ids = tiny_tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tiny_tokenizer.decode(ids) == text


def test_saved_and_loaded_it_is_the_same(tiny_tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "the big cat"}]
    for tokenizer in (tiny_tokenizer, loaded):
        assert tokenizer("the big cat")["input_ids"][0] == 1
        assert tokenizer.padding_side == "left"
        assert tokenizer.pad_token == "<|pad|>"
    text = "anna likes the red box ?"
    assert loaded(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    rendered = loaded.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|begin|><|user|>the big cat<|end|><|assistant|>"


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    text = (Path(__file__).parent / "test_encoding.py").read_text("utf-8")
    here, there = tmp_path / "here", tmp_path / "there"
    code = (
        "import sys; from align.tokenizer import train_tokenizer; "
        "train_tokenizer(sys.stdin.read().splitlines(), 500).save_pretrained(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(there)]
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    subprocess.run(command, input=text, text=True, check=True, env=environment)
    train_tokenizer(text.splitlines(), 500).save_pretrained(here)
    names = sorted(path.name for path in here.iterdir())
    assert names == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        assert (here / name).read_bytes() == (there / name).read_bytes()


def test_an_unknown_role_is_refused(bytes_tokenizer) -> None:
    with pytest.raises(TemplateError, match="unknown role robot"):
        bytes_tokenizer.apply_chat_template([{"role": "robot", "content": ""}], tokenize=False)
