"""From a model's name to its files, and a list of all models here."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpt2.config import PUBLISHED, ModelConfig, published_with_sizes, truth_of
from gpt2.errors import ConfigError, DownloadError, FormatError, ModelNotFoundError
from gpt2.files import read_json
from gpt2.hub import places
from gpt2.hub.places import HUB_ID, PUBLISHER


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalModel:
    """A model on this machine.

    Attributes:
        name: for `locate` and `--model`.
        path: its folder.
        parameters: how many, by its configuration; None if that cannot be read.
        bytes: of all its files.
        origin: "package", "gpt2 cache" or "hugging face cache".
        used: the access time of its weights, in seconds since 1970; most systems update it at most once a day.
    """

    name: str
    path: Path
    parameters: int | None
    bytes: int
    origin: str
    used: float


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder or file of a model: an embedded or published name first, then a path, then a hub id.

    Nothing is downloaded.

    Raises:
        ModelNotFoundError: there is no such model here; the message lists the models.
    """
    name = _name_of(name_or_path)
    for folder in _places_of(name):
        if folder is not None and places.holds_model(folder):
            return folder
    if name and os.path.exists(name):  # noqa: PTH110 - unlike Path.exists, false for names no file can have
        return Path(name)
    raise _not_found(name)


def locate_or_download(name_or_path: str | os.PathLike[str], *, download: bool) -> Path:
    """Like `locate`, but fetch a missing model if `download` is set.

    Raises:
        ModelNotFoundError: there is no such model here, and `download` is not set.
        DownloadError: it cannot be fetched.
    """
    download = truth_of("download", download, DownloadError)
    try:
        return locate(name_or_path)
    except ModelNotFoundError:
        if not download:
            raise
        from gpt2.hub import fetching

        return fetching.download(fetching.plan(os.fspath(name_or_path)))


def _name_of(given: object) -> str:
    if not isinstance(given, str | os.PathLike) or not isinstance(name := os.fspath(given), str):
        raise ModelNotFoundError(
            f"There is no model {given!r:.60}: a model is asked for by its name or its path. Give a text, or a "
            f"pathlib.Path; `gpt2 models` lists those here."
        )
    return name


def _places_of(name: str) -> Iterator[Path | None]:
    """Where a model of this name may be; an existing path comes before a hub id of the same spelling."""
    short = name.removeprefix(f"{PUBLISHER}/")
    if short in PUBLISHED:
        yield places.in_our_cache(short)
        for hub_id in (f"{PUBLISHER}/{short}", short):  # the second is where older libraries put it
            yield places.in_huggingface_cache(hub_id)
    elif HUB_ID.fullmatch(name):
        if not os.path.exists(name):  # noqa: PTH110
            yield places.in_our_cache(name)
            yield places.in_huggingface_cache(name)
    elif re.fullmatch(r"[\w-][\w.-]*", name):
        yield places.EMBEDDED_FOLDER / name


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
    """One model, or none if the folder holds another kind of model or only part of one."""
    if not places.holds_model(folder):
        return []
    try:
        sizes = _sizes(folder)
        facts = [file.stat() for file in folder.rglob("*") if file.is_file()]
    except (OSError, FormatError):
        return []
    if sizes is None:
        return []
    try:
        parameters = ModelConfig(**sizes).parameters
    except (ConfigError, TypeError):
        parameters = None
    largest = max(facts, key=lambda fact: fact.st_size)
    size = sum(fact.st_size for fact in facts)
    return [LocalModel(name=name, path=folder, parameters=parameters, bytes=size, origin=origin, used=largest.st_atime)]


def _sizes(folder: Path) -> dict[str, Any] | None:
    """The model's shape by the folder's configuration; None for another kind of model."""
    if (folder / "config.json").is_file():
        raw: Any = read_json(folder / "config.json")
        if not isinstance(raw, dict) or raw.get("model_type") != "gpt2":
            return None
        sizes = {field.name: raw[field.name] for field in fields(ModelConfig) if raw.get(field.name) is not None}
        return {"n_layer": 12, "n_head": 12, "n_embd": 768} | sizes
    if not (folder / "hparams.json").is_file():
        return None
    raw = read_json(folder / "hparams.json")
    names = {
        "n_vocab": "vocab_size",
        "n_ctx": "n_positions",
        "n_embd": "n_embd",
        "n_head": "n_head",
        "n_layer": "n_layer",
    }
    if not isinstance(raw, dict):
        return None
    return {ours: raw.get(theirs) for theirs, ours in names.items()}


def removable(name: str) -> list[Path]:
    """The folders in the caches that removing this model would delete, including unfinished downloads."""
    short = name.removeprefix(f"{PUBLISHER}/")
    hub_ids = [f"{PUBLISHER}/{short}", short] if short in PUBLISHED else [name]
    if not all(re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", hub_id) for hub_id in hub_ids):
        return []
    ours = places.in_our_cache(short if short in PUBLISHED else name)
    found = [ours, ours.with_name(f".unfinished-{ours.name}"), *map(places.huggingface_repository, hub_ids)]
    return [folder for folder in found if folder.is_dir()]


def remove(name: str) -> int:
    """Delete a model from the caches, and return the bytes freed. A model in the package is not touched.

    Raises:
        ModelNotFoundError: no cache has it.
        OSError: it cannot be deleted.
    """
    folders = removable(name)
    if not folders:
        if any(model.name == name for model in local_models()):
            raise ModelNotFoundError(f"{name} is part of the package and cannot be removed alone.")
        if name and os.path.exists(name):  # noqa: PTH110 - unlike Path.exists, false for names no file can have
            raise ModelNotFoundError(
                f"{name[:200]} is not in a cache, and nothing else is removed. Delete it yourself, if it is to go."
            )
        raise _not_found(name)
    freed = 0
    for folder in folders:
        freed += sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
        shutil.rmtree(folder)
    return freed


def _not_found(name: str) -> ModelNotFoundError:
    here = ", ".join(dict.fromkeys(model.name for model in local_models())) or "none"
    short = name.removeprefix(f"{PUBLISHER}/")
    if short in PUBLISHED or HUB_ID.fullmatch(name):
        return ModelNotFoundError(
            f"The model {name!r} is not on this machine. `gpt2 download {short}` fetches it, as does --download "
            f"(download=True). Models here: {here}."
        )
    return ModelNotFoundError(
        f"There is no model {name[:200]!r} on this machine: no name, no path and no hub id that was downloaded. "
        f"Models here: {here}. Published, for `gpt2 download`: {published_with_sizes()}. "
        f"A folder or a .safetensors file is named by its path."
    )
