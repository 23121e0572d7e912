"""What `align data` shows of a run's sources."""

import json
from pathlib import Path

import pytest

from align import cli

WORDS = "one two three four five six seven eight nine ten"


def test_sources_with_rows_losses_example_and_overlap(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run.yaml").write_text(
        "name: tiny\n"
        "pretrain:\n"
        "  data: {path: train.jsonl, max_characters: 60}\n"
        "  eval_data: {path: held.jsonl}\n"
        "evals: {tasks: {t: {kind: perplexity, data: {path: held.jsonl}}}}\n"
    )
    train = [WORDS, "short", "x" * 61]
    # The first shares the eight words "two ... nine", the second only seven, the third none.
    held = [f"a {WORDS[4:-4]} b", "a two three four five six seven eight b", "c", "d"]
    for name, texts in (("train", train), ("held", held)):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        Path(f"{name}.jsonl").write_text(lines)
    assert cli.main(["data", "run.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pretrain.data: 2 rows of text from train.jsonl"
    assert lines[1].startswith("  left out  1 ")
    assert lines[2] == f'  example   {{"text": "{WORDS}"}}'
    assert lines[3] == "pretrain.eval_data: 4 rows of text from held.jsonl"
    assert lines[5] == "  overlap   1 rows (25.0%) share 8 words in a row with training"
    assert lines[6] == "evals.tasks.t.data: 4 rows of text from held.jsonl"
