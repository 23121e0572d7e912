"""The library's definitions on the public slices and on rows whose prompts are written out here.

The prompts are those of lm-evaluation-harness 0.4.13.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from evals.definitions import library_names, read_definition
from evals.documents import Document, render_document

FILES = {
    "ag_news": "eval-ag-news/test.jsonl",
    "arc_challenge": "eval-arc-challenge/test.jsonl",
    "arc_easy": "eval-arc-easy/test.jsonl",
    "boolq": "eval-boolq/validation.jsonl.gz",
    "gsm8k": "eval-gsm8k/test.jsonl",
    "hellaswag": "eval-hellaswag/test.jsonl",
    "lambada": "eval-lambada/test.jsonl",
    "mmlu": "eval-mmlu/test.jsonl",
    "multi30k": "eval-multi30k/test_2016_flickr.jsonl",
    "piqa": "eval-piqa/validation.jsonl",
    "squad": "eval-squad-xquad-en/validation.jsonl",
    "sst2": "eval-sst2/test.jsonl",
    "truthfulqa_mc1": "eval-truthfulqa/test.jsonl",
    "truthfulqa_mc2": "eval-truthfulqa/test.jsonl",
    "wikitext": "pretrain-wikitext2/test_raw.jsonl",
    "xstest": "safety-xstest/prompts.jsonl",
}


def rendered(name: str, row: dict[str, Any]) -> Document:
    return render_document(read_definition(name), row, name)


def read_rows(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.decode("utf-8").split("\n") if line]


@pytest.mark.real_data
@pytest.mark.parametrize("name", library_names())
def test_rows_of_the_public_slices_render(name: str, shared_data: Path) -> None:
    rows = read_rows(shared_data / FILES[name])[:100]
    documents = [rendered(name, row) for row in rows]
    asks = read_definition(name).output_type != "loglikelihood_rolling"
    for row, document in zip(rows, documents, strict=True):
        assert bool(document.text.strip()) == asks, row
        assert all(document.targets), row
        assert "{" not in document.text or "{" in json.dumps(row)
    if documents[0].choices:
        assert {index for document in documents for index in document.gold} != {0} or (
            name == "truthfulqa_mc1"
        ), "the labels are not read"


@pytest.mark.real_data
def test_answers_of_the_public_slices_are_right(shared_data: Path) -> None:
    for row in read_rows(shared_data / FILES["arc_easy"]):
        (answer,) = rendered("arc_easy", row).targets
        labels = dict(zip(row["choices"]["label"], row["choices"]["text"], strict=True))
        assert answer == labels[row["answerKey"]]
    for row in read_rows(shared_data / FILES["lambada"]):
        document = rendered("lambada", row)
        assert document.text + document.targets[0] == row["text"]
    for row in read_rows(shared_data / FILES["truthfulqa_mc2"]):
        assert list(rendered("truthfulqa_mc2", row).targets) == list(
            dict.fromkeys(row["correct_answers"])
        ) or len(set(row["correct_answers"])) < len(row["correct_answers"])


CASES: list[tuple[str, dict[str, Any], Document]] = [
    (
        "arc_challenge",
        {
            "question": "Which?",
            "choices": {"text": ["x", "y's"], "label": ["1", "2"]},
            "answerKey": "2",
        },
        Document("Question: Which?\nAnswer:", ("x", "y's"), (1,), ("y's",)),
    ),
    (
        "piqa",
        {"goal": "Open it.", "sol1": "pull", "sol2": "push", "label": 1},
        Document("Question: Open it.\nAnswer:", ("pull", "push"), (1,), ("push",)),
    ),
    (
        "boolq",
        {"passage": "A b.", "question": "is it b", "label": False},
        Document("A b.\nQuestion: is it b?\nAnswer:", ("no", "yes"), (0,), ("no",)),
    ),
    (
        "mmlu",
        {"question": " Q? ", "choices": ["p", "q", "r", "s"], "answer": 2, "subject": "x"},
        Document("Q?\nA. p\nB. q\nC. r\nD. s\nAnswer:", ("A", "B", "C", "D"), (2,), ("C",)),
    ),
    (
        "hellaswag",
        {
            "activity_label": "Washing",
            "ctx_a": "[header] How to wash [title] Begin.",
            "ctx_b": "the man",
            "endings": ["[step] runs [x] off.", " waits [title] Go", "c", "d"],
            "label": "1",
        },
        # "[header] " leaves two spaces behind "Washing:", which become one.
        Document(
            "Washing: How to wash. Begin. The man",
            # A leading tag leaves its space: lm-evaluation-harness strips before, not after.
            (" runs off.", "waits. Go", "c", "d"),
            (1,),
            ("waits. Go",),
        ),
    ),
    (
        "hellaswag",
        {"ctx": "People run. the people", "endings": ["a", "b", "c", "d"], "label": 3},
        Document("People run. the people", ("a", "b", "c", "d"), (3,), ("d",)),
    ),
    (
        "lambada",
        {"text": "He sat down, tired"},
        Document("He sat down,", (), (), (" tired",)),
    ),
    (
        "gsm8k",
        {"question": "2 + 2?", "answer": "Two.\n#### 4"},
        Document("Question: 2 + 2?\nAnswer:", (), (), ("Two.\n#### 4",)),
    ),
    (
        "squad",
        {"title": "T", "context": "C.", "question": "Q?", "answers": {"text": ["a", "it's"]}},
        Document("Title: T\n\nBackground: C.\n\nQuestion: Q?\n\nAnswer:", (), (), ("a", "it's")),
    ),
    (
        "sst2",
        {"sentence": "fine", "label": 1},
        Document(
            "fine\nQuestion: Is this sentence positive or negative?\nAnswer:",
            ("negative", "positive"),
            (1,),
            ("positive",),
        ),
    ),
    (
        "multi30k",
        {"en": "A dog.", "de": "Ein Hund."},
        Document("English phrase: A dog.\nGerman phrase:", (), (), ("Ein Hund.",)),
    ),
]


@pytest.mark.parametrize(("name", "row", "expected"), CASES)
def test_prompts_written_out(name: str, row: dict[str, Any], expected: Document) -> None:
    assert rendered(name, row) == expected


def test_truthfulqa_begins_with_six_examples() -> None:
    row = {"question": "Why?", "best_answer": "b", "correct_answers": ["b", "c"]}
    row |= {"incorrect_answers": ["x", "y"]}
    one, many = rendered("truthfulqa_mc1", row), rendered("truthfulqa_mc2", row)
    assert one.text == many.text
    assert one.text.startswith(
        "Q: What is human life expectancy in the United States?\n"
        "A: Human life expectancy in the United States is 78 years.\n\n"
        "Q: Who was president of the United States in 1955?\nA: Dwight"
    )
    assert one.text.endswith("A: The 1992 Olympics were held in Barcelona, Spain.\n\nQ: Why?\nA:")
    assert one.text.count("\nA: ") == 6
    assert (one.choices, one.gold) == (("b", "x", "y"), (0,))
    assert (many.choices, many.gold) == (("b", "c", "x", "y"), (0, 1))


def test_mmlu_says_the_subject() -> None:
    from evals.shots import Asking

    row = {"question": "Q", "choices": list("pqrs"), "answer": 0, "subject": "abstract_algebra"}
    asking = Asking("mmlu", read_definition("mmlu"))
    (prompt,) = asking.prompts([row], asking.documents([row]))
    head = "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
    assert prompt == head + "Q\nA. p\nB. q\nC. r\nD. s\nAnswer:"


def test_wikitext_is_detokenised() -> None:
    # By hand from the rules: number and hyphen marks, punctuation, quotes, brackets, headings.
    # Two apostrophes are taken for quotes, as there.
    raw = (
        " = Head = \n The dogs ' well @-@ known 1 @,@ 000 @.@ 5 ( old ) [ x ] { y } , a ; b : c . "
        'He N said " hi " , really ? Yes ! \n = = Sub = = \n N dog \'s 5 \u00b0 C'
    )
    expected = (
        " = Head =\nThe dogs'well-known 1,000.5 (old) [x] {y}, a; b: c. "
        'He 1 said "hi", really? Yes!\n== Sub ==\nN dog\'s 5\u00b0C'
    )
    document = rendered("wikitext", {"text": raw})
    assert document.targets[0] == expected
