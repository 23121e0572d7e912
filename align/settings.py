"""From a YAML file and `key=value` overrides to a validated `RunConfig`.

OmegaConf reads and resolves, pydantic validates, strictly (the text "16" is no number). Every
mistake is one line that names file and line, key, value and what is allowed. Run as a module it
writes the JSON schema that editors complete and check configurations with.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from align.complaints import describe, first_mistake, nearest
from align.config import RunConfig, TaskConfig
from align.errors import UserError
from align.files import json_hash, write_text_atomic

MAX_BYTES = 1_000_000
"""No configuration is longer; a longer file is data named by mistake."""
MAX_KEYS = 10_000
OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+|\[\d+\])*=")
SCHEMA = Path("configs/schema.json")


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, resolve and validate a run.

    Relative `data.root`, `model.base`, `model.adapters` and files of task definitions come back
    relative to the working directory.

    Args:
        path: YAML file.
        overrides: `dotted.key=value` each; the value is YAML.

    Raises:
        UserError: for the first mistake, telling how many more there are.
    """
    return parse_run(Path(path), _read(Path(path)), overrides)


def parse_run(path: Path, source: str, overrides: Sequence[str]) -> RunConfig:
    """The same of the text of a file; its relative paths start from the folder of `path`.

    Raises:
        UserError: As `load_run`.
    """
    lines = _key_lines(path, source)
    text = json.dumps(_resolve(path, source, overrides), default=repr)
    try:
        # JSON mode is strict about numbers and still takes a list for a tuple.
        config = RunConfig.model_validate_json(text, strict=True)
    except ValidationError as error:
        key, what, allowed = first_mistake(error, RunConfig, json.loads(text))
        place = _place(path, key, lines, overrides)
        where = f"{place}: {key}" if key else place
        raise UserError(what, where=where, allowed=allowed) from error
    return _locate(config, path)


def config_hash(*sections: BaseModel | Mapping[str, Any] | None) -> str:
    """SHA-256 of sections as canonical JSON; the order of keys does not matter."""
    return json_hash(
        [s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections]
    )


def config_schema() -> dict[str, Any]:
    """JSON schema of a run's YAML."""
    return RunConfig.model_json_schema()


def uses_network(config: RunConfig) -> bool:
    """Whether the run names anything on the hub."""
    names = [config.model.base, *config.model.adapters] if config.model else []
    functions = [f for term in (config.ppo.rewards if config.ppo else ()) for f in term.nested()]
    names += [str(f.options["model"]) for f in functions if "model" in f.options]
    return any(not Path(name).exists() for name in names) or _names_hub(config.model_dump())


def check_trainer_arguments(
    section: str,
    given: Mapping[str, Any],
    arguments: type,
    reserved: Collection[str] = (),
) -> None:
    """Check further trainer arguments against the trainer's own dataclass.

    Args:
        section: Dotted key of the mapping, such as `sft.trainer`.
        given: The mapping.
        arguments: Dataclass such as `trl.SFTConfig`.
        reserved: Names the stage sets itself, which therefore may not be given.

    Raises:
        UserError: for an unknown, reserved or mistyped argument.
    """
    hints = typing.get_type_hints(arguments)
    names = [f.name for f in fields(arguments) if f.init and f.name not in reserved]
    for name, value in given.items():
        where = f"{section}.{name}"
        if name in reserved:
            raise UserError("is set by the stage itself", where=where, remedy="remove it")
        if name not in names:
            raise UserError("unknown argument", where=where, allowed=nearest(name, names))
        check_value(where, value, hints[name])


def check_value(where: str, value: Any, hint: Any) -> None:
    """Check a value of the configuration against a type, strictly.

    Raises:
        UserError: It has another type.
    """
    try:
        adapter = TypeAdapter(hint, config={"arbitrary_types_allowed": True})
        adapter.validate_json(json.dumps(value), strict=True)
    except PydanticSchemaGenerationError:
        return  # a type that only its reader can check
    except ValidationError as error:
        allowed = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise UserError(describe(value), where=where, allowed=allowed) from error


def _names_hub(node: Any) -> bool:
    """Whether a source anywhere in the dumped configuration names a hub dataset."""
    if not isinstance(node, dict):
        return False
    return isinstance(node.get("hub"), str) or any(map(_names_hub, node.values()))


def _read(path: Path) -> str:
    """The file's text."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(
                f"{size:,} bytes are no configuration",
                where=str(path),
                allowed=f"at most {MAX_BYTES:,} bytes",
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read the configuration ({error.strerror})",
            where=str(path),
            allowed="a YAML file, such as configs/quickstart.yaml",
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text ({error})", where=str(path)) from error


def _key_lines(path: Path, text: str) -> dict[str, int]:
    """Dotted key -> line number in the file, counted from 1; checks that it is YAML."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            raise UserError("the file is empty", where=str(path), allowed="a YAML mapping")
        if not isinstance(root, yaml.MappingNode):
            kind = "list" if isinstance(root, yaml.SequenceNode) else "single value"
            raise UserError(f"holds a {kind}", where=str(path), allowed="a YAML mapping")
        lines = dict(itertools.islice(_walk(root, ""), MAX_KEYS + 1))
    except yaml.YAMLError as error:
        raise _yaml_error(path, error) from error
    except RecursionError as error:
        raise UserError("nested too deeply", where=str(path)) from error
    if len(lines) > MAX_KEYS:  # aliases of aliases grow a short file without bounds
        raise UserError("too many keys", where=str(path), allowed=f"at most {MAX_KEYS:,}")
    return lines


