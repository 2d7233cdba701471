"""Describing a file of `torch.save` without unpickling it.

`pickle_machine` reads its pickles and calls nothing. Both of torch's layouts are supported: the zip archive (since 1.6;
torch/serialization.py, _save) and the older sequence of pickles with the numbers after them (_legacy_save). Run as a
program (`python -m gpt2.checkpoint.torch_pickle FILE`) it writes the description as JSON. Readers run it so, to confine
a hostile file to a separate process.
"""

import ctypes
import json
import os
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from gpt2.checkpoint.pickle_machine import ITEMS_LIMIT, PICKLE_LIMIT_BYTES, RefusedError, Tensor, load

_MEMBERS_LIMIT = 1 << 16
_DEPTH_LIMIT = 16
_NAME_LIMIT = 1000  # characters of a value's name, and of a string value: memo references can make a small file huge
_INTEGER_LIMIT_BITS = 64
_BYTE_ORDER_BYTES = 16
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # linux/sched.h, CLONE_NEWUSER and CLONE_NEWNET

_OF_WEIGHTS = ("model", "state_dict", "model_state_dict")  # scripts' names for the weights among other entries
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def flatten(content: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor, number, string and boolean in `content`, named by the keys leading to it, joined by dots.

    Dictionaries that contain one another many times are small in the file but could be endless here, so everything
    visited is counted against a limit.
    """
    passed = 0

    def below(value: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        nonlocal passed
        passed += 1
        if passed > ITEMS_LIMIT:
            raise RefusedError(f"it has more than {ITEMS_LIMIT:,} values")
        if depth > _DEPTH_LIMIT:
            raise RefusedError(f"it is nested more than {_DEPTH_LIMIT} deep")
        if isinstance(value, dict):
            for key, item in cast("dict[Any, Any]", value).items():
                name = str(key)
                if len(prefix) + len(name) > _NAME_LIMIT:
                    raise RefusedError(f"it has a name of more than {_NAME_LIMIT:,} characters")
                yield from below(item, f"{prefix}.{name}" if prefix else name, depth + 1)
        elif (
            isinstance(value, Tensor | float | None)
            or (isinstance(value, int) and value.bit_length() <= _INTEGER_LIMIT_BITS)
            or (isinstance(value, str) and len(value) <= _NAME_LIMIT)
        ):
            yield prefix, value

    return below(content, "", 0)


def read(path: Path) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The content of a file, and the place of each storage in it: first byte and number of bytes.

    Raises:
        RefusedError: it is not such a file, or is damaged or hostile.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            content, places = _read_zip(path, file)
        else:
            file.seek(0)
            content, places = _read_legacy(file)
    return content, places


def _way_to_weights(content: Any) -> str:
    """The prefix of the weights' names, such as "model.", if the weights are one dictionary among other entries.

    If only names begin so, and no dictionary has that key, the entries beside them belong to the model too.
    """
    way = ""
    for key in _OF_WEIGHTS:
        if isinstance(content, dict) and isinstance(inner := cast("dict[Any, Any]", content).get(key), dict):
            way, content = f"{way}{key}.", cast("dict[Any, Any]", inner)
    return way


def _flattened(content: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    characters = 0
    for name, value in flatten(content):
        characters += len(name) + (len(value) if isinstance(value, str) else 0)
        if characters > PICKLE_LIMIT_BYTES:
            raise RefusedError(f"it has names and texts of more than {PICKLE_LIMIT_BYTES:,} characters")
        if name in found:
            raise RefusedError(f"the name {name[:80]!r} is given twice")
        found[name] = value
    return found


def _read_zip(path: Path, file: IO[bytes]) -> tuple[Any, dict[str, tuple[int, int]]]:
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MEMBERS_LIMIT:
                raise RefusedError(f"it has more than {_MEMBERS_LIMIT:,} members")
            places = _places(members, file, size)
            pickles = [member for member in members if member.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > PICKLE_LIMIT_BYTES:
                raise RefusedError("it has not one data.pkl of an ordinary size")
            root = pickles[0].filename.removesuffix("data.pkl")
            order = places.get(root + "byteorder")
            if order and (order[1] > _BYTE_ORDER_BYTES or archive.read(root + "byteorder") != b"little"):
                raise RefusedError("it was written on a big-endian machine")
            with archive.open(pickles[0]) as stream:
                content = load(stream)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise RefusedError(f"its archive is damaged: {str(error)[:100]}") from error
    return content, {
        name.removeprefix(f"{root}data/"): place for name, place in places.items() if name.startswith(f"{root}data/")
    }


def _places(members: list[zipfile.ZipInfo], file: IO[bytes], size: int) -> dict[str, tuple[int, int]]:
    """The places of the members' bytes; checks that they are uncompressed, unique, in the file, and do not overlap."""
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        name = member.filename
        if name in places:
            raise RefusedError(f"the member {name[:80]!r} is there twice")
        if ".." in name.split("/") or name.startswith("/") or "\\" in name:
            raise RefusedError(f"the member {name[:80]!r} leads out of the archive")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise RefusedError(f"the member {name[:80]!r} is compressed, which torch does not do: it may be a zip bomb")
        if member.flag_bits & 1:
            raise RefusedError(f"the member {name[:80]!r} is encrypted")
        file.seek(member.header_offset)
        header = file.read(30)
        if member.header_offset < end or len(header) < 30 or header[:4] != b"PK\3\4":
            raise RefusedError(f"the member {name[:80]!r} overlaps another, or is not where it should be")
        begin = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        end = begin + member.file_size
        if end > size:
            raise RefusedError(f"the member {name[:80]!r} ends at byte {end:,}, and the file has {size:,}")
        places[name] = (begin, member.file_size)
    return places


def _read_legacy(file: IO[bytes]) -> tuple[Any, dict[str, tuple[int, int]]]:
    size = os.fstat(file.fileno()).st_size
    if load(file) != _LEGACY_MAGIC or load(file) != _LEGACY_PROTOCOL:
        raise RefusedError("it is not a file of torch.save")
    system = load(file)
    if not isinstance(system, dict) or cast("dict[str, Any]", system).get("little_endian") is not True:
        raise RefusedError("it was written on a big-endian machine")
    dtypes: dict[str, str] = {}
    content = load(file, dtypes)
    keys = load(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in cast("list[Any]", keys)):
        raise RefusedError("its list of storages is damaged")
    item_bytes = {key: ITEM_BYTES[dtype] for key, dtype in dtypes.items()}
    places: dict[str, tuple[int, int]] = {}
    for key in cast("list[str]", keys):
        count = int.from_bytes(file.read(8), "little")
        begin = file.tell()
        if key not in item_bytes or key in places or begin + count * item_bytes[key] > size:
            raise RefusedError(f"its storage {key[:40]!r} is damaged, cut off or of no tensor")
        places[key] = (begin, count * item_bytes[key])
        file.seek(begin + count * item_bytes[key])
    return content, places


def describe(path: Path) -> dict[str, Any]:
    """The description of a file for JSON: `{"error": …}`, or its tensors, the weights' prefix, and its settings."""
    try:
        content, places = read(path)
        found = _flattened(content)
        tensors: dict[str, Any] = {}
        for name, value in found.items():
            if isinstance(value, Tensor):
                begin, size = places.get(value.storage.key, (0, -1))
                if size < value.storage.length * ITEM_BYTES[value.storage.dtype]:
                    raise RefusedError(f"the numbers of {name[:80]!r} are not all there")
                tensors[name] = {
                    "dtype": value.storage.dtype,
                    "shape": value.shape,
                    "strides": value.strides,
                    "begin": begin + value.offset * ITEM_BYTES[value.storage.dtype],
                    "end": begin + size,
                }
    except RefusedError as error:
        return {"error": str(error)}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    settings = {name: value for name, value in found.items() if not isinstance(value, Tensor)}
    return {"tensors": tensors, "weights": _way_to_weights(content), "settings": settings}


def confine() -> bool:
    """Limit this process's memory and time, and cut off its network if possible; return whether that was possible."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    except (ImportError, OSError, ValueError):  # Windows, or a stricter limit already
        pass
    if sys.platform != "linux":
        return False
    try:
        unshare = ctypes.CDLL(None).unshare
    except (OSError, AttributeError):
        return False
    # An empty network namespace: root may make one; others only if the system allows user namespaces.
    return unshare(_NEW_NETWORK) == 0 or unshare(_NEW_USER | _NEW_NETWORK) == 0


def _main() -> None:
    confine()
    facts = describe(Path(sys.argv[1]))
    with os.fdopen(1, "w", encoding="utf-8") as out:
        json.dump(facts, out)


if __name__ == "__main__":
    _main()
