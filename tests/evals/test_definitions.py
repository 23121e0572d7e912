"""Definitions: what is read, and one clear line for every fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from align.errors import UserError
from evals.definitions import library_names, read_definition

GOOD: dict[str, Any] = {
    "task": "mine",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": ["a", "b"],
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}],
}
ASKED: dict[str, Any] = {
    "task": "mine",
    "output_type": "generate_until",
    "doc_to_text": "question",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "exact_match"}],
}
ROLLING: dict[str, Any] = {
    "task": "mine",
    "output_type": "loglikelihood_rolling",
    "doc_to_target": "text",
    "metric_list": [{"metric": "word_perplexity"}],
}


def written(folder: Path, content: dict[str, Any] | str) -> str:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), "utf-8")
    return str(path)


def test_the_library_is_complete() -> None:
    choices = {"arc_easy", "arc_challenge", "hellaswag", "piqa", "boolq", "mmlu", "sst2", "ag_news"}
    choices |= {"truthfulqa_mc1", "truthfulqa_mc2"}
    others = {"lambada", "wikitext", "gsm8k", "squad", "multi30k", "xstest"}
    assert set(library_names()) == choices | others
    for name in library_names():
        assert read_definition(name).task == name


def test_defaults_are_those_of_lm_evaluation_harness(tmp_path: Path) -> None:
    definition = read_definition(written(tmp_path, ASKED))
    assert (definition.target_delimiter, definition.fewshot_delimiter) == (" ", "\n\n")
    assert definition.stops == ("\n\n",)
    assert definition.generation.max_gen_toks == 256
    assert not definition.generation.do_sample
    none = read_definition(written(tmp_path, ASKED | {"generation_kwargs": {"until": []}}))
    assert none.stops == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD | {"doc_to_txt": "x"}, "unknown key 'doc_to_txt'; allowed: doc_to_text (nearest)"),
        (GOOD | {"num_fewshot": "5"}, 'num_fewshot: "5" (text); allowed: an integer'),
        (GOOD | {"num_fewshot": -1}, "num_fewshot: -1 (integer); allowed: a number >= 0"),
        (GOOD | {"output_type": "generate"}, 'output_type: "generate" (text); allowed: '),
        (GOOD | {"metric_list": [{"metric": "acc_nrm"}]}, "metric_list.0.metric: 'acc_nrm' is no "),
        (GOOD | {"metric_list": [{"metric": "acc_nrm"}]}, "allowed: acc_norm (nearest)"),
        (GOOD | {"metric_list": []}, "metric_list: is empty"),
        (
            GOOD | {"metric_list": [{"metric": "acc"}] * 2},
            "metric_list.1.metric: 'acc' is there tw",
        ),
        (
            GOOD | {"metric_list": [{"metric": "acc", "aggregation": "median"}]},
            "metric_list.0.aggregation: 'median'; allowed: mean",
        ),
        (
            GOOD | {"metric_list": [{"metric": "acc", "higher_is_better": False}]},
            "metric_list.0.higher_is_better: False; allowed: True",
        ),
        (
            GOOD | {"metric_list": [{"metric": "acc", "ignore_case": True}]},
            "ignore_case is read by exact_match only",
        ),
        (GOOD | {"doc_to_choice": [False, True]}, "quote a number or yes/no that is meant as text"),
        (GOOD | {"doc_to_choice": ["a", "a"]}, "doc_to_choice: choices are ['a', 'a']"),
        (GOOD | {"doc_to_target": 2}, "doc_to_target: 2; allowed: 0 to 1"),
        ({**GOOD, "doc_to_choice": ""}, "doc_to_choice: multiple_choice needs it"),
        (GOOD | {"doc_to_text": "{{question"}, "doc_to_text: '{{question': unexpected"),
        (GOOD | {"filter_list": []}, "filter_list: is never read by multiple_choice"),
        (GOOD | {"process_docs": "x"}, "process_docs: python functions and included files are not"),
        (GOOD | {"include": "other.yaml"}, "include: python functions and included files are not"),
        (ASKED | {"doc_to_target": 0}, "doc_to_target: 0 is an index"),
        (ASKED | {"generation_kwargs": {"do_sample": True}}, "temperature 0 with do_sample true"),
        (ASKED | {"generation_kwargs": {"temperature": 1.0}}, "temperature 1 with do_sample false"),
        (ASKED | {"generation_kwargs": {"until": [""]}}, "generation_kwargs.until: an empty text"),
        (
            ASKED | {"generation_kwargs": {"top_p": 1.0}},
            "generation_kwargs.top_p: unknown key 'top_p'",
        ),
        (
            ASKED | {"filter_list": [{"name": "a", "filter": [{"function": "regex"}]}]},
            "filter_list.0.filter.0: regex with regex_pattern None",
        ),
        (
            ASKED
            | {
                "filter_list": [
                    {"name": "a", "filter": [{"function": "regex", "regex_pattern": "(a"}]}
                ]
            },
            "regex_pattern: '(a': missing ), unterminated subpattern",
        ),
        (
            ASKED | {"metric_list": [{"metric": "exact_match", "regexes_to_ignore": ["["]}]},
            "metric_list.0.regexes_to_ignore: '[': unterminated character set",
        ),
        (ROLLING | {"doc_to_choice": ["a", "b"]}, "doc_to_choice: is never read by loglik"),
        ("- a\n- b\n", "holds a list; allowed: a YAML mapping"),
        ("task: [\n", "mine.yaml:2: not valid YAML"),
        ("task: x\nprocess_docs: !function utils.f\n", "mine.yaml:2: not valid YAML"),
    ],
)
def test_faults_name_file_field_and_what_is_allowed(
    tmp_path: Path, content: dict[str, Any] | str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        read_definition(written(tmp_path, content))
    assert message in str(error.value)
    assert "mine.yaml" in str(error.value)


def test_unknown_names_and_missing_files() -> None:
    with pytest.raises(UserError, match=r"no task definition is called 'arc_eazy'.*arc_easy \(nea"):
        read_definition("arc_eazy")
    with pytest.raises(UserError, match=r"no task definition is called '\.\./schema'"):
        read_definition("../schema")
    with pytest.raises(UserError, match=r"gone\.yaml: cannot read the definition"):
        read_definition("gone.yaml")
