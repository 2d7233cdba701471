"""Reading and writing safetensors: a length, a JSON header, and the numbers.

Not read with the library, because NumPy has no bfloat16 and because a file must be checked before anything is
allocated: the header is bounded, and every name, type, shape and offset in it is checked against the file's true size.
The numbers are mapped, not read. Writing streams one array at a time.

Format: 8 bytes N (little-endian), N bytes of JSON {name: {dtype, shape, data_offsets}}, then the data, every byte
of which belongs to exactly one array (https://huggingface.co/docs/safetensors).
"""

import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray

from gpt2.checkpoint.forms import NUMPY_TYPE
from gpt2.checkpoint.unfinished import Journal, array_file
from gpt2.checkpoint.weights import StoredArray
from gpt2.errors import FormatError
from gpt2.files import parse_json

HEADER_LIMIT_BYTES = 768 << 10  # some 6,000 arrays (a GPT-2 XL has 580); a hostile one is refused within 100 ms
_DIMENSIONS_LIMIT = 8
_SIZE_LIMIT = 1 << 48
_ALIGNMENT_BYTES = 64

_ITEM_BYTES = {name: np.dtype(kind).itemsize for name, kind in NUMPY_TYPE.items()}
_FIELDS = {"dtype", "shape", "data_offsets"}


