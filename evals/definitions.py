"""Task definitions: a YAML file a task, with lm-evaluation-harness's field names.

A definition says what is asked and what counts; where the rows are and how the model is asked
(examples, chat) is the run's business. Definitions that come with the package lie in
`evals/library`. Python functions in a definition are never run: Jinja2 in a sandbox says the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from align.complaints import first_mistake, nearest
from align.errors import UserError
from evals.schema import METRICS, Definition
from evals.templates import check_template

LIBRARY = Path(__file__).parent / "library"
NEEDED: Mapping[str, tuple[str, ...]] = {
    "multiple_choice": ("doc_to_choice",),
    "loglikelihood": ("doc_to_text",),
    "generate_until": ("doc_to_text",),
}
READ_BY: Mapping[str, str] = {
    "doc_to_choice": "multiple_choice",
    "doc_to_count": "loglikelihood_rolling",
    "generation_kwargs": "generate_until",
    "filter_list": "generate_until",
}
"""Fields that one output type alone reads."""
FUNCTIONS = ("process_docs", "process_results", "include", "custom_dataset", "unsafe_code")


def library_names() -> list[str]:
    """Names of the definitions that come with the package."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def is_file(name: str) -> bool:
    """Whether a definition is named by its file, not by its name in the library."""
    return name.endswith((".yaml", ".yml"))


def read_definition(name: str) -> Definition:
    """Read and check a definition.

    Args:
        name: A name in the library, or a file (`.yaml`).

    Raises:
        UserError: There is none, or the first fault: file, field, value, what is allowed.
    """
    path = Path(name) if is_file(name) else LIBRARY / f"{name}.yaml"
    if not is_file(name) and name not in library_names():
        raise UserError(
            f"no task definition is called {name!r}",
            allowed=f"a .yaml file, or {nearest(name, library_names())}",
            remedy=f"the library has {', '.join(library_names())}",
        )
    data = _read(path)
    for key in FUNCTIONS:
        if key in data:
            raise UserError(
                "python functions and included files are not read",
                where=f"{path}: {key}",
                remedy="write the whole definition, with Jinja2 templates",
            )
    try:
        definition = Definition.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        key, what, allowed = first_mistake(error, Definition, data)
        raise UserError(
            what, where=f"{path}: {key}" if key else str(path), allowed=allowed
        ) from error
    _check(definition, path)
    return definition


def _read(path: Path) -> dict[str, Any]:
    """The file's mapping.

    Raises:
        UserError: It cannot be read or is no YAML mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the definition ({error.strerror})", where=str(path)
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(
            f"not valid YAML ({getattr(error, 'problem', None) or error})",
            where=where,
            remedy="tags such as !function are not read" if "tag" in str(error) else "",
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"holds a {type(data).__name__}", where=str(path), allowed="a YAML mapping")
    return data


def _check(definition: Definition, path: Path) -> None:
    """Refuse fields that do not go together.

    Raises:
        UserError: The first that does not.
    """
    output = definition.output_type
    for key in NEEDED.get(output, ()):
        if not getattr(definition, key):
            raise UserError(
                f"{output} needs it", where=f"{path}: {key}", allowed="column, template"
            )
    for key, reader in READ_BY.items():
        if key in definition.model_fields_set and output != reader:
            raise UserError(f"is never read by {output}", where=f"{path}: {key}", allowed=reader)
    _check_target(definition, path)
    _check_metrics(definition, path)
    _check_generation(definition, path)
    for key, source in _templates(definition):
        check_template(source, f"{path}: {key}")


def _check_target(definition: Definition, path: Path) -> None:
    """An index needs choices."""
    target, where = definition.doc_to_target, f"{path}: doc_to_target"
    if isinstance(target, int) and definition.output_type != "multiple_choice":
        raise UserError(f"{target} is an index", where=where, allowed="column, template")
    if target == "":
        raise UserError(f"{target!r}", where=where, allowed="column, template, index")
    choices = definition.doc_to_choice
    if isinstance(choices, tuple):
        if len(choices) < 2 or len(set(choices)) < len(choices) or not all(choices):
            raise UserError(
                f"choices are {list(choices)}",
                where=f"{path}: doc_to_choice",
                allowed="two or more different texts",
            )
        if isinstance(target, int) and not 0 <= target < len(choices):
            raise UserError(f"{target}", where=where, allowed=f"0 to {len(choices) - 1}")


def _check_metrics(definition: Definition, path: Path) -> None:
    """Known metrics, each once, in their own direction."""
    known = METRICS[definition.output_type]
    if not definition.metric_list:
        raise UserError("is empty", where=f"{path}: metric_list", allowed=", ".join(known))
    seen: set[str] = set()
    for index, entry in enumerate(definition.metric_list):
        where = f"{path}: metric_list.{index}"
        if entry.metric not in known:
            raise UserError(
                f"{entry.metric!r} is no metric of {definition.output_type}",
                where=f"{where}.metric",
                allowed=nearest(entry.metric, known),
            )
        if entry.metric in seen:
            raise UserError(f"{entry.metric!r} is there twice", where=f"{where}.metric")
        seen.add(entry.metric)
        aggregation, higher = known[entry.metric]
        if entry.aggregation not in (None, aggregation):
            raise UserError(
                f"{entry.aggregation!r}", where=f"{where}.aggregation", allowed=aggregation
            )
        if entry.higher_is_better not in (None, higher):
            raise UserError(
                f"{entry.higher_is_better}", where=f"{where}.higher_is_better", allowed=str(higher)
            )
        options = entry.model_fields_set - {"metric", "aggregation", "higher_is_better"}
        if options and entry.metric != "exact_match":
            raise UserError(f"{min(options)} is read by exact_match only", where=where)
        for pattern in entry.regexes_to_ignore:
            _check_regex(pattern, f"{where}.regexes_to_ignore")


def _check_generation(definition: Definition, path: Path) -> None:
    """Decoding and filters."""
    made = definition.generation
    if made.do_sample != (made.temperature > 0):
        raise UserError(
            f"temperature {made.temperature:g} with do_sample {str(made.do_sample).lower()}",
            where=f"{path}: generation_kwargs",
            allowed="do_sample with a temperature above 0, or neither",
        )
    if made.until is not None and not all(made.until):
        raise UserError("an empty text", where=f"{path}: generation_kwargs.until")
    names = [entry.name for entry in definition.filter_list]
    if len(set(names)) < len(names) or not all(names):
        raise UserError(
            f"names are {names}", where=f"{path}: filter_list", allowed="different names"
        )
    for number, entry in enumerate(definition.filter_list):
        for index, step in enumerate(entry.filter):
            where = f"{path}: filter_list.{number}.filter.{index}"
            if (step.regex_pattern is not None) != (step.function == "regex"):
                raise UserError(
                    f"{step.function} with regex_pattern {step.regex_pattern!r}",
                    where=where,
                    allowed="a regex_pattern for regex alone",
                )
            if step.regex_pattern is not None:
                _check_regex(step.regex_pattern, f"{where}.regex_pattern")


def _check_regex(pattern: str, where: str) -> None:
    """Refuse what `re` cannot read."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{pattern!r}: {error}", where=where, allowed="a regular expression"
        ) from error


def _templates(definition: Definition) -> Iterator[tuple[str, str]]:
    """(field, source) of everything that may be a template."""
    keys = ("description", "doc_to_text", "doc_to_choice", "doc_to_target", "doc_to_count")
    for key in keys:
        source = getattr(definition, key)
        if isinstance(source, str):
            yield key, source