def _walk(node: yaml.Node, prefix: str) -> typing.Iterator[tuple[str, int]]:
    """Yield (dotted key, line) for every key below `node`."""
    pairs: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        pairs = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(str(i), value, value) for i, value in enumerate(node.value)]
    for name, at, value in pairs:
        key = f"{prefix}.{name}" if prefix else name
        yield key, at.start_mark.line + 1
        yield from _walk(value, key)


def _resolve(path: Path, text: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The file with overrides applied and interpolations resolved, as plain containers."""
    where = str(path)
    try:
        tree = OmegaConf.load(io.StringIO(text))
        assert isinstance(tree, DictConfig)  # _key_lines has seen a mapping
        for override in overrides:
            where = f"override {override!r}"
            if not OVERRIDE.match(override):
                raise UserError("not an override", where=where, allowed="dotted.key=value")
            tree.merge_with_dotlist([override])
        where = str(path)
        return typing.cast(
            "dict[str, Any]", OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
        )
    except yaml.YAMLError as error:
        if where == str(path):
            raise _yaml_error(path, error) from error
        raise UserError("the value is not YAML", where=where) from error
    except OmegaConfBaseException as error:
        raise UserError(str(error).split("\n")[0], where=where) from error


def _yaml_error(path: Path, error: yaml.YAMLError) -> UserError:
    """One line for a syntax error or a duplicate key."""
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    return UserError(f"not valid YAML ({getattr(error, 'problem', None) or error})", where=where)


def _place(path: Path, key: str, lines: Mapping[str, int], overrides: Sequence[str]) -> str:
    """Where a key was set: an override, or file and line (of the nearest section it is in)."""
    for override in reversed(overrides):
        name = re.sub(r"\[(\d+)\]", r".\1", override.split("=", 1)[0])
        inside, around = f"{key}.".startswith(f"{name}."), name.startswith(f"{key}.")
        if inside or (around and key not in lines):
            return f"override {override!r}"
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f"{path}:{lines[key]}" if key else str(path)


def _locate(config: RunConfig, path: Path) -> RunConfig:
    """Replace paths given relative to the YAML by paths relative to the working directory."""
    root = _relative(path.parent / Path(config.data.root or "").expanduser())
    update: dict[str, Any] = {"data": config.data.model_copy(update={"root": root})}
    if config.model is not None:
        base = _find_model(config.model.base, path, "model.base")
        found = tuple(_find_model(a, path, "model.adapters") for a in config.model.adapters)
        update["model"] = config.model.model_copy(update={"base": base, "adapters": found})
    if config.ppo is not None:
        own: dict[str, Any] = {
            "rewards": tuple(term.located(path.parent) for term in config.ppo.rewards)
        }
        if config.ppo.gold is not None and ":" not in config.ppo.gold:
            own["gold"] = _find_model(config.ppo.gold, path, "ppo.gold")
        update["ppo"] = config.ppo.model_copy(update=own)
    if config.evals is not None:
        tasks = {k: _find_definition(task, path, k) for k, task in config.evals.tasks.items()}
        judges = config.evals.located(path.parent)
        update["evals"] = config.evals.model_copy(update={"tasks": tasks, **judges})
    return config.model_copy(update=update)


def _find_definition(task: TaskConfig, path: Path, name: str) -> TaskConfig:
    """The task with its definition's file relative to the working directory."""
    if task.definition is None or not task.definition.endswith((".yaml", ".yml")):
        return task
    found = path.parent / Path(task.definition).expanduser()
    if not found.is_file():
        where = f"{path}: evals.tasks.{name}.definition"
        raise UserError(f"no such file: {task.definition!r}", where=where)
    return task.model_copy(update={"definition": _relative(found)})


def _find_model(name: str, path: Path, key: str) -> str:
    """A model's path where it exists (working directory first, then beside the YAML) or its id."""
    given = Path(name).expanduser()
    for candidate in (given, path.parent / given):
        if candidate.exists():
            return _relative(candidate)
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) and not name.endswith(".gguf"):
        return name
    raise UserError(
        f"no such model: {name!r}",
        where=f"{path}: {key}",
        allowed="a hub id, a folder, a .gguf file or the folder of a finished stage",
        remedy="`make smollm2` fetches this one" if "SmolLM2" in name else "",
    )


def _relative(path: Path) -> str:
    """`path` relative to the working directory, so that a moved project keeps its hashes."""
    return str(path) if path.is_absolute() else Path(os.path.relpath(path)).as_posix()


def write_schema(path: Path = SCHEMA) -> None:
    """Write the JSON schema."""
    write_text_atomic(path, json.dumps(config_schema(), indent=2) + "\n")


if __name__ == "__main__":
    write_schema()
