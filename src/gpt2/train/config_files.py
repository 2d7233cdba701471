"""Settings of a run from a recipe, a TOML file or nested mappings, and back.

A recipe is a TOML file inside the package (`gpt2/recipes`). What a file leaves out has the default of `config`;
`--set section.name=value` overrides both. The run's folder keeps the resolved tree as TOML, itself a usable recipe.
"""

import copy
import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from gpt2.errors import ConfigError, SettingError, did_you_mean
from gpt2.files import parse_toml, read_bounded
from gpt2.train.config import TrainConfig

T = TypeVar("T")
_LIMIT_BYTES = 1 << 20
_MOST_BITS = 1000  # a larger number does not fit a float, and is too long to print


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a recipe of the package by its name, or a TOML file, and apply `section.name=value` overrides.

    Raises:
        SettingError: no such recipe or file, not TOML, an unknown key, or an invalid value.
    """
    return config_from(_read_toml(str(recipe)), overrides)


def config_from(tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> TrainConfig:
    """A configuration from nested mappings, such as those of `tomllib` and `as_tree`, and overrides of them.

    Raises:
        SettingError: an unknown key (the nearest one is named), a missing key, or an invalid value.
    """
    return build(TrainConfig, overridden(tree, overrides))


def overridden(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested mappings with the overrides applied, their values not yet checked."""
    changed = copy.deepcopy(dict(tree))
    for override in overrides:
        _apply(changed, override)
    return changed


def as_tree(config: TrainConfig) -> dict[str, Any]:
    """Nested dicts, lists and numbers, which `config_from` reads and JSON can hold."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def to_toml(config: TrainConfig) -> str:
    """The resolved configuration as TOML, which `load_config` reads back as an equal one."""
    lines: list[str] = []
    for section, values in as_tree(config).items():
        lines += [f"[{section}]", *(f"{key} = {_toml_value(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


def recipe_names() -> list[str]:
    """The recipes inside the package."""
    folder = resources.files("gpt2.recipes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _read_toml(recipe: str) -> dict[str, Any]:
    if recipe in recipe_names():
        data = (resources.files("gpt2.recipes") / f"{recipe}.toml").read_bytes()
    elif Path(recipe).is_file():
        data = read_bounded(Path(recipe), _LIMIT_BYTES)
    else:
        advice = did_you_mean(recipe, *recipe_names(), otherwise="Name one of those, or a TOML file.")
        raise SettingError(f"There is no recipe {recipe!r}: here are {', '.join(recipe_names())}. {advice}")
    return parse_toml(data, recipe, SettingError)


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *sections, key = path.strip().split(".")
    if not equals or not sections or not all((*sections, key)):
        raise SettingError(f"{override!r} cannot be set: write section.name=value, such as optim.lr=0.001.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a word needs no quotes
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path} cannot be set to {text!r:.60}: {error}.") from None
    for section in sections:
        inner: object = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise SettingError(f"{override!r} cannot be set: {section!r} has no settings inside it.")
        tree = inner
    tree[key] = value


def build(cls: type[T], values: Any, where: str = "") -> T:
    """A section of settings, or the whole tree, from values checked against its declared types."""
    if not isinstance(values, Mapping):
        raise SettingError(f"{where.rstrip('.')} must be a section of settings: got {values!r}.")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]  # always a dataclass
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
            advice = f"Did you mean {where}{near[0]}?" if near else f"Known are {', '.join(fields)}."
            raise SettingError(f"There is no setting {where}{key}. {advice}")
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise SettingError(f"The setting {where}{name} is missing.")
    converted = {key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except SettingError:
        raise
    except ConfigError as error:  # of the model
        raise SettingError(f"{where}{error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type `kind`. The only conversion between types is from a whole number to a float."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise SettingError(f"{where} is out of every range: it has {value.bit_length():,} bits.")
    if dataclasses.is_dataclass(kind):
        return build(kind, value, f"{where}.")  # pyright: ignore[reportArgumentType]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value in inner:
            return value
        raise SettingError(f"{where} must be one of {', '.join(inner)}: got {value!r}.")
    if origin is tuple and isinstance(value, list | tuple):
        inner = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(value) == len(inner):
            return tuple(_convert(i, v, where) for i, v in zip(inner, value, strict=True))
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(key): _convert(inner[1], v, f"{where}.{key}") for key, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    raise SettingError(f"{where} must be {names.get(kind, 'written as in the recipes')}: got {value!r}.")


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # TOML and JSON write numbers, booleans and strings alike