class _Entry(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    entries: tuple[_Entry, ...]  # in the order of the data
    metadata: dict[str, str]
    data_start: int


def read_safetensors(path: Path) -> dict[str, StoredArray]:
    """Every array of a file, mapped into memory, in the order of the data.

    Raises:
        FormatError: the file is truncated, damaged or hostile; nothing was allocated for what it claims.
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        header = _read_header(file, path)
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {entry.name: _mapped(entry, mapping, header.data_start) for entry in header.entries}


def read_metadata(path: Path) -> dict[str, str]:
    """The free text that a file's header carries under `__metadata__`.

    Raises:
        FormatError, OSError: as `read_safetensors`.
    """
    with path.open("rb") as file:
        return _read_header(file, path).metadata


def _mapped(entry: _Entry, mapping: mmap.mmap, data_start: int) -> StoredArray:
    data = np.frombuffer(mapping, NUMPY_TYPE[entry.dtype], prod(entry.shape), data_start + entry.begin)
    if not data.flags.aligned:  # only in unusual writers' files; the copy guarantees alignment downstream
        data = data.copy()
    return StoredArray(data=data.reshape(entry.shape), dtype=entry.dtype)


def _read_header(file: IO[bytes], path: Path) -> _Header:
    file_bytes = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if file_bytes < 8 + 2 or length > file_bytes - 8:
        raise FormatError(
            f"{path} is not a whole safetensors file: its header should take {length:,} bytes and the file has "
            f"{file_bytes:,}. Copy or download it again."
        )
    if length > HEADER_LIMIT_BYTES:
        raise FormatError(f"{path} has a header of {length:,} bytes; at most {HEADER_LIMIT_BYTES:,} are read.")
    raw = parse_json(file.read(length), f"the header of {path}")
    if not isinstance(raw, dict):
        raise FormatError(f"The header of {path} is not a JSON object.")
    fields = cast("dict[str, Any]", raw)
    metadata = _checked_metadata(fields.pop("__metadata__", {}), path)
    entries = sorted(
        (_checked_entry(name, facts, path) for name, facts in fields.items()),
        key=lambda entry: (entry.begin, entry.end),
    )
    _check_cover(entries, file_bytes - 8 - length, path)
    return _Header(entries=tuple(entries), metadata=metadata, data_start=8 + length)


def _checked_metadata(raw: object, path: Path) -> dict[str, str]:
    if not isinstance(raw, dict):
        raise FormatError(f"{path}: __metadata__ is not an object of texts.")
    metadata = cast("dict[str, object]", raw)
    if not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{path}: __metadata__ holds something else than texts.")
    return cast("dict[str, str]", metadata)


def _checked_entry(name: str, raw: object, path: Path) -> _Entry:
    if not isinstance(raw, dict) or cast("dict[str, object]", raw).keys() != _FIELDS:
        raise _refused(name, path, "is not described by exactly dtype, shape and data_offsets")
    facts = cast("dict[str, object]", raw)
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _refused(name, path, f"has the type {str(dtype)[:20]!r}; known are {', '.join(_ITEM_BYTES)}")
    if not _are_sizes(shape, most=_DIMENSIONS_LIMIT):
        raise _refused(name, path, f"has a shape that is no list of at most {_DIMENSIONS_LIMIT} sizes")
    if not _are_sizes(offsets, most=2) or len(offsets) != 2:
        raise _refused(name, path, "has data_offsets that are not two positions")
    begin, end = offsets
    wanted_bytes = prod(shape) * _ITEM_BYTES[dtype]
    if end - begin != wanted_bytes:
        raise _refused(name, path, f"needs {wanted_bytes:,} bytes by its shape and has {end - begin:,}")
    return _Entry(name, dtype, tuple(shape), begin, end)


def _refused(name: str, path: Path, fault: str) -> FormatError:
    return FormatError(f"{path}: {name[:80]!r} {fault}.")


def _are_sizes(value: object, *, most: int) -> TypeGuard[list[int]]:
    if not isinstance(value, list) or len(cast("list[object]", value)) > most:
        return False
    for size in cast("list[object]", value):  # noqa: SIM110 - a plain loop is faster, and long headers spend their time here
        if type(size) is not int or not 0 <= size < _SIZE_LIMIT:
            return False
    return True


def _check_cover(entries: list[_Entry], data_bytes: int, path: Path) -> None:
    """Check that every byte of the data belongs to exactly one array: no hole, no overlap, nothing left over."""
    position = 0
    for entry in entries:
        if entry.begin != position:
            fault = "overlaps another" if entry.begin < position else "leaves a hole before it"
            raise FormatError(f"{path}: {entry.name[:80]!r} starts at byte {entry.begin:,} of the data and {fault}.")
        position = entry.end
    if position != data_bytes:
        raise FormatError(
            f"{path} holds {data_bytes:,} bytes of data and its header describes {position:,}: it is truncated or "
            f"damaged. Copy or download it again."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LazyArray:
    """An array to write, whose values are fetched only then.

    Attributes:
        dtype: safetensors' name of the type.
        shape: its shape.
        pieces: called once; yields the values in row-major order, in one piece or several (BF16 as uint16).
    """

    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[NDArray[Any]]]


def write_safetensors(
    path: Path,
    arrays: Mapping[str, LazyArray | StoredArray],
    *,
    metadata: Mapping[str, str] | None = None,
    journal: Journal | None = None,
) -> None:
    """Write a file atomically, one piece of one array at a time; equal input gives equal bytes.

    Arrays of wider types come first, each kind in the order given, and the data starts at a multiple of 64 bytes,
    so every array is aligned. `metadata` is added to `{"format": "pt"}`, which other readers look for. With a
    `journal` the file is not atomic, but resumes where an interrupted start stopped.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was there before stays.
    """
    lazy = {name: array if isinstance(array, LazyArray) else _as_lazy(array) for name, array in arrays.items()}
    ordered = sorted(lazy.items(), key=lambda item: -_ITEM_BYTES[item[1].dtype])
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    position = 0
    for name, array in ordered:
        end = position + _bytes_of(array)
        header[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(8 + len(text)) % _ALIGNMENT_BYTES)
    assert len(text) <= HEADER_LIMIT_BYTES, f"{len(header)} arrays are more than can be read back from one file"
    with array_file(path, journal) as out:
        out.file.write(len(text).to_bytes(8, "little") + text)
        for name, array in ordered:
            out.append(name, _bytes_of(array), partial(_typed_pieces, array))


def _typed_pieces(array: LazyArray) -> Iterator[NDArray[Any]]:
    return (np.ascontiguousarray(piece, dtype=NUMPY_TYPE[array.dtype]) for piece in array.pieces())


def _as_lazy(array: StoredArray) -> LazyArray:
    assert array.scale is None, "scales are written as arrays of their own"
    return LazyArray(dtype=array.dtype, shape=array.shape, pieces=lambda: (block.data for block in array.blocks()))


def _bytes_of(array: LazyArray) -> int:
    return prod(array.shape) * _ITEM_BYTES[array.dtype]
