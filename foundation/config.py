"""Recipes: a YAML file plus dotted overrides become one frozen, fully checked model, or one message that names the key.

Knows nothing of what is configured; the models sit beside the code they configure (``training/config.py``, …).
"""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from foundation.errors import ConfigError


class Config(BaseModel):
    """Base of every recipe model: immutable, and a key that is not a field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, tree: Any) -> Any:
        # To Python true is 1; in a recipe it is a slip of the pen. Not a validator of fields: a union's discriminator allows none.
        for key, value in tree.items() if isinstance(tree, Mapping) else ():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field is not None and _takes_numbers_only(field.annotation):
                raise PydanticCustomError("switch", "found {value}; expected a number", {"key": key, "value": str(value).lower()})
        return tree


def _absolute(path: str) -> str:
    # A job runs in an unpacked copy of the code; there, relative paths mean the folder in which it was submitted.
    base = Path(os.environ.get("RAYBERT_BASE_DIR") or Path.cwd())
    return path if "://" in path else os.path.normpath(base / Path(path).expanduser())


def _absolute_if_local(ref: str) -> str:
    # A REF is a folder only if one is there, or if it is written as a path; otherwise it is a registry or hub name.
    looks_local = ref.startswith((".", "/", "~")) or os.path.isdir(_absolute(ref))
    return _absolute(ref) if looks_local else ref


PathText = Annotated[str, AfterValidator(_absolute)]
"""A file, folder or URI; relative paths are made absolute when the recipe is read, because Ray workers run in another folder."""

RefText = Annotated[str, AfterValidator(_absolute_if_local)]
"""A model reference: a directory, ``NAME@alias``, ``NAME/version``, ``pypi:…`` or a Hugging Face id."""

M = TypeVar("M", bound=Config)


def load(model: type[M], file: Path | None = None, overrides: Sequence[str] = ()) -> M:
    """Read ``file``, apply ``key.sub=value`` overrides in order, validate.

    Args:
        model: The recipe's model.
        file: A YAML file; None starts from the model's defaults.
        overrides: Dotted assignments; the value is read as YAML.

    Raises:
        ConfigError: The file is missing, is not YAML, or a key is unknown, missing or of a wrong type.
    """
    return parse(model, read_tree(file, overrides), where=str(file) if file is not None else "command line")


def read_tree(file: Path | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What ``load`` validates.

    Raises:
        ConfigError: The file is missing or is not YAML, or an override is none.
    """
    tree = read_yaml(file) if file is not None else {}
    for override in overrides:
        _assign(tree, override)
    return tree


def parse(model: type[M], tree: Mapping[str, Any], *, where: str) -> M:
    """Validate ``tree`` as ``model``; ``where`` opens the message when it is not one."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(model, item, where) for item in error.errors())) from None


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: Missing, unreadable, not UTF-8, not YAML, or not a mapping.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; pass an existing recipe with -c") from None
    except IsADirectoryError:
        raise ConfigError(f"{file}: is a folder; a recipe is a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: byte {error.start} is not UTF-8; save the recipe as UTF-8") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise ConfigError(f"{file}:{line} not valid YAML: {getattr(error, 'problem', error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: found a {type(tree).__name__}, expected a mapping of keys to values")
    return tree


def dump_yaml(config: BaseModel) -> str:
    """Write a config as YAML that ``load`` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def with_values(config: M, values: Mapping[str, Any], *, where: str) -> M:
    """Return ``config`` with dotted keys replaced, validated anew."""
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        _set(tree, key, value, where)
    return parse(type(config), tree, where=where)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted keys."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def _assign(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"command line: {override!r}: expected KEY=VALUE, for example schedule.peak_lr=1e-4")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    _set(tree, key, _number(parsed), "command line")


def _number(value: Any) -> Any:
    # YAML 1.1 reads 1e-4 as text; in a recipe it is a number.
    if isinstance(value, str):
        try:
            return float(value) if "e" in value.lower() else value
        except ValueError:
            return value
    return value


def _set(tree: dict[str, Any], key: str, value: Any, where: str) -> None:
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{where}: {key}: {parent} holds a value, not a group of keys")
        node = child
    node[last] = value


def _explain(model: type[BaseModel], item: Any, where: str) -> str:
    key = ".".join(str(part) for part in item["loc"] if not _is_tag(part)) or "recipe"
    if item["type"] == "extra_forbidden":
        known = sorted(_fields_at(model, item["loc"][:-1]))
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{where}: {key}: unknown key; {hint}known keys: {', '.join(known)}"
    if item["type"] == "missing":
        return f"{where}: {key}: missing; it has no default, so give it in the recipe or as {key}=VALUE"
    if item["type"] in ("model_type", "dict_type"):
        inside = sorted(_fields_at(model, item["loc"])) if item["type"] == "model_type" else []
        keys = f": {', '.join(inside)}" if inside else ""
        return f"{where}: {key}: found {item['input']!r}; expected a group of keys{keys}"
    if item["type"] == "switch":
        key = ".".join([*([key] if item["loc"] else []), item["ctx"]["key"]])
        return f"{where}: {key}: {item['msg']}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}: {key}: {message}"
    return f"{where}: {key}: found {item['input']!r}; {message[0].lower()}{message[1:]}"


def _fields_at(model: type[BaseModel], path: Sequence[Any]) -> set[str]:
    """Names of the fields of the model that ``path`` leads to."""
    current: list[type[BaseModel]] = [model]
    for part in path:
        following: list[type[BaseModel]] = []
        if _is_tag(part):
            current = [candidate for candidate in current if candidate.__name__.lower().startswith(part[1:-1])] or current
            continue
        for candidate in current:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                following += _models_in(field.annotation)
        current = following or current
    return {name for candidate in current for name in candidate.model_fields}


def _is_tag(part: Any) -> bool:
    """Whether part of an error's place names a member of a union, not a key: written ``<pretrain>``, which begins ``PretrainConfig``."""
    return str(part).startswith("<")


def _takes_numbers_only(annotation: Any) -> bool:
    kinds = set(typing.get_args(annotation)) or {annotation}
    return bool(kinds & {int, float}) and bool not in kinds


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for argument in typing.get_args(annotation) for found in _models_in(argument)]
