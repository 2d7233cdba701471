"""From a model's name to its files, and the list of all that are here."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpt2.config import PUBLISHED, ModelConfig
from gpt2.errors import ConfigError, FormatError, ModelNotFoundError
from gpt2.files import read_json
from gpt2.hub import places

PUBLISHER = "openai-community"

_HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A model on this machine.

    Attributes:
        name: what `locate` and `--model` call it.
        path: its folder.
        parameters: how many, by its configuration; None where that cannot be read.
        bytes: of all its files.
        origin: "package", "gpt2 cache" or "hugging face cache".
    """

    name: str
    path: Path
    parameters: int | None
    bytes: int
    origin: str


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder or file of a model: an embedded or published name first, then a path, then a hub id.

    Nothing is downloaded.

    Raises:
        ModelNotFoundError: there is no such model here; the message lists those there are.
    """
    name = os.fspath(name_or_path)
    for folder in _places_of(name):
        if places.holds_model(folder):
            return folder
    if name and os.path.exists(name):  # noqa: PTH110 - unlike Path.exists, false for names no file can have
        return Path(name)
    raise _not_found(name)


def _places_of(name: str) -> Iterator[Path]:
    """Where a model of this name may lie; a path that is there comes before a hub id of the same spelling."""
    short = name.removeprefix(f"{PUBLISHER}/")
    if short in PUBLISHED:
        yield places.in_our_cache(short)
        for hub_id in (f"{PUBLISHER}/{short}", short):  # the second is where older libraries put it
            yield from _found(places.in_huggingface_cache(hub_id))
    elif _HUB_ID.fullmatch(name):
        if not os.path.exists(name):  # noqa: PTH110
            yield places.in_our_cache(name)
            yield from _found(places.in_huggingface_cache(name))
    elif re.fullmatch(r"[\w-][\w.-]*", name):
        yield places.EMBEDDED_FOLDER / name


def _found(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder


def local_models() -> list[LocalModel]:
    """Every GPT-2 that has a name here: in the package, in our cache, in Hugging Face's."""
    found: list[LocalModel] = []
    for folder in _folders(places.EMBEDDED_FOLDER):
        found += _described(folder.name, folder, "package")
    for folder in _folders(places.cache_folder() / "models"):
        found += _described(folder.name.replace("--", "/", 1), folder, "gpt2 cache")
    for repository in _folders(places.huggingface_cache()):
        kind, _, hub_id = repository.name.partition("--")
        folder = places.snapshot(repository) if kind == "models" else None
        if folder is not None:
            found += _described(hub_id.replace("--", "/", 1), folder, "hugging face cache")
    return found


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def _described(name: str, folder: Path, origin: str) -> list[LocalModel]:
    """One model, or none where the folder holds another kind of model or only part of one."""
    if not places.holds_model(folder):
        return []
    try:
        raw: Any = read_json(folder / "config.json")
        if not isinstance(raw, dict) or raw.get("model_type") != "gpt2":
            return []
        sizes = {field.name: raw[field.name] for field in fields(ModelConfig) if raw.get(field.name) is not None}
        parameters = ModelConfig(**({"n_layer": 12, "n_head": 12, "n_embd": 768} | sizes)).parameters
    except (OSError, FormatError):
        return []
    except (ConfigError, TypeError):
        parameters = None
    try:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError:
        return []
    return [LocalModel(name=name, path=folder, parameters=parameters, bytes=size, origin=origin)]


def _not_found(name: str) -> ModelNotFoundError:
    here = ", ".join(dict.fromkeys(model.name for model in local_models())) or "none"
    return ModelNotFoundError(
        f"There is no model {name[:200]!r} on this machine: no name, no path and no hub id that was downloaded. "
        f"Models here: {here}. Published, to be downloaded first: {', '.join(PUBLISHED)}. "
        f"A folder or a .safetensors file is named by its path."
    )
