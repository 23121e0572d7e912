"""What pydantic found wrong, in the words of a user: key, value, what is allowed, nearest key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError

ALLOWED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "text (quote a number or yes/no that is meant as text)",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number >= {ge}",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number <= {le}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text that matches {pattern}",
}
"""pydantic's type of a mistake -> what would have been right, filled with the error's context."""


class Mistake(NamedTuple):
    """One mistake in a configuration."""

    key: str
    """Dotted key; empty for the whole file."""
    what: str
    """What is wrong, with the value."""
    allowed: str
    """What would be right."""


def first_mistake(error: ValidationError, model: type[BaseModel], data: Any) -> Mistake:
    """The mistake to show: an unknown key if there is one, as it explains missing ones.

    Args:
        error: What validation of `data` raised.
        model: The model validated against.
        data: The plain containers that were validated.
    """
    details = sorted(error.errors(), key=lambda d: d["type"] != "extra_forbidden")
    keys = [".".join(_key(d["loc"], data, d["type"])) for d in details]
    key = keys[0]
    # The branches of a union complain about one value, each in its own way.
    same = [d for d, k in zip(details, keys, strict=True) if k == key]
    what, allowed = _explain(details[0], key.split("."), model)
    if len(same) > 1:
        allowed = " or ".join(dict.fromkeys(_explain(d, key.split("."), model)[1] for d in same))
    more = len({k for k in keys if k != key and not k.startswith(f"{key}.")})
    if more:
        what += f" (and {more} more {'mistake' if more == 1 else 'mistakes'})"
    return Mistake(key, what, allowed)


def describe(value: Any) -> str:
    """A value with its type, short enough for one line."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    kinds = {str: "text", int: "integer", float: "number", bool: "true/false", list: "list"}
    kind = kinds.get(type(value), "mapping" if isinstance(value, Mapping) else "null")
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kind})"


def nearest(name: str, names: Iterable[str], elsewhere: Sequence[str] = ()) -> str:
    """The closest valid name, else where that very name is valid, else the first dozen names."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6) or elsewhere[:3]
    if close:
        return f"{', '.join(close)} (nearest)"
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of the configuration; names that users choose appear as `<name>`."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        step = f"{name}.<name>." if _holds_many(field.annotation) else f"{name}."
        for inner in _models(field.annotation):
            keys += dotted_keys(inner, prefix + step)
    return keys


def _explain(detail: Any, key: Sequence[str], model: type[BaseModel]) -> tuple[str, str]:
    """(what is wrong, what is allowed) of one of pydantic's error records."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        valid = list(section_at(model, key[:-1]).model_fields)
        elsewhere = [k for k in dotted_keys(model) if k.split(".")[-1] == key[-1]]
        return f"unknown key {key[-1]!r}", nearest(key[-1], valid, elsewhere)
    if kind == "missing":
        field = section_at(model, key[:-1]).model_fields[key[-1]]
        return "is missing", (field.description or "").split("\n")[0].rstrip(".")
    if kind == "value_error":
        return str(context["error"]), ""
    allowed = ALLOWED.get(kind, detail["msg"])
    return describe(detail["input"]), allowed.format_map(context)


def _key(location: Sequence[str | int], data: Any, kind: str) -> list[str]:
    """The keys of the file along pydantic's location, which also names branches of unions."""
    keys: list[str] = []
    for i, part in enumerate(location):
        inside = (isinstance(data, Mapping) and part in data) or (
            isinstance(data, Sequence) and isinstance(part, int)
        )
        if inside:
            data = data[part]
        if inside or (kind == "missing" and i == len(location) - 1):
            keys.append(str(part))
    return keys


def section_at(model: type[BaseModel], keys: Sequence[str]) -> type[BaseModel]:
    """The model of the section at a dotted key, through optional, mapping and list types."""
    rest = list(keys)
    while rest:
        annotation = model.model_fields[rest.pop(0)].annotation
        inner = _models(annotation)
        if not inner:
            break
        model = inner[0]
        if rest and _holds_many(annotation):
            rest.pop(0)
    return model


def _holds_many(annotation: Any) -> bool:
    """Whether the type is a mapping or list, whose keys are not field names."""
    return any(get_origin(a) in (dict, tuple) for a in (annotation, *get_args(annotation)))


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models named anywhere in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models(arg)]
