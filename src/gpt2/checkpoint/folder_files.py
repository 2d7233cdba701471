"""The files of a model's folder that its other files name; they must be in that folder."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from gpt2.checkpoint.weights import StoredArray
from gpt2.errors import FormatError
from gpt2.files import read_json


def inside(folder: Path, name: str) -> Path:
    """The path of a file that a folder names, which must be in that folder.

    Only the links of Hugging Face's cache may lead out: from snapshots/REVISION/ to blobs/.
    """
    if name in ("", ".", "..") or re.search(r"[/\\:\0]", name):
        raise FormatError(f"{folder} names the file {name[:80]!r}; only names of files in the folder itself are read.")
    path = folder / name
    if not path.is_file():
        raise FormatError(f"{folder} is not complete: there is no file {name[:80]!r}. Download or copy it again.")
    root, target = folder.resolve(), path.resolve()
    in_cache = root.parent.name == "snapshots" and target.parent == root.parent.parent / "blobs"
    if target.parent != root and not in_cache:
        raise FormatError(f"{path} is a link that leads out of its folder, to {target}. Copy the file there instead.")
    return path


def read_settings(path: Path, name: str) -> Any:
    """Read the JSON file with a model's shape, in the folder at `path` or in the folder of the file at `path`.

    Raises:
        FormatError: it is missing, or cannot be read.
    """
    folder = path.parent if path.is_file() else path
    if not (folder / name).is_file():
        raise FormatError(
            f"{path} cannot be read: there is no {name} in {folder}, and the number of heads stands nowhere else. "
            f"Put the model's {name} there."
        )
    return read_json(inside(folder, name))


def read_shards(
    folder: Path, index: str, suffix: str, read: Callable[[Path], Mapping[str, StoredArray]]
) -> dict[str, StoredArray]:
    """Every array of a sharded model; the index and the shards must agree.

    Args:
        folder: that holds them.
        index: the name of the index in it.
        suffix: of a shard's name.
        read: returns the arrays of one shard.

    Raises:
        FormatError: a file is damaged or missing, or names a file outside the folder.
    """
    raw: Any = read_json(inside(folder, index), limit_bytes=4 << 20)
    shard_of: Any = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise FormatError(f"{folder / index} has no weight_map from names to files.")
    shards = sorted(set(cast("dict[str, str]", shard_of).values()))
    if others := [shard for shard in shards if not shard.endswith(suffix)]:
        raise FormatError(f"{folder / index} names {others[0][:80]!r}, which is not a {suffix[1:]} file.")
    arrays: dict[str, StoredArray] = {}
    for shard, path in [(shard, inside(folder, shard)) for shard in shards]:
        for name, array in read(path).items():
            if shard_of.get(name) != shard:
                raise FormatError(f"{shard} holds {name[:80]!r}, and {index} does not say so.")
            arrays[name] = array
    if missing := [name for name in shard_of if name not in arrays]:
        raise FormatError(f"{folder / index} names {missing[0][:80]!r}, which is not in its shard.")
    return arrays
